// to_string and parse are inverse; errors point; pictures show what is there.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "attn/mask.h"
#include "mask/rules.h"

namespace attn {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string error_of(const std::string& text) {
  try {
    Mask::parse(text);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "no error";
}

TEST(MaskText, RoundTripsRandomMasks) {
  test::Random random(5);
  int compared = 0;
  for (int i = 0; i < 500; ++i) {
    const Geometry g = random.geometry(true);
    const test::Ruled ruled = random.mask(g, true, 3);
    if (!ruled.structured) continue;
    const std::string text = ruled.mask.to_string();
    const Mask back = Mask::parse(text);
    ASSERT_EQ(back.to_string(), text);
    ASSERT_EQ(back.pairs(g), ruled.mask.pairs(g)) << text;
    for (std::int64_t b = 0; b < g.batch; ++b) {
      for (std::int64_t h = 0; h < g.heads; ++h) {
        for (std::int64_t q = 0; q < g.q_len; q += 9) {
          ASSERT_EQ(back.row(g, b, h, q), ruled.mask.row(g, b, h, q)) << text;
        }
      }
    }
    ++compared;
  }
  EXPECT_GT(compared, 200);
}

TEST(MaskText, ReadsWhatPeopleType) {
  const auto same = [](const char* typed, const char* meant) {
    EXPECT_EQ(Mask::parse(typed).to_string(), meant);
  };
  same("causal", "causal");
  same("  CAUSAL ", "causal");
  same("full()", "full");
  same("causal & window(255,0)", "causal & window(255, 0)");
  same("window:255,0", "window(255, 0)");
  same("window : -1 , 7&causal", "window(-1, 7) & causal");
  same("causal&(window(255,0)|global(0,1))", "causal & (window(255, 0) | global_tokens(0, 1))");
  same("causal|prefix:16", "causal | prefix(16)");
}

TEST(MaskText, ReadsEveryName) {
  const auto same = [](const char* typed, const char* meant) {
    EXPECT_EQ(Mask::parse(typed).to_string(), meant);
  };
  same("dilated:3,0,2", "dilated_window(3, 0, 2)");
  same("dilated-window(3,0,2)", "dilated_window(3, 0, 2)");
  same("global:5,1,5", "global_tokens(1, 5)");
  same("global_tokens()", "global_tokens()");
  same("documents:10,20,30", "documents(10, 20, 30)");
  same("prefix:16", "prefix(16)");
  same("padding:7,9", "padding(7, 9)");
  same("padding-left:7,9", "padding_left(7, 9)");
  same("blocks(64; 0-0,0-1)", "blocks(64; 0-0, 0-1)");
  same("blocks:64;0-0,-1--2", "blocks(64; -1--2, 0-0)");
  same("blocks:64:0-0", "blocks(64; 0-0)");
  same("blocks(64 ; )", "blocks(64;)");
  same("block-window(16, 1, -1)", "block_window(16, 1, -1)");
  same("global_blocks:64,1,0", "global_blocks(64, 1, 0)");
  same("random_blocks:64,3,7", "random_blocks(64, 3, 7)");
  same("random-blocks(64, 3, -1, 1, 1, 1)", "random_blocks(64, 3, -1)");
  same("random_blocks(64, 3, 7, 2, 0, 1)", "random_blocks(64, 3, 7, 2, 0, 1)");
  same("bigbird(64, 2, 5)",
       "block_window(64, 1, 1) | global_blocks(64, 1, 1) | random_blocks(64, 2, 5)");
  same("per-head(causal; blocks(4;); blocks:4;1-1; window:1,0|full)",
       "per_head(causal; blocks(4;); blocks(4; 1-1); window(1, 0) | full)");
  same("per_batch(causal; per_head(full; causal))", "per_batch(causal; per_head(full; causal))");
  same("((full|causal))&full", "(full | causal) & full");
  same("full & full & (full & causal)", "full & full & full & causal");
}

TEST(MaskText, AndBindsTighterThanOr) {
  Geometry g;
  g.q_len = g.k_len = 9;
  EXPECT_EQ(Mask::parse("prefix:3 | causal & window:1,0").pairs(g),
            (Mask::prefix(3) | (Mask::causal() & Mask::window(1, 0))).pairs(g));
  EXPECT_NE(Mask::parse("prefix:3 | causal & window:1,0").pairs(g),
            Mask::parse("(prefix:3 | causal) & window:1,0").pairs(g));
}

TEST(MaskText, ErrorsPointAndName) {
  EXPECT_THAT(error_of("causal & windw(3,0)"),
              HasSubstr("[mask] column 10 of \"causal & windw(3,0)\": unknown mask \"windw\""));
  EXPECT_THAT(error_of("causal & windw(3,0)"), HasSubstr("known: full, causal, window"));
  EXPECT_THAT(error_of(""), HasSubstr("column 1 of \"\": expected a mask, found the end"));
  EXPECT_THAT(error_of("causal &"), HasSubstr("column 9"));
  EXPECT_THAT(error_of("causal causal"), HasSubstr("column 8"));
  EXPECT_THAT(error_of("(causal"), HasSubstr("column 8 of \"(causal\": expected ), found the end"));
  EXPECT_THAT(error_of("causal)"), HasSubstr("column 7"));
  EXPECT_THAT(error_of("window(3)"), HasSubstr("window takes 2 numbers (left, right), not 1"));
  EXPECT_THAT(error_of("full & window"), HasSubstr("column 8"));
  EXPECT_THAT(error_of("causal(1)"), HasSubstr("causal takes no numbers, not 1"));
  EXPECT_THAT(error_of("window(3,x)"),
              HasSubstr("column 10 of \"window(3,x)\": expected a number"));
  EXPECT_THAT(error_of("window(3,0"), HasSubstr("expected ), found the end"));
  EXPECT_THAT(error_of("prefix:9223372036854775808"), HasSubstr("column 8"));
  EXPECT_THAT(error_of("prefix:9223372036854775808"), HasSubstr("too large"));
  EXPECT_THAT(error_of("global"), HasSubstr("global needs a list"));
  EXPECT_THAT(error_of("full & dilated(1,1,0)"), HasSubstr("column 8"));
  EXPECT_THAT(error_of("full & dilated(1,1,0)"), HasSubstr("step 0"));
  EXPECT_THAT(error_of("full & random_blocks(16, 3)"), HasSubstr("column 8"));
  EXPECT_THAT(error_of("random_blocks(16, 3)"),
              HasSubstr("random_blocks takes 3 numbers (size, count, seed), not 2"));
  EXPECT_THAT(error_of("random_blocks(16, 3, 0, 1)"), HasSubstr("not 4"));
  EXPECT_THAT(error_of("random_blocks(16, 65537, 0)"), HasSubstr("count 65537"));
  EXPECT_THAT(error_of("block_window(0, 1, 1)"), HasSubstr("size 0, which must be at least 1"));
  EXPECT_THAT(error_of("per_head(per_head(full))"), HasSubstr("column 1"));
  EXPECT_THAT(error_of("per_head(full; documents(-1))"), HasSubstr("column 16"));
  EXPECT_THAT(error_of("predicate"), HasSubstr("cannot be written"));
  EXPECT_THAT(error_of("blocks(4; 1)"), HasSubstr("expected -"));
  EXPECT_THAT(error_of("full & blocks(16)"), HasSubstr("column 8"));
  for (const char* bare : {"blocks(16)", "blocks:16", "per_head(blocks:16; causal)"}) {
    EXPECT_THAT(error_of(bare), HasSubstr("blocks lists no pair: write blocks(16; 0-0"));
  }
  EXPECT_THAT(error_of("blocks(16 x"), HasSubstr("expected ), found \"x\""));
  EXPECT_THAT(error_of("caus\xc3\xa4l\n"), Not(HasSubstr("\n")));
  EXPECT_THAT(error_of(std::string(100000, '(')), HasSubstr("nested more than 64 deep"));
}

TEST(MaskText, LongChainsAreRead) {
  std::string text = "causal";
  for (int i = 0; i < 20000; ++i) text += "&full";
  Geometry g;
  g.q_len = g.k_len = 9;
  EXPECT_EQ(Mask::parse(text).pairs(g), 45);
}

TEST(MaskText, NamesWhatHasNoText) {
  const std::vector<std::uint8_t> cells(8, 1);
  EXPECT_EQ((Mask::causal() & Mask::dense(cells.data(), {1, 1, 2, 4})).to_string(),
            "causal & dense[1, 1, 2, 4]");
  EXPECT_EQ(Mask::predicate([](auto, auto, auto, auto) {}).to_string(), "predicate");
}

TEST(MaskPicture, AsciiShowsEveryPairOfASmallMask) {
  Geometry g;
  g.q_len = 3;
  g.k_len = 6;
  g.query_start = 3;
  EXPECT_EQ((Mask::causal() & Mask::dilated_window(2, 0, 2)).ascii(g),
            "causal & dilated_window(2, 0, 2)\n"
            "queries down 0..2 at positions 3..5, keys across 0..5\n"
            "   0         5\n"
            "0  . # . # . .\n"
            "1  # . # . # .\n"
            "2  . # . # . #\n"
            "# visible   . hidden\n"
            "8 of 18 pairs visible (44.4 %)\n");
}

TEST(MaskPicture, AsciiPoolsLongMasks) {
  Geometry g;
  g.q_len = g.k_len = 1000;
  EXPECT_EQ(Mask::causal().ascii(g, 4),
            "causal\n"
            "queries down 0..999, keys across 0..999\n"
            "     0\n"
            "  0  + . . .\n"
            "250  # + . .\n"
            "500  # # + .\n"
            "750  # # # +\n"
            "# all   + half or more   - fewer   . none   (one cell: 250 queries x 250 keys)\n"
            "500500 of 1000000 pairs visible (50.1 %)\n");
}

TEST(MaskPicture, EmptyAxesAreDrawn) {
  Geometry g;
  EXPECT_THAT(Mask::causal().ascii(g), HasSubstr("0 of 0 pairs visible"));
  EXPECT_THAT(Mask::causal().svg(g), HasSubstr("</svg>"));
  g.k_len = 5;
  EXPECT_THAT(Mask::causal().ascii(g), HasSubstr("queries down none, keys across 0..4"));
}

TEST(MaskPicture, SvgIsSelfContainedAndSmall) {
  Geometry g;
  g.q_len = g.k_len = 4096;
  const std::string svg = (Mask::causal() & Mask::window(255, 0)).svg(g);
  EXPECT_THAT(svg, testing::StartsWith("<svg xmlns=\"http://www.w3.org/2000/svg\""));
  EXPECT_THAT(svg, HasSubstr("<title>Mask causal &amp; window(255, 0): "));
  EXPECT_THAT(svg, HasSubstr("prefers-color-scheme:dark"));
  EXPECT_THAT(svg, HasSubstr(">queries"));
  EXPECT_THAT(svg, HasSubstr(">keys"));
  EXPECT_THAT(svg, HasSubstr("one cell: 64 queries"));
  EXPECT_THAT(svg, Not(HasSubstr("href")));
  EXPECT_LT(svg.size(), 8000u);
  // A full mask is one rectangle.
  EXPECT_THAT(Mask::full().svg(g), HasSubstr("<path class=\"all\" d=\"M0 0h64v64h-64z\"/>"));
}

}  // namespace
}  // namespace attn

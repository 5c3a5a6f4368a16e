// A real, small language model: its greedy text to the letter, alone, in pieces, and its logits
// against plain double loops over the same weights; and files that lie.
#include "model/llama2c.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "attn/error.h"
#include "folder.h"
#include "model/file.h"

namespace attn {
namespace {

using testing::HasSubstr;

std::string stories(const std::string& name) {
  return std::string(ATTN_ASSETS) + "/stories260K/" + name;
}

std::int32_t largest(const float* logits, std::int64_t count) {
  return static_cast<std::int32_t>(std::max_element(logits, logits + count) - logits);
}

class Stories : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(stories("stories260K.bin")))
      GTEST_SKIP() << "no " << stories("stories260K.bin");
  }
};

TEST_F(Stories, GreedyTextToTheLetter) {
  const MappedFile file(stories("stories260K.bin")), vocabulary(stories("tok512.bin"));
  Llama2c parsed = parse_llama2c(file.bytes(), file.path());
  const Transformer model(parsed.config, std::move(parsed.weights));
  const auto pieces = parse_llama2c_vocabulary(vocabulary.bytes(), 512, vocabulary.path());
  const std::string expected = slurp(stories("expected.txt"));
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Context context({.threads = 1});
    KvCache cache(model.cache_options(512, dtype), context);
    const SequenceId id = cache.create();
    std::string text;
    std::int32_t token = 1;
    while (text.size() < expected.size() + 1) {
      const auto hidden = model.hidden(std::vector{token}, cache, id, context);
      token = largest(model.logits(hidden, context).data(), model.config().vocabulary);
      ASSERT_NE(token, 1);
      text += pieces[static_cast<std::size_t>(token)];
    }
    // Pieces begin with their space; the text begins with none.
    text = text.substr(1, expected.size());
    if (dtype == DType::f32) {
      EXPECT_EQ(text, expected);
    } else {
      EXPECT_EQ(text.substr(0, 40), expected.substr(0, 40));
    }
  }
}

// The last hidden state after 300 tokens does not depend on how they came.
TEST_F(Stories, PiecesOfAPromptGiveWhatTheWholeGives) {
  const MappedFile file(stories("stories260K.bin"));
  Llama2c parsed = parse_llama2c(file.bytes(), file.path());
  const Transformer model(parsed.config, std::move(parsed.weights));
  const Context context({.threads = 1});
  std::vector<std::int32_t> ids(300);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * 37 % 512);
  const auto last = [&](const std::vector<std::size_t>& pieces) {
    KvCache cache(model.cache_options(300), context);
    const SequenceId id = cache.create();
    std::vector<float> hidden;
    std::size_t at = 0;
    for (const std::size_t n : pieces) {
      hidden = model.hidden(std::span(ids).subspan(at, n), cache, id, context);
      at += n;
    }
    return std::vector<float>(hidden.end() - model.config().width, hidden.end());
  };
  const auto whole = last({300});
  for (const auto& pieces : std::vector<std::vector<std::size_t>>{{299, 1}, {1, 128, 171}}) {
    const auto piecewise = last(pieces);
    for (std::size_t j = 0; j < whole.size(); ++j)
      EXPECT_NEAR(piecewise[j], whole[j], 1e-4 * std::max(1.0F, std::abs(whole[j])));
  }
}

TEST_F(Stories, WrongTokensLeaveTheCacheAsItWas) {
  const MappedFile file(stories("stories260K.bin"));
  Llama2c parsed = parse_llama2c(file.bytes(), file.path());
  const Transformer model(parsed.config, std::move(parsed.weights));
  const Context context({.threads = 1});
  KvCache cache(model.cache_options(64), context);
  const SequenceId id = cache.create();
  model.hidden(std::vector<std::int32_t>{1, 2, 3}, cache, id, context);
  for (const std::int32_t wrong : {-1, 512}) {
    EXPECT_THAT(message_of<std::invalid_argument>([&] {
                  model.hidden(std::vector<std::int32_t>{5, wrong}, cache, id, context);
                }),
                HasSubstr("token " + std::to_string(wrong) + " is outside [0, 512)"));
  }
  EXPECT_THROW(model.hidden(std::vector<std::int32_t>(62, 4), cache, id, context), Error);
  EXPECT_EQ(cache.length(id), 3);
  EXPECT_TRUE(model.hidden(std::vector<std::int32_t>{}, cache, id, context).empty());
}

// Seven sizes, then `floats` zeros.
std::vector<std::byte> made_file(std::vector<std::int32_t> sizes, std::size_t floats) {
  std::vector<std::byte> file(sizes.size() * 4 + floats * 4);
  std::memcpy(file.data(), sizes.data(), sizes.size() * 4);
  return file;
}

// width 4, feed-forward 3, 2 layers, 2 heads, 1 key/value head, 5 tokens, 6 positions.
constexpr std::size_t kFloats = 5 * 4 + 2 * (4 + 16 + 8 + 8 + 16 + 4 + 12 + 12 + 12) + 4 + 6 * 2;

TEST(Llama2c, FilesThatLie) {
  const auto message = [](const std::vector<std::byte>& file) {
    return message_of<Error>([&] { parse_llama2c(file, "m.bin"); });
  };
  const std::vector<std::int32_t> good = {4, 3, 2, 2, 1, 5, 6};
  EXPECT_EQ(message(made_file(good, kFloats)), "");
  EXPECT_EQ(message(made_file(good, kFloats - 1)), "m.bin: ends within the rotation tables");
  EXPECT_EQ(message(made_file(good, kFloats + 1)), "m.bin: 4 bytes follow the last weight");
  EXPECT_EQ(message({}), "m.bin: ends within the width");
  EXPECT_EQ(message(made_file({4, 3, 2}, 0)), "m.bin: ends within the number of heads");
  for (std::size_t cut = 1; cut < kFloats; cut += 7) {
    EXPECT_THAT(message(made_file(good, kFloats - cut)), HasSubstr("ends within")) << cut;
  }
  EXPECT_EQ(message(made_file({4, 3, 2, 2, 1, -5, 6}, kFloats)), "m.bin: ends within the head");
  EXPECT_EQ(message(made_file({4, 3, 2, 2, 1, -5, 6}, kFloats + 20)), "");
  EXPECT_THAT(message(made_file({0, 3, 2, 2, 1, 5, 6}, kFloats)), HasSubstr("width is 0"));
  EXPECT_THAT(message(made_file({4, 3, -2, 2, 1, 5, 6}, kFloats)), HasSubstr("layers is -2"));
  EXPECT_THAT(message(made_file({4, 3, 2, 3, 1, 5, 6}, kFloats)), HasSubstr("do not fit"));
  EXPECT_THAT(message(made_file({4, 3, 2, 4, 3, 5, 6}, kFloats)), HasSubstr("do not fit"));
  EXPECT_THAT(message(made_file({4, 3, 2, 4, 2, 5, 6}, kFloats)), HasSubstr("head width 1 is odd"));
  constexpr std::int32_t kMin = -2147483647 - 1, kBig = 1 << 24;
  EXPECT_THAT(message(made_file({4, 3, 2, 2, 1, kMin, 6}, kFloats)), HasSubstr("vocabulary"));
  EXPECT_THAT(message(made_file({4, 3, 2, 2, 1, 0, 6}, kFloats)), HasSubstr("vocabulary"));
  // Products that would wrap.
  EXPECT_THAT(message(made_file({kBig, kBig, kBig, 2, 2, 1, kBig}, kFloats)),
              HasSubstr("ends within the embedding"));
  EXPECT_THAT(message(made_file({4, kBig, kBig, 2, 1, 5, 6}, kFloats)), HasSubstr("ends within"));
}

TEST(Llama2c, VocabulariesThatLie) {
  const auto piece = [](const std::string& text, std::int32_t length) {
    std::string bytes(4, '\0');
    bytes.append(reinterpret_cast<const char*>(&length), 4);
    return bytes + text;
  };
  const auto parse = [](const std::string& text, std::int64_t count) {
    return parse_llama2c_vocabulary(std::as_bytes(std::span(text)), count, "v.bin");
  };
  const std::string head(4, '\0');
  EXPECT_EQ(parse(head + piece("ab", 2) + piece("<0x0A>", 6) + piece("\n<s>\n", 5), 3),
            (std::vector<std::string>{"ab", "\n", ""}));
  const auto message = [&](const std::string& text, std::int64_t count) {
    return message_of<Error>([&] { parse(text, count); });
  };
  EXPECT_EQ(message(head + piece("ab", 3), 1), "v.bin: ends within a piece");
  EXPECT_EQ(message(head + piece("ab", -1), 1), "v.bin: piece 0 has a negative length");
  EXPECT_EQ(message(head + piece("ab", 2), 2), "v.bin: ends within a score");
  EXPECT_EQ(message(head + piece("ab", 2) + "x", 1), "v.bin: 1 bytes follow the last piece");
  EXPECT_EQ(message("", 0), "v.bin: ends within the longest piece's length");
}

}  // namespace
}  // namespace attn

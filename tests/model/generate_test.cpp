// Streams that never cut a character and stop where they should; a real model that tells its story.
#include "model/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "folder.h"
#include "model/file.h"
#include "model/llama2c.h"

namespace attn {
namespace {

using testing::HasSubstr;

// What is shown after each of the parts, and at the end.
std::vector<std::string> shown(const std::vector<std::string>& stop,
                               const std::vector<std::string>& parts) {
  TextStream stream(stop);
  std::vector<std::string> out;
  for (const std::string& part : parts) out.push_back(stream.push(part));
  out.push_back(stream.finish());
  return out;
}

using Strings = std::vector<std::string>;

TEST(TextStream, ShowsWholeCharacters) {
  EXPECT_EQ(shown({}, {"a", "b"}), (Strings{"a", "b", ""}));
  EXPECT_EQ(shown({}, {"\xC3", "\xA9!"}), (Strings{"", "\xC3\xA9!", ""}));
  EXPECT_EQ(shown({}, {"x\xF0\x9F", "\x8D", "\x95y"}), (Strings{"x", "", "\xF0\x9F\x8D\x95y", ""}));
  // What can never become a character is not held back for ever.
  EXPECT_EQ(shown({}, {"\x80\x80", "\xFF", "\xE2\x82\xAC"}),
            (Strings{"\x80\x80", "\xFF", "\xE2\x82\xAC", ""}));
  EXPECT_EQ(shown({}, {"\xE2\x82"}), (Strings{"", "\xE2\x82"}));
  EXPECT_EQ(shown({}, {"\xC3z"}), (Strings{"\xC3z", ""}));
}

TEST(TextStream, StopsWhereAStopTextBegins) {
  EXPECT_EQ(shown({"END"}, {"a E", "N", "D b"}), (Strings{"a ", "", "", ""}));
  EXPECT_EQ(shown({"END"}, {"a E", "N", "x"}), (Strings{"a ", "", "ENx", ""}));
  EXPECT_EQ(shown({"END"}, {"a EN"}), (Strings{"a ", "EN"}));
  EXPECT_EQ(shown({"aab"}, {"aa", "ab"}), (Strings{"", "a", ""}));
  EXPECT_EQ(shown({"\n\n", "b"}, {"x\n", "\nb"}), (Strings{"x", "", ""}));
  EXPECT_EQ(shown({"b", "ab"}, {"xa", "b"}), (Strings{"x", "", ""}));
  EXPECT_THROW(TextStream({""}), std::invalid_argument);
}

std::string stories(const std::string& name) {
  return std::string(ATTN_ASSETS) + "/stories260K/" + name;
}

class Generate : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(stories("stories260K.bin")))
      GTEST_SKIP() << "no " << stories("stories260K.bin");
    file_.emplace(stories("stories260K.bin"));
    const MappedFile vocabulary(stories("tok512.bin"));
    Llama2c parsed = parse_llama2c(file_->bytes(), file_->path());
    model_.emplace(parsed.config, std::move(parsed.weights));
    pieces_ = parse_llama2c_vocabulary(vocabulary.bytes(), 512, vocabulary.path());
  }

  Generation run(const std::vector<std::int32_t>& prompt, const GenerationOptions& options,
                 const std::function<void(std::string_view)>& show = {},
                 const std::vector<std::int32_t>& end_tokens = {}) {
    return generate(
        *model_, prompt, [&](std::int32_t id) { return pieces_[static_cast<std::size_t>(id)]; },
        end_tokens, options, Context({.threads = 1}), show);
  }

  std::optional<MappedFile> file_;
  std::optional<Transformer> model_;
  std::vector<std::string> pieces_;
};

TEST_F(Generate, TellsTheStoryAndShowsItOnTheWay) {
  std::string on_the_way;
  int parts = 0;
  const Generation got = run({1}, {.max_tokens = 60}, [&](std::string_view text) {
    on_the_way += text;
    ++parts;
  });
  EXPECT_EQ(got.ids.size(), 60U);
  EXPECT_EQ(got.end, GenerationEnd::max_tokens);
  EXPECT_EQ(got.text, on_the_way);
  EXPECT_GT(parts, 40);
  EXPECT_EQ(got.text.substr(1, 60), slurp(stories("expected.txt")).substr(0, 60));
  EXPECT_GT(got.prompt_seconds, 0);
  EXPECT_GT(got.seconds, 0);
}

TEST_F(Generate, EndsAtStopTextsEndTokensAndLimits) {
  const Generation stopped = run({1}, {.max_tokens = 200, .stop = {"little girl", "Lily"}});
  EXPECT_EQ(stopped.text, " Once upon a time, there was a ");
  EXPECT_EQ(stopped.end, GenerationEnd::stop_text);
  const std::int32_t fifth = run({1}, {.max_tokens = 5}).ids.back();
  const Generation ended = run({1}, {.max_tokens = 200}, {}, {fifth});
  EXPECT_EQ(ended.ids.size(), 4U);
  EXPECT_EQ(ended.end, GenerationEnd::end_token);
  EXPECT_EQ(run({1}, {.max_tokens = 0}).ids.size(), 0U);
  EXPECT_EQ(run({1}, {.max_tokens = 511}).end, GenerationEnd::max_tokens);
}

// The prompt may run in pieces, and the cache be smaller.
TEST_F(Generate, ChunksAndCaches) {
  const std::vector<std::int32_t> prompt = [&] {
    std::vector<std::int32_t> ids = {1};
    const Generation start = run(ids, {.max_tokens = 100});
    ids.insert(ids.end(), start.ids.begin(), start.ids.end());
    return ids;
  }();
  const Generation whole = run(prompt, {.max_tokens = 30});
  for (const std::int64_t chunk : {1, 7, 100, 101})
    EXPECT_EQ(run(prompt, {.max_tokens = 30, .chunk = chunk}).ids, whole.ids) << chunk;
  EXPECT_EQ(run(prompt, {.max_tokens = 5, .cache = DType::bf16}).ids.size(), 5U);
  EXPECT_EQ(run(prompt, {.max_tokens = 5, .cache = DType::i8}).ids.size(), 5U);
  const GenerationOptions warm = {.max_tokens = 30, .sampler = {.temperature = 1, .seed = 5}};
  EXPECT_EQ(run(prompt, warm).ids, run(prompt, warm).ids);
  EXPECT_NE(run(prompt, warm).ids, whole.ids);
}

TEST_F(Generate, WhatCannotBe) {
  const auto message = [&](const std::vector<std::int32_t>& prompt,
                           const GenerationOptions& options) {
    return message_of<std::invalid_argument>([&] { run(prompt, options); });
  };
  EXPECT_EQ(message({}, {}), "[generate] the prompt has no tokens");
  EXPECT_EQ(message({1, 2}, {.max_tokens = 511}),
            "[generate] a prompt of 2 tokens and 511 to generate are more than the model's 512 "
            "positions: stretch them (rope_scaling), or keep a window of them (window, sinks)");
  EXPECT_THAT(message({512}, {}), HasSubstr("token 512 is outside"));
  EXPECT_THAT(message({1}, {.sampler = {.top_p = 2}}), HasSubstr("top_p"));
  EXPECT_THAT(message({1}, {.stop = {""}}), HasSubstr("stop text"));
  EXPECT_NE(message({1}, {.max_tokens = -1}), "");
  EXPECT_NE(message({1}, {.chunk = 0}), "");
  EXPECT_NE(message({1}, {.side_by_side = 0}), "");
}

}  // namespace
}  // namespace attn

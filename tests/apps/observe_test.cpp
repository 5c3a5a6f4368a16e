// Looking into language models on the command line: a small one, weights by formula.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "model/small_model.h"
#include "run_command.h"

namespace attn::test {
namespace {

using testing::HasSubstr;

class SmallModel : public testing::Test {
 protected:
  void SetUp() override { write_small_model(folder_); }
  TestFolder folder_;
};

TEST_F(SmallModel, IsLookedInto) {
  const std::string page = folder_.file("page.html"), text = "The king is not here.";
  const Ran ran = attn({"look", folder_.path(), text, "-o", page, "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto report = nlohmann::json::parse(ran.out);
  std::string joined;
  for (const auto& token : report.at("tokens")) joined += token.get<std::string>();
  EXPECT_EQ(joined, text);
  EXPECT_EQ(report.at("heads").size(), 6U);
  EXPECT_THAT(read(page), HasSubstr("\"verbatim\":true"));

  const Ran one = attn({"look", folder_.path(), text, "-o", page, "--json", "--layers", "1"});
  ASSERT_EQ(one.code, 0) << one.err;
  const auto heads = nlohmann::json::parse(one.out).at("heads");
  ASSERT_EQ(heads.size(), 3U);
  for (std::size_t h = 0; h < 3; ++h) {
    EXPECT_EQ(heads[h].at("layer"), 1);
    EXPECT_EQ(heads[h].at("entropy"), report.at("heads")[3 + h].at("entropy"));
  }
  const Ran cut = attn({"look", folder_.path(), text, "-o", page, "--json", "--max-length", "3"});
  EXPECT_THAT(cut.err, HasSubstr("truncated to 3 tokens (--max-length 3)"));
  EXPECT_EQ(nlohmann::json::parse(cut.out).at("truncated"), true);
}

TEST_F(SmallModel, WhatCannotBeLookedAt) {
  const Ran pair = attn({"look", folder_.path(), "a", "--pair", "b"});
  EXPECT_EQ(pair.code, 2);
  EXPECT_THAT(pair.err, HasSubstr("--pair needs an encoder"));
  const Ran layer = attn({"look", folder_.path(), "a", "--layers", "0-2"});
  EXPECT_EQ(layer.code, 2);
  EXPECT_THAT(layer.err, HasSubstr("layer 2 is not in 0 ... 1"));
}

// Each new token with what every head looked at when it was chosen.
TEST_F(SmallModel, ToldWhereItLooksWhileItGenerates) {
  const std::string file = folder_.file("seen.json"), page = folder_.file("seen.html");
  const std::vector<std::string> command = {"generate", folder_.path(), "The king", "-n", "5"};
  const Ran plain = attn(command);
  ASSERT_EQ(plain.code, 0) << plain.err;
  for (const std::string& to : {file, page}) {
    std::vector<std::string> observing = command;
    observing.insert(observing.end(), {"--observe", to});
    const Ran ran = attn(observing);
    ASSERT_EQ(ran.code, 0) << ran.err;
    EXPECT_EQ(ran.out, plain.out);
  }
  const auto seen = nlohmann::json::parse(read(file));
  const auto prompt = seen.at("prompt_tokens").get<std::size_t>();
  EXPECT_EQ(seen.at("tokens").size(), prompt + 5);
  ASSERT_EQ(seen.at("generated").size(), 5U);
  for (std::size_t i = 0; i < 5; ++i) {
    const auto& step = seen.at("generated")[i];
    EXPECT_EQ(step.at("token"), prompt + i);
    EXPECT_EQ(step.at("query"), prompt + i - 1);
    ASSERT_EQ(step.at("layers").size(), 2U);
    for (const auto& layer : step.at("layers")) {
      ASSERT_EQ(layer.size(), 3U);
      for (const auto& head : layer) {
        ASSERT_EQ(head.at("keys").size(), std::min<std::size_t>(8, prompt + i));
        double before = 1, sum = 0;
        for (const double weight : head.at("weights")) {
          EXPECT_LE(weight, before);
          before = weight;
          sum += weight;
        }
        EXPECT_LE(sum, 1 + 1e-5);
        if (prompt + i <= 8) {
          EXPECT_NEAR(sum, 1, 1e-5);
        }
        EXPECT_GE(head.at("entropy"), 0.0);
        EXPECT_LE(head.at("sink"), 1 + 1e-6);
      }
    }
  }
  std::string marks = "\"generated\":[";
  for (std::size_t i = 0; i < prompt + 5; ++i)
    marks += (i > 0 ? "," : "") + std::string(i < prompt ? "0" : "1");
  EXPECT_THAT(read(page), HasSubstr(marks + "]"));
}

// Said before minutes of generating.
TEST_F(SmallModel, FilesThatCannotBeWritten) {
  EXPECT_EQ(attn({"generate", folder_.path(), "x", "--observe", "seen.txt"}).code, 2);
  const Ran ran =
      attn({"generate", folder_.path(), "x", "-n", "2", "--observe", folder_.file("no/seen.json")});
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.out, "");
  EXPECT_THAT(ran.err, HasSubstr("which is no folder"));
}

}  // namespace
}  // namespace attn::test

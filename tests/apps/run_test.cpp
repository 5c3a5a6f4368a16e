// attn run, on the built-in demo model: no network.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "run_command.h"

namespace attn::test {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// However it is spelt.
TEST(Run, WhatIsNoModelIsAWrongArgument) {
  const std::string folder = temporary("no-such-folder");
  for (const std::string& model : {std::string("frobnicate"), std::string("./frobnicate"),
                                   std::string("frobnicate/"), folder, std::string("")}) {
    for (const char* command : {"run", "look"}) {
      const Ran ran = attn({command, model, "text"});
      EXPECT_EQ(ran.code, 2) << command << " " << model;
      EXPECT_EQ(ran.out, "") << command << " " << model;
      EXPECT_TRUE(is_one_line(ran.err)) << ran.err;
      EXPECT_THAT(ran.err, HasSubstr("neither a folder nor a known model (minilm, smollm2, demo)"));
    }
  }
}

TEST(Run, JsonHasEmbeddingsAndSimilarities) {
  const Ran ran = attn({"run", "demo", "a cat", "a dog, \"quoted\"", "a cat", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto report = nlohmann::json::parse(ran.out);
  EXPECT_EQ(report.at("model"), "demo");
  ASSERT_EQ(report.at("texts").size(), 3u);
  EXPECT_EQ(report.at("texts").at(1).at("text"), "a dog, \"quoted\"");
  const std::size_t width = report.at("texts").at(0).at("embedding").size();
  EXPECT_GT(width, 0u);
  for (const auto& text : report.at("texts")) {
    EXPECT_EQ(text.at("embedding").size(), width);
    EXPECT_EQ(text.at("truncated"), false);
    EXPECT_EQ(text.at("tokens").at(0), "[CLS]");
    EXPECT_FALSE(text.contains("hidden"));
  }
  const auto& similarity = report.at("similarity");
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(similarity.at(i).at(i).get<double>(), 1.0, 1e-9);
    for (std::size_t j = 0; j < 3; ++j) EXPECT_EQ(similarity.at(i).at(j), similarity.at(j).at(i));
  }
  EXPECT_NEAR(similarity.at(0).at(2).get<double>(), 1.0, 1e-6);
  EXPECT_LT(similarity.at(0).at(1).get<double>(), 1.0 - 1e-6);
}

TEST(Run, HiddenStatesAreTokensByWidth) {
  const Ran ran = attn({"run", "demo", "a cat sat", "--json", "--hidden"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto report = nlohmann::json::parse(ran.out);
  const auto& text = report.at("texts").at(0);
  ASSERT_EQ(text.at("hidden").size(), text.at("tokens").size());
  for (const auto& row : text.at("hidden")) EXPECT_EQ(row.size(), text.at("embedding").size());
}

TEST(Run, SaysWhichTwoAreClosest) {
  const Ran ran = attn({"run", "demo", "a cat sat", "some other words", "a cat sat"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_THAT(ran.out, HasSubstr("Closest: 1 and 3, cosine 1.000"));
  EXPECT_THAT(ran.out, HasSubstr("some other words"));
}

TEST(Run, ReadsFilesAndStandardInput) {
  const std::string file = temporary("texts");
  std::ofstream(file) << "first text\r\n\n   \nsecond text";
  const auto from_file = nlohmann::json::parse(attn({"run", "demo", "-f", file, "--json"}).out);
  ASSERT_EQ(from_file.at("texts").size(), 2u);
  EXPECT_EQ(from_file.at("texts").at(0).at("text"), "first text");
  EXPECT_EQ(from_file.at("texts").at(1).at("text"), "second text");
  const How piped{.input = "first text\nsecond text\n"};
  EXPECT_EQ(nlohmann::json::parse(attn({"run", "demo", "--json"}, piped).out), from_file);
  EXPECT_EQ(nlohmann::json::parse(attn({"run", "demo", "-f", "-", "--json"}, piped).out),
            from_file);
}

// Names of other commands and dashes are texts too; bytes that are no UTF-8 do not break JSON.
TEST(Run, TakesAnyText) {
  const Ran ran = attn({"run", "demo", "look", "get", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(nlohmann::json::parse(ran.out).at("texts").size(), 2u);
  EXPECT_EQ(attn({"run", "demo", "--", "--help"}).code, 0);
  const Ran bytes = attn({"run", "demo", "caf\xe9 \xff", "--json"});
  ASSERT_EQ(bytes.code, 0) << bytes.err;
  EXPECT_TRUE(nlohmann::json::accept(bytes.out));
}

TEST(Run, ManyTextsAreNotCompared) {
  std::string lines;
  for (int i = 0; i < 4097; ++i) lines += "a\n";
  const Ran ran = attn({"run", "demo", "--json"}, {.input = lines});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_THAT(ran.err, HasSubstr("warning: 4097 texts are embedded but not compared"));
  const auto report = nlohmann::json::parse(ran.out);
  EXPECT_EQ(report.at("texts").size(), 4097u);
  EXPECT_TRUE(report.at("similarity").is_null());
}

TEST(Run, LongTextsAreTruncatedAndSaidSo) {
  std::string text;
  for (int i = 0; i < 5000; ++i) text += "word ";
  const Ran ran = attn({"run", "demo", text, "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_THAT(ran.err, StartsWith("attn: warning: truncated to "));
  EXPECT_THAT(ran.err, HasSubstr("(the model reads up to "));
  const Ran less =
      attn({"look", "demo", text, "--max-length", "7", "-o", temporary("page.html"), "--json"});
  EXPECT_THAT(less.err, StartsWith("attn: warning: truncated to 7 tokens (--max-length 7): word"));
  EXPECT_EQ(nlohmann::json::parse(ran.out).at("texts").at(0).at("truncated"), true);
}

TEST(Run, FailuresAreOneLineAndExit1) {
  const std::string folder = temporary("empty");
  std::filesystem::create_directory(folder);
  const std::vector<std::vector<std::string>> calls = {
      {"run", folder, "text"},
      {"run", "demo", "-f", folder + "/missing"},
      {"run", "demo", "-f", folder},
      {"look", folder, "text"},
      {"look", "demo", "text", "-o", folder + "/missing/page.html"},
      {"look", "demo", "text", "-o", folder},
  };
  for (const auto& call : calls) {
    const Ran ran = attn(call);
    EXPECT_EQ(ran.code, 1) << testing::PrintToString(call);
    EXPECT_EQ(ran.out, "") << testing::PrintToString(call);
    const std::string last = ran.err.substr(ran.err.rfind("attn: "));
    EXPECT_TRUE(is_one_line(last)) << ran.err;
  }
  EXPECT_EQ(attn({"run", "demo"}).code, 2);  // standard input has no text
}

TEST(Run, AFullDiskIsAFailure) {
  const Ran ran = attn({"run", "demo", "a", "b", "--json"}, {.output = "/dev/full"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_THAT(ran.err, HasSubstr("No space left on device"));
}

}  // namespace
}  // namespace attn::test

// attn explain: its numbers are the plan's, its picture the mask's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "attn/mask.h"
#include "attn/mechanism.h"
#include "run_command.h"

namespace attn::test {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;

nlohmann::json explained(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "explain");
  arguments.push_back("--json");
  const Ran ran = attn(arguments);
  EXPECT_EQ(ran.code, 0) << ran.err;
  return nlohmann::json::parse(ran.out);
}

TEST(Explain, CountsWhatIsVisible) {
  const auto report =
      explained({"--shape", "2,4,2,100,100,16", "--mask", "causal", "--score", "alibi"});
  EXPECT_EQ(report.at("shape"), nlohmann::json({2, 4, 2, 100, 100, 16}));
  EXPECT_EQ(report.at("visible_pairs"), 2 * 4 * 100 * 101 / 2);
  EXPECT_DOUBLE_EQ(report.at("flops"), 4.0 * 16 * 2 * 4 * 100 * 101 / 2);
  EXPECT_DOUBLE_EQ(report.at("score_matrix_bytes"), 4.0 * 2 * 4 * 100 * 100);
  EXPECT_EQ(report.at("sees_future"), false);
  EXPECT_EQ(report.at("empty_rows"), 0);
  EXPECT_EQ(report.at("picture"), Mask::causal().ascii({.q_len = 100, .k_len = 100}, 32));
  EXPECT_GT(report.at("expected_ms"), 0.0);
  EXPECT_THAT(report.at("expected_from").get<std::string>(), HasSubstr("the whole call"));
}

TEST(Explain, HonoursItsSettings) {
  const auto report = explained({"--shape", "1,2,2,1,64,8", "--mask", "causal & window(15, 0)",
                                 "--query-start", "63", "--value-width", "24", "--dtype", "float64",
                                 "--threads", "1", "--isa", "scalar", "--no-time"});
  EXPECT_EQ(report.at("visible_pairs"), 2 * 16);
  EXPECT_EQ(report.at("value_width"), 24);
  EXPECT_EQ(report.at("dtype"), "float64");
  EXPECT_EQ(report.at("isa"), "scalar");
  EXPECT_EQ(report.at("threads"), 1);
  EXPECT_TRUE(report.at("expected_ms").is_null());
}

// Larger than what is run for the estimate: a piece of it is, whatever the mask is made for.
TEST(Explain, EstimatesLargeCallsFromAPiece) {
  for (const std::string mask : {"full", "causal", "window:255,0"}) {
    const auto report = explained({"--shape", "2,32,8,8192,8192,64", "--mask", mask});
    EXPECT_GT(report.at("expected_ms"), 0.0) << mask;
    EXPECT_THAT(report.at("expected_from").get<std::string>(), HasSubstr("query rows")) << mask;
  }
}

// Every block of queries once looked at all tiles of keys: half a minute here, in place of a
// second.
TEST(Explain, TakesTimeLinearInTheLengths) {
  const auto begin = std::chrono::steady_clock::now();
  const auto report =
      explained({"--shape", "1,1,1,4000000,1000000000,64", "--mask", "causal", "--no-time"});
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  EXPECT_EQ(report.at("visible_pairs"), std::int64_t{4000000} * 4000001 / 2);
  EXPECT_LT(seconds.count(), 10.0);
}

TEST(Explain, NothingVisibleTakesNoTime) {
  const auto report =
      explained({"--shape", "1,1,1,8,8,8", "--mask", "causal", "--query-start", "-100"});
  EXPECT_EQ(report.at("visible_pairs"), 0);
  EXPECT_EQ(report.at("empty_rows"), 8);
  EXPECT_TRUE(report.at("expected_ms").is_null());
}

TEST(Explain, TextHasFactsTimeAndPicture) {
  const Ran ran = attn({"explain", "--shape", "1,2,2,64,64,16", "--mask", "causal"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_THAT(ran.out, ContainsRegex("\nexpected +[0-9.]+ (µs|ms|s|min), [0-9.]+ GFLOP/s"));
  EXPECT_THAT(ran.out, ContainsRegex("mask +causal"));
  EXPECT_THAT(ran.out, HasSubstr(Mask::causal().ascii({.q_len = 64, .k_len = 64}, 32)));
  EXPECT_EQ(ran.err, "");
}

TEST(ExplainMechanism, PrintsItsTextWrapped) {
  const Ran ran = attn({"explain", "gla", "--no-time"}, {.environment = {"COLUMNS=50"}});
  EXPECT_EQ(ran.code, 0) << ran.err;
  std::istringstream lines(ran.out.substr(0, ran.out.find("Costs here")));
  std::string line;
  std::getline(lines, line);
  EXPECT_EQ(line, "Gated linear attention (GLA)");
  while (std::getline(lines, line)) {
    if (line.rfind("    ", 0) == 0) continue;  // an equation
    EXPECT_LE(line.size(), 60U) << line;       // bytes of 50 characters
    EXPECT_THAT(line, testing::Not(testing::AnyOf(HasSubstr("```"), testing::StartsWith("#"))));
  }
  for (const char* section : {"Define", "Why", "Intuition", "Fails when", "Trade-offs"}) {
    EXPECT_THAT(ran.out, HasSubstr(std::string("\n") + section + "\n"));
  }
  EXPECT_THAT(ran.out, HasSubstr("    y_t = q_t^T S_t\n"));
  EXPECT_THAT(ran.out, HasSubstr("Not measured."));
}

TEST(ExplainMechanism, CountsWhatItKeepsAndComputes) {
  const auto report = explained({"rwkv", "--shape", "1,2,2,512,512,16", "--threads", "1"});
  EXPECT_EQ(report.at("topic"), "rwkv");
  EXPECT_EQ(report.at("text"), mechanism_text("rwkv"));
  const auto& all = report.at("mechanisms");
  ASSERT_EQ(all.size(), 3U);  // and causal beside
  EXPECT_EQ(all[1].at("name"), "rwkv6");
  EXPECT_EQ(all[2].at("name"), "causal");
  for (const auto& mechanism : all) {
    for (const auto& at : mechanism.at("lengths")) EXPECT_GT(at.at("ms"), 0.0);
  }
  const auto& last = all[1].at("lengths").back();
  EXPECT_EQ(last.at("length"), 65536);
  EXPECT_EQ(last.at("state_bytes"), 2 * 16 * 16 * 4);
  EXPECT_EQ(last.at("flops"), 2.0 * 65536 * (4 * 16 * 16 + 64 * 32));
  EXPECT_EQ(all[2].at("lengths").back().at("state_bytes"), 2.0 * 65536 * 32 * 4);
}

TEST(ExplainMechanism, TakesTheNameOfOneOfATopic) {
  const auto report = explained({"gated-delta", "--no-time"});
  EXPECT_EQ(report.at("topic"), "delta");
  ASSERT_EQ(report.at("mechanisms").size(), 2U);
  EXPECT_EQ(report.at("mechanisms")[0].at("name"), "gated-delta");
  EXPECT_TRUE(report.at("mechanisms")[0].at("lengths")[0].at("ms").is_null());
}

TEST(ExplainMechanism, HasRwkv7ByItself) {
  const auto report = explained({"rwkv7", "--no-time", "--shape", "1,2,2,512,512,16"});
  EXPECT_EQ(report.at("topic"), "rwkv7");
  EXPECT_THAT(report.at("text").get<std::string>(), HasSubstr("arXiv 2503.14456"));
  const auto& all = report.at("mechanisms");
  ASSERT_EQ(all.size(), 2U);  // and causal beside
  EXPECT_EQ(all[0].at("name"), "rwkv7");
  EXPECT_EQ(all[0].at("lengths").back().at("state_bytes"), 2 * 16 * 16 * 4);
  EXPECT_EQ(all[0].at("lengths").back().at("step_flops"), 2 * 4 * 16 * 16);
}

TEST(ExplainMechanism, SaysFromWhereOnItIsFaster) {
  const auto report = explained({"retnet", "--shape", "1,2,2,2048,2048,16", "--threads", "1"});
  const auto& from = report.at("mechanisms")[0].at("faster_than_causal_from");
  ASSERT_TRUE(from.is_number());
  EXPECT_GE(from, 1);
  EXPECT_LE(from, 2048);
}

// Of 515 keys a token, causal attention sees fewer up to some 1,000 tokens.
TEST(ExplainMechanism, CountsFromWhereOnAMaskIsFaster) {
  const auto report = explained({"longformer", "--shape", "1,2,2,2048,2048,16", "--threads", "1"});
  const auto& from = report.at("mechanisms")[0].at("faster_than_causal_from");
  ASSERT_TRUE(from.is_number());
  EXPECT_GE(from, 256);
  EXPECT_LE(from, 16384);
  const auto exact = explained({"exact", "--shape", "1,1,1,64,64,8", "--threads", "1"});
  for (const auto& m : exact.at("mechanisms"))
    EXPECT_TRUE(m.at("faster_than_causal_from").is_null()) << m.at("name");
}

// States do not grow, nor does a step; work grows with the length.
TEST(ExplainMechanism, AnswersForEveryMechanismWithAState) {
  int states = 0;
  for (const Mechanism& m : mechanisms()) {
    if (!m.mask.empty()) continue;
    SCOPED_TRACE(m.name);
    const auto report = explained({m.name, "--no-time", "--shape", "1,4,4,512,512,16"});
    for (const auto& mechanism : report.at("mechanisms")) {
      if (mechanism.at("name") != m.name) continue;
      ++states;
      const auto &first = mechanism.at("lengths").front(), &last = mechanism.at("lengths").back();
      EXPECT_GT(first.at("state_bytes"), 0.0);
      EXPECT_EQ(first.at("state_bytes"), last.at("state_bytes"));
      EXPECT_EQ(first.at("step_flops"), last.at("step_flops"));
      EXPECT_DOUBLE_EQ(last.at("flops").get<double>() / first.at("flops").get<double>(),
                       last.at("length").get<double>() / first.at("length").get<double>());
    }
  }
  EXPECT_GE(states, 10);
}

TEST(ExplainMechanism, ListsThem) {
  const Ran ran = attn({"explain"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  for (const MechanismText& t : mechanism_texts()) {
    EXPECT_THAT(ran.out, HasSubstr("\n" + t.topic + " ")) << t.topic;
  }
  const auto json = explained({});
  EXPECT_EQ(json.at("topics").size(), mechanism_texts().size());
  EXPECT_EQ(json.at("mechanisms").size(), mechanisms().size());
}

}  // namespace
}  // namespace attn::test

// attn bench: its rows say what was measured, and their figures fit each other. No figure is
// judged.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "attn/context.h"
#include "run_command.h"

namespace attn::test {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;

nlohmann::json measured(std::vector<std::string> arguments, int threads = 1) {
  arguments.insert(arguments.begin(), "bench");
  arguments.insert(arguments.end(), {"--json", "--quick", "--threads", std::to_string(threads)});
  const Ran ran = attn(arguments);
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.err, "");
  return nlohmann::json::parse(ran.out);
}

TEST(Bench, RowsFitTheirCeilings) {
  const auto report = measured({"--shape", "2,4,2,96,80,16", "--shape", "1x2x2x64x64x16x24",
                                "--mask", "causal", "--score", "alibi"});
  EXPECT_EQ(report.at("cpu"), machine().cpu);
  for (const auto& ceiling : report.at("ceilings")) {
    EXPECT_EQ(ceiling.at("threads"), 1);
    EXPECT_GT(ceiling.at("gflops"), 0.0);
    EXPECT_GT(ceiling.at("gbs"), 0.0);
  }
  const auto& rows = report.at("rows");
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].at("shape"), nlohmann::json({2, 4, 2, 96, 80, 16}));
  EXPECT_EQ(rows[0].at("value_width"), 16);
  EXPECT_EQ(rows[0].at("flops"), 4.0 * 16 * 2 * 4 * (80 * 81 / 2 + 16 * 80));
  EXPECT_EQ(rows[0].at("bytes"), 4.0 * 2 * (4 * 96 + 2 * 80) * (16 + 16));
  EXPECT_EQ(rows[1].at("value_width"), 24);
  EXPECT_EQ(rows[1].at("flops"), 2.0 * (16 + 24) * 2 * (64 * 65 / 2));
  for (const auto& row : rows) {
    EXPECT_EQ(row.at("mask"), "causal");
    EXPECT_EQ(row.at("score"), "alibi");
    EXPECT_EQ(row.at("pass"), "forward");
    EXPECT_EQ(row.at("backward"), false);
    EXPECT_EQ(row.at("dtype"), "float32");
    EXPECT_EQ(row.at("isa"), name(Context().isa()));
    EXPECT_EQ(row.at("threads"), 1);
    EXPECT_EQ(row.at("samples"), 5);
    EXPECT_TRUE(row.at("peer").is_null());
    EXPECT_TRUE(row.at("relative_time").is_null());  // plain: nothing to compare with
    const double ms = row.at("ms"), flops = row.at("flops"), gflops = row.at("gflops"),
                 ceiling = row.at("ceiling_gflops");
    EXPECT_GT(ms, 0);
    EXPECT_GE(row.at("ms_median"), ms);
    EXPECT_NEAR(gflops, flops / ms * 1e-6, 1e-6 * gflops);
    EXPECT_NEAR(row.at("share"), gflops / ceiling, 1e-6);
    EXPECT_GE(row.at("spread"), 0.0);
    EXPECT_GE(row.at("peak_mb"), 0.0);
  }
}

// The lower of two ceilings; bytes of the keys that the last token sees.
TEST(Bench, DecodingCountsBytes) {
  const auto report = measured({"--decode", "--shape", "1,8,2,1,3000,32", "--mask", "causal"});
  const auto& row = report.at("rows").at(0);
  EXPECT_EQ(row.at("decode"), true);
  EXPECT_EQ(row.at("bytes"), 4.0 * 64 * (2 * 3000 + 8));
  EXPECT_EQ(row.at("flops"), 4.0 * 32 * 8 * 3000);
  const double seconds = row.at("ms").get<double>() * 1e-3;
  const double reading = row.at("bytes").get<double>() * 1e-9 / row.at("ceiling_gbs").get<double>();
  const double computing =
      row.at("flops").get<double>() * 1e-9 / row.at("ceiling_gflops").get<double>();
  EXPECT_EQ(row.at("bound"), reading > computing ? "reading" : "multiply-adds");
  EXPECT_NEAR(row.at("share"), std::max(reading, computing) / seconds, 1e-6);

  const auto window = measured({"--decode", "--shape", "1,8,2,1,3000,32", "--mask", "window:99,0"});
  EXPECT_EQ(window.at("rows").at(0).at("bytes"), 4.0 * 64 * (2 * 100 + 8));
}

// 2.5 times the forward operations over the same pairs; what it reads and writes, each once.
TEST(Bench, BackwardIsMeasuredAlone) {
  const std::vector<std::vector<std::string>> all = {
      {"--shape", "2,4,2,40,48,16,8", "--mask", "causal", "--score", "alibi+softcap:20"},
      {"--shape", "1,2,2,64,64,16", "--mask", "window:9,0", "--dropout", "0.1"},
      {"--shape", "3,2,1,48,48,16", "--ragged", "--dtype", "float64"}};
  for (const std::vector<std::string>& arguments : all) {
    const auto forward = measured(arguments).at("rows").at(0);
    std::vector<std::string> with = arguments;
    with.push_back("--backward");
    const auto row = measured(with).at("rows").at(0);
    const std::string line = testing::PrintToString(with);
    EXPECT_EQ(row.at("backward"), true) << line;
    EXPECT_EQ(row.at("pass"), "backward") << line;
    EXPECT_GT(forward.at("flops"), 0.0) << line;
    EXPECT_EQ(row.at("flops"), 2.5 * forward.at("flops").get<double>()) << line;
    EXPECT_EQ(row.at("compared_with"), forward.at("compared_with")) << line;
    EXPECT_NEAR(row.at("share"),
                row.at("flops").get<double>() / row.at("ms").get<double>() * 1e-6 /
                    row.at("ceiling_gflops").get<double>(),
                1e-6)
        << line;
    EXPECT_EQ(row.at("bound"), "multiply-adds") << line;
  }
  const auto row =
      measured({"--backward", "--shape", "2,4,2,40,48,16,8", "--mask", "causal"}).at("rows").at(0);
  // q and its gradient, k, v and theirs, out and what flows into it, the log-sum-exp.
  EXPECT_EQ(row.at("bytes"), 4.0 * 2 * (4 * 40 * (2 * 16 + 2 * 8 + 1) + 2 * 48 * 2 * (16 + 8)));
}

// Queries, outputs and their gradients hold 67 MB each here.
TEST(Bench, MemoryOfBackwardIsAboveTheGradients) {
  const auto row =
      measured({"--backward", "--shape", "1,1,1,131072,4,128", "--samples", "1"}).at("rows").at(0);
  EXPECT_LT(row.at("peak_mb"), 33.0);
}

// At any length; the keys of few queries are split, and their parts folded.
TEST(Bench, MemoryOfForwardAndDecodingDoesNotGrow) {
  const std::vector<std::vector<std::string>> all = {
      {"--shape", "1,1,1,131072,131072,64", "--mask", "window:127,0"},
      {"--shape", "1,8,2,4,131072,64"}};
  for (std::vector<std::string> arguments : all) {
    arguments.insert(arguments.end(), {"--samples", "1"});
    const auto row = measured(arguments, 2).at("rows").at(0);
    EXPECT_LT(row.at("peak_mb"), 16.0 + 2 * 2.0) << row;
  }
}

TEST(Bench, RaggedIsComparedWithItsSequences) {
  const auto row =
      measured({"--ragged", "--shape", "4,2,2,64,64,16", "--mask", "causal"}).at("rows").at(0);
  const auto pairs = [](double n) { return n * (n + 1) / 2; };
  EXPECT_EQ(row.at("flops"), 4.0 * 16 * 2 * (pairs(16) + pairs(32) + pairs(48) + pairs(64)));
  EXPECT_EQ(row.at("compared_with"), "its sequences one by one");
  EXPECT_GT(row.at("relative_time"), 0.0);
}

TEST(Bench, WritesRowsToAFile) {
  const std::string path = temporary("bench.json");
  const Ran ran =
      attn({"bench", "--shape", "1,2,2,32,32,16", "--quick", "--threads", "1", "-o", path});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_THAT(ran.out, HasSubstr(path));
  const auto rows = nlohmann::json::parse(read(path));
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_EQ(rows[0].at("shape"), nlohmann::json({1, 2, 2, 32, 32, 16}));
}

// Said before anything is measured, after the rest was found right; folders are not made, as attn
// look makes none.
TEST(Bench, OutputHasToHaveItsFolder) {
  const std::string folder = temporary("folder");
  const Ran nowhere = attn({"bench", "--standard", "-o", folder + "/rows.json"});
  EXPECT_EQ(nowhere.code, 1);
  EXPECT_EQ(nowhere.out, "");
  EXPECT_TRUE(is_one_line(nowhere.err)) << nowhere.err;
  EXPECT_THAT(nowhere.err, HasSubstr("--output '" + folder + "/rows.json' lies in '" + folder +
                                     "', which is no folder"));
  EXPECT_FALSE(std::filesystem::exists(folder));
  std::filesystem::create_directory(folder);
  const Ran itself = attn({"bench", "--standard", "-o", folder});
  EXPECT_EQ(itself.code, 1);
  EXPECT_THAT(itself.err, HasSubstr("is a folder"));
}

TEST(Bench, TableFitsATerminal) {
  const Ran ran =
      attn({"bench", "--quick", "--threads", "1", "--isa", "scalar", "--decode", "--ragged",
            "--shape", "2,4,2,8,9000,64", "--mask", "causal & window(4095, 0) | global(0)"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.err, "");
  EXPECT_THAT(ran.out, ContainsRegex("scalar, 1 thread: at most [0-9.]+ GFLOP/s, [0-9.]+ GB/s"));
  EXPECT_THAT(ran.out, ContainsRegex("2,4,2,8,9000,64 +causal & window"));
  std::istringstream lines(ran.out);
  for (std::string line; std::getline(lines, line);) {
    const auto columns = std::count_if(line.begin(), line.end(), [](char c) {
      return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    });
    EXPECT_LE(columns, 100) << line;
  }
}

// The table's groups are known by name, and each instruction set has its rows.
TEST(Bench, StandardGroupsRunOnEveryInstructionSet) {
  const Ran ran =
      attn({"bench", "--standard", "small", "--samples", "1", "--threads", "1", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto report = nlohmann::json::parse(ran.out);
  std::vector<std::string> isas;
  for (const auto& row : report.at("rows")) {
    EXPECT_EQ(row.at("shape"), nlohmann::json({1, 4, 4, 16, 16, 32}));
    EXPECT_EQ(row.at("samples"), 1);
    isas.push_back(row.at("isa"));
  }
  std::vector<std::string> expected;
  for (const Isa isa : supported_isas()) {
    if (isa != Isa::scalar || supported_isas().size() == 1) expected.emplace_back(name(isa));
  }
  EXPECT_EQ(isas, expected);
}

// What is stored in another way stands beside float32 in one piece.
TEST(Bench, StandardStorageIsComparedWithPlain) {
  const Ran ran = attn({"bench", "--standard", "storage", "--isa", name(Context().isa()),
                        "--samples", "1", "--threads", "1", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto report = nlohmann::json::parse(ran.out);
  std::vector<std::string> stored;
  for (const auto& row : report.at("rows")) {
    EXPECT_GT(row.at("relative_time"), 0.0);
    EXPECT_EQ(row.at("samples"), 1);
    stored.push_back(row.at("kv_dtype").get<std::string>() + " " +
                     row.at("cache").get<std::string>() + ": " +
                     row.at("compared_with").get<std::string>());
  }
  EXPECT_EQ(stored,
            (std::vector<std::string>{
                "bfloat16 contiguous: contiguous float32", "int8 contiguous: contiguous float32",
                "float32 paged: contiguous float32", "float32 contiguous: its sequences one by one",
                "float32 contiguous: no dropout"}));
}

TEST(Bench, MeasuresMechanismsByName) {
  const auto report = measured({"--mechanism", "linear", "--mechanism", "window", "--shape",
                                "1,2,2,300,300,16", "--samples", "1"});
  const auto& rows = report.at("rows");
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].at("mechanism"), "linear");
  EXPECT_EQ(rows[0].at("flops"), 2.0 * 300 * (4 * 16 * 16 + 64 * 32));
  EXPECT_EQ(rows[0].at("compared_with"), "causal exact attention");
  EXPECT_GT(rows[0].at("relative_time"), 0.0);
  EXPECT_EQ(rows[1].at("mechanism"), "exact");
  EXPECT_EQ(rows[1].at("mask"), "window:255,0");
  EXPECT_TRUE(rows[1].at("crossing").is_null());
}

TEST(Bench, AStepIsJudgedByScalingItsState) {
  const auto row =
      measured({"--mechanism", "gla", "--decode", "--shape", "2,3,3,1,1,16,24", "--samples", "1"})
          .at("rows")
          .at(0);
  EXPECT_EQ(row.at("bytes"), 2.0 * 4 * 2 * 3 * 16 * 24);
  EXPECT_GT(row.at("ceiling_gbs"), 0.0);
  EXPECT_THAT(row.at("bound"), testing::AnyOf("scaling", "multiply-adds"));
}

TEST(Curves, AreATableAndTwoFiles) {
  const std::string stem = temporary("curves");
  const Ran ran = attn({"curves", "causal", "gla", "--heads", "1", "--width", "8", "--first", "32",
                        "--last", "64", "--threads", "1", "-o", stem});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.err, "");
  EXPECT_THAT(ran.out, ContainsRegex("gla +32 +[0-9.]+ (µs|ms)"));
  EXPECT_THAT(read(stem + ".csv"), HasSubstr("\ngla,64,"));
  EXPECT_THAT(read(stem + ".svg"), HasSubstr(">gla<"));

  const Ran both = attn({"curves", "causal", "gla", "--heads", "1", "--width", "8", "--first", "32",
                         "--last", "64", "--json"});
  const auto json = nlohmann::json::parse(both.out);
  ASSERT_EQ(json.size(), 2U);
  EXPECT_EQ(json[1].at("mechanism"), "gla");
  EXPECT_TRUE(json[1].at("exponent").is_null());
  EXPECT_EQ(json[1].at("points").size(), 2U);
}

TEST(Curves, NameAFileThatCannotBeWritten) {
  const Ran ran = attn({"curves", "gla", "-o", temporary("none") + "/curves"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_TRUE(is_one_line(ran.err)) << ran.err;
}

}  // namespace
}  // namespace attn::test

// What the command answers without a model: help, mistakes, the doctor.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "attn/context.h"
#include "run_command.h"

namespace attn::test {
namespace {

using testing::HasSubstr;
using testing::Not;

const char* const kCommands[] = {"run",     "look",  "generate", "score", "heads", "translate",
                                 "explain", "bench", "curves",   "get",   "doctor"};

TEST(Arguments, HelpHasExamplesEverywhere) {
  const Ran all = attn({"--help"});
  EXPECT_EQ(all.code, 0);
  EXPECT_THAT(all.out, HasSubstr("Examples:"));
  for (const std::string command : kCommands) {
    EXPECT_THAT(all.out, HasSubstr("\n  " + command + " "));
    const Ran one = attn({command, "--help"});
    EXPECT_EQ(one.code, 0) << command;
    EXPECT_THAT(one.out, HasSubstr("Examples:\n  attn " + command)) << command;
    EXPECT_EQ(one.err, "");
  }
}

TEST(Arguments, VersionIsTheLibrarys) {
  const Ran ran = attn({"--version"});
  EXPECT_EQ(ran.code, 0);
  EXPECT_EQ(ran.out, std::string("attn ") + version() + "\n");
}

struct Mistake {
  std::vector<std::string> arguments;
  std::string says;
};

// Exit 2, one line, that names what is wrong.
TEST(Arguments, MistakesAreOneLineAndExit2) {
  const std::string shape = "1,2,2,16,16,8";
  const Mistake mistakes[] = {
      {{}, "a command is needed"},
      {{"frobnicate"}, "unknown command 'frobnicate'"},
      {{"--frobnicate"}, "unknown option '--frobnicate'"},
      {{"run"}, "model is required"},
      {{"run", "demo", "text", "--jsn"}, "unknown option '--jsn'"},
      {{"run", "demo", "text", "-f", "file"}, "not both"},
      {{"run", "demo", "text", "--hidden"}, "--hidden needs --json"},
      {{"run", "demo", "text", "--threads", "0"}, "--threads"},
      {{"run", "demo", "text", "--threads", "many"}, "--threads"},
      {{"run", "demo", "text", "--isa", "sse2"}, "'sse2' is not one of"},
      {{"look"}, "model is required"},
      {{"look", "demo", "one", "two"}, "unexpected argument 'two'"},
      {{"look", "demo", "text", "--max-length", "0"}, "--max-length"},
      {{"look", "demo", "text", "-o"}, "--output"},
      {{"look", "demo", "text", "--layers", "1,"}, "--layers is '1,', must be numbers"},
      {{"look", "demo", "text", "--layers", "3-1"}, "--layers is '3-1', must be numbers"},
      {{"look", "demo", "text", "--layers", "-1"}, "--layers"},
      {{"look", "demo", "text", "--layers", "1-"}, "--layers is '1-', must be numbers"},
      {{"look", "demo", "text", "--layers", "0,x"}, "--layers is '0,x', must be numbers"},
      {{"look", "demo", "text", "--global-tokens", "0,"},
       "--global-tokens is '0,', must be numbers"},
      {{"translate"}, "model is required"},
      {{"translate", "demo", "text", "-f", "file"}, "not both"},
      {{"translate", "demo", "text", "--beams", "0"}, "--beams"},
      {{"translate", "demo", "text", "--length-penalty", "much"}, "--length-penalty"},
      {{"translate", "demo", "text", "--max-tokens", "0"}, "--max-tokens"},
      {{"generate"}, "model is required"},
      {{"generate", "smollm2", "text", "--observe", "x.json", "--window", "64"}, "--window"},
      {{"generate", "smollm2", "text", "--observe", "x.txt"}, "must end in .json or .html"},
      {{"generate", "smollm2", "text", "-f", "file"}, "not both"},
      {{"generate", "smollm2", "text", "--system", "be kind"}, "--system needs --chat"},
      {{"generate", "smollm2", "text", "--max-tokens", "0"}, "--max-tokens"},
      {{"generate", "smollm2", "text", "--kv-cache", "int4"}, "int4"},
      {{"generate", "smollm2", "one", "--lines"}, "--lines needs -f"},
      {{"generate", "smollm2", "one", "--sinks", "4"}, "--sinks needs --window"},
      {{"generate", "smollm2", "one", "--rope-scaling", "longrope:4"},
       "'longrope:4', must be linear"},
      {{"score"}, "model is required"},
      {{"score", "smollm2"}, "file is required"},
      {{"score", "smollm2", "a", "b"}, "unexpected argument 'b'"},
      {{"score", "smollm2", "file", "--ablate", "4"}, "--ablate is '4', must be LAYER.HEAD"},
      {{"score", "smollm2", "file", "--ablate", "4.2,"}, "'4.2,', must be LAYER.HEAD"},
      {{"score", "smollm2", "file", "--ablate", "4.2;5.1"}, "must be LAYER.HEAD"},
      {{"score", "smollm2", "file", "--ablate", "-1.0"}, "must be LAYER.HEAD"},
      {{"score", "smollm2", "file", "--ablate-with", "mean"}, "--ablate-with needs --ablate"},
      {{"score", "smollm2", "file", "--ablate", "1.1", "--ablate-with", "noise"}, "noise"},
      {{"score", "smollm2", "file", "--window", "1"}, "--window"},
      {{"score", "smollm2", "file", "--step", "0"}, "--step"},
      {{"score", "smollm2", "file", "--rope-scaling", "yarn"}, "'yarn', must be linear"},
      {{"explain", "--mask", "causal"}, "--shape is required"},
      {{"explain", "glaa"}, "no mechanism 'glaa', must be one of "},
      {{"explain", "gla", "--mask", "causal"}, "a mechanism has no --mask"},
      {{"explain", "gla", "--shape", "1,4,2,16,16,8"}, "as many key heads"},
      {{"bench", "--mechanism", "glaa"}, "'glaa', must be one of full, causal"},
      {{"bench", "--mechanism", "gla", "--mask", "causal"}, "not go with --mask causal"},
      {{"bench", "--mechanism", "gla", "--ragged"}, "in one piece"},
      {{"bench", "--standard", "--mechanism", "gla"}, "--standard brings its own"},
      {{"curves", "glaa"}, "'glaa', must be one of full, causal"},
      {{"curves", "--first", "512", "--last", "256"}, "--first is above --last"},
      {{"explain", "--shape", "1,2,x"}, "'1,2,x', must be six positive numbers"},
      {{"explain", "--shape", "1,2,2,16,16"}, "must be six positive numbers"},
      {{"explain", "--shape", "1,2,2,16,16,8,"}, "must be six positive numbers"},
      {{"explain", "--shape", "1,2,2,16,0,8"}, "must be six positive numbers"},
      {{"explain", "--shape", "1,2,2,16,99999999999999999999,8"}, "must be six positive numbers"},
      {{"explain", "--shape", "1,3,2,16,16,8"}, "3"},
      {{"explain", "--shape", "1,2,2,16,16,4096"}, "4096"},
      {{"explain", "--shape", shape, "--mask", "frobnicate"}, "frobnicate"},
      {{"explain", "--shape", shape, "--mask", "window:1"}, "window"},
      {{"explain", "--shape", shape, "--score", "frobnicate"}, "frobnicate"},
      {{"explain", "--shape", shape, "--isa", "sse2"}, "'sse2' is not one of"},
      {{"explain", "--shape", shape, "--dtype", "int8"}, "int8"},
      {{"bench", "--shape"}, "--shape"},
      {{"bench", "--shape", "1,2,2,16,16"}, "bench: --shape is '1,2,2,16,16', must be six"},
      {{"bench", "--shape", shape, "--shape", "1,2"}, "'1,2', must be six positive numbers"},
      {{"bench", "--shape", "1x2x2x16x16x8x4x4"}, "must be six positive numbers"},
      {{"bench", "--shape", "1,3,2,16,16,8"}, "3"},
      {{"bench", shape}, "unexpected argument"},
      {{"bench", "--mask", "frobnicate"}, "frobnicate"},
      {{"bench", "--score", "frobnicate"}, "frobnicate"},
      {{"bench", "--dtype", "int8"}, "int8"},
      {{"bench", "--kv-dtype", "int4"}, "int4"},
      {{"bench", "--cache", "frobnicate"}, "frobnicate"},
      {{"bench", "--observe", "frobnicate"}, "frobnicate"},
      {{"bench", "--dropout", "1"}, "--dropout must be"},
      {{"bench", "--dropout", "nan"}, "--dropout must be"},
      {{"bench", "--dropout", "much"}, "--dropout"},
      {{"bench", "--backward", "--decode"}, "bench: --backward does not go with --decode"},
      {{"bench", "--backward", "--cache", "paged"}, "--backward does not go with --cache paged"},
      {{"bench", "--backward", "--observe", "one-pass"}, "not go with --observe one-pass"},
      {{"bench", "--backward", "--kv-dtype", "int8"}, "not go with --kv-dtype int8"},
      {{"bench", "--backward", "--dtype", "bfloat16"}, "not go with --dtype bfloat16"},
      {{"bench", "--ragged", "--cache", "paged"}, "--ragged does not go with --cache paged"},
      {{"bench", "--dtype", "float64", "--kv-dtype", "int8"},
       "--kv-dtype int8 does not go with --dtype float64"},
      {{"bench", "--kv-dtype", "float64"}, "--kv-dtype float64 does not go with --dtype float32"},
      {{"bench", "--standard", "small", "--backward"}, "brings its own shapes"},
      {{"bench", "--samples", "0"}, "--samples"},
      {{"bench", "--isa", "sse2"}, "'sse2' is not one of"},
      {{"bench", "--standard", "frobnicate"}, "no group 'frobnicate'"},
      {{"bench", "--standard", "small", "--shape", shape}, "brings its own shapes"},
      {{"get", "--path"}, "--path needs the name"},
      {{"doctor", "now"}, "unexpected argument 'now'"},
      {{"--threads", "-1", "doctor"}, "--threads"},
  };
  for (const Mistake& mistake : mistakes) {
    const Ran ran = attn(mistake.arguments);
    const std::string line = testing::PrintToString(mistake.arguments);
    EXPECT_EQ(ran.code, 2) << line << "\n" << ran.err;
    EXPECT_TRUE(is_one_line(ran.err)) << line << "\n" << ran.err;
    EXPECT_THAT(ran.err, HasSubstr(mistake.says)) << line;
    EXPECT_EQ(ran.out, "") << line;
  }
}

TEST(Arguments, AFullDiskIsAFailure) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"--help"}, {"--version"}, {"doctor"}, {"doctor", "--json"}}) {
    const Ran ran = attn(arguments, {.output = "/dev/full"});
    EXPECT_EQ(ran.code, 1) << testing::PrintToString(arguments);
    EXPECT_TRUE(is_one_line(ran.err)) << ran.err;
    EXPECT_THAT(ran.err, HasSubstr("No space left on device"));
  }
}

TEST(Arguments, AClosedPipeIsAFailure) {
  const Ran ran = attn({"doctor"}, {.closed_pipe = true});
  EXPECT_EQ(ran.code, 1);
  EXPECT_TRUE(is_one_line(ran.err)) << ran.err;
  EXPECT_THAT(ran.err, HasSubstr("Broken pipe"));
}

TEST(Doctor, NamesWhatABugReportNeeds) {
  const Ran ran = attn({"doctor"});
  EXPECT_EQ(ran.code, 0);
  for (const char* word : {version(), "ISA", "CPU", "L2", "threads", "Highway", "OpenMP",
                           "utf8proc", "PCRE2", "SentencePiece", "cache"}) {
    EXPECT_THAT(ran.out, HasSubstr(word));
  }
  EXPECT_THAT(ran.out, HasSubstr(machine().cpu));
  EXPECT_THAT(ran.out, Not(HasSubstr("\033")));  // no colour outside a terminal
}

TEST(Doctor, JsonAgreesWithTheLibrary) {
  const Ran ran = attn({"doctor", "--json", "--threads", "3", "--isa", "scalar"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto report = nlohmann::json::parse(ran.out);
  EXPECT_EQ(report.at("version"), version());
  EXPECT_EQ(report.at("cpu"), machine().cpu);
  EXPECT_EQ(report.at("isa").at("used"), "scalar");
  EXPECT_EQ(report.at("isa").at("available").size(), supported_isas().size());
  EXPECT_EQ(report.at("threads").at("used"), 3);
  EXPECT_EQ(report.at("threads").at("usable"), machine().usable_threads);
  EXPECT_EQ(report.at("caches").at("l2"), machine().l2_bytes);
  EXPECT_FALSE(report.at("libraries").at("Highway").get<std::string>().empty());
}

}  // namespace
}  // namespace attn::test

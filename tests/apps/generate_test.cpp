// attn generate and attn score, on SmolLM2 where the cache has it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model_folders.h"
#include "run_command.h"

namespace attn::test {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// An encoder has no text to continue.
TEST(Generate, WantsALanguageModel) {
  const Ran ran = attn({"generate", "demo", "Once upon a time"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.out, "");
  EXPECT_TRUE(is_one_line(ran.err)) << ran.err;
  EXPECT_THAT(ran.err, HasSubstr("model_type \"bert\" is an encoder's, which continues no texts"));
  EXPECT_EQ(attn({"generate", "frobnicate", "Once upon a time"}).code, 2);
}

// What it says is not judged, but that it says it, in which shape, and that a seed decides.
TEST(Generate, ContinuesAText) {
  const std::string folder = smollm2_folder();
  if (folder.empty()) GTEST_SKIP() << "SmolLM2 is not in the cache";
  const std::string prompt = "The capital of France is";
  const Ran plain = attn({"generate", folder, prompt, "-n", "8", "--threads", "1"});
  EXPECT_EQ(plain.code, 0) << plain.err;
  EXPECT_THAT(plain.out, HasSubstr("Paris"));
  EXPECT_EQ(plain.out.back(), '\n');
  EXPECT_THAT(plain.err, HasSubstr("tokens/s"));
  const auto generated = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"generate",  folder, "-n",    "8",
                                          "--threads", "1",    "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Ran ran = attn(arguments);
    EXPECT_EQ(ran.code, 0) << ran.err;
    return nlohmann::json::parse(ran.out);
  };
  const auto greedy = generated({prompt});
  EXPECT_EQ(greedy.at("text").get<std::string>() + "\n", plain.out);
  EXPECT_EQ(greedy.at("ids").size(), 8U);
  EXPECT_EQ(greedy.at("end"), "max tokens");
  EXPECT_EQ(greedy.at("prompt_tokens"), 5);
  EXPECT_GT(greedy.at("tokens_per_second"), 0.0);
  EXPECT_EQ(generated({prompt, "--temperature", "1", "--seed", "3"}).at("ids"),
            generated({prompt, "--temperature", "1", "--seed", "3"}).at("ids"));
  EXPECT_EQ(generated({prompt, "--stop", "Par"}).at("end"), "stop text");
  EXPECT_EQ(generated({"--chat", "What is the capital of France?"}).at("prompt_tokens"), 16);

  const std::string file = temporary("prompt.txt");
  std::ofstream(file) << prompt << "\n";
  EXPECT_EQ(generated({"-f", file}).at("ids"), greedy.at("ids"));
  const Ran long_one = attn({"generate", folder, prompt, "-n", "8190"});
  EXPECT_EQ(long_one.code, 2);
  EXPECT_THAT(long_one.err, HasSubstr("more than the model's 8192 positions: --rope-scaling "
                                      "yarn:4 stretches them, --window 1024 --sinks 4 remembers"));

  // Several prompts, from the command line and from a file.
  const auto two = generated({prompt, "One, two, three,"});
  ASSERT_EQ(two.at("generations").size(), 2u);
  EXPECT_EQ(two.at("generations").at(0).at("prompt"), prompt);
  EXPECT_EQ(two.at("generations").at(0).at("ids"), greedy.at("ids"));
  std::ofstream(file) << prompt << "\n\nOne, two, three,\n";
  const auto lines = generated({"-f", file, "--lines"});
  EXPECT_EQ(lines.at("generations").at(1).at("ids"), two.at("generations").at(1).at("ids"));
  const Ran both = attn({"generate", folder, "-f", file, "--lines", "-n", "4", "--threads", "1"});
  EXPECT_THAT(both.out, HasSubstr(prompt + " Paris"));
  EXPECT_THAT(both.out, HasSubstr("\n\nOne, two, three, four"));
  EXPECT_EQ(generated({prompt, "--window", "6", "--sinks", "2"}).at("ids").size(), 8U);
  EXPECT_EQ(generated({prompt, "--rope-scaling", "dynamic:2"}).at("ids"), greedy.at("ids"));
}

TEST(Score, SaysHowWellATextIsForeseen) {
  const std::string folder = smollm2_folder();
  if (folder.empty()) GTEST_SKIP() << "SmolLM2 is not in the cache";
  const std::string file = temporary("score.txt");
  std::ofstream(file) << "The capital of France is Paris. The capital of Italy is Rome.";
  const Ran plain = attn({"score", folder, file, "--threads", "1"});
  ASSERT_EQ(plain.code, 0) << plain.err;
  EXPECT_THAT(plain.out, StartsWith("perplexity "));
  EXPECT_THAT(plain.out, HasSubstr("13 tokens scored"));
  EXPECT_THAT(plain.out, HasSubstr("window 2048, step 1024"));
  const auto scored = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"score", folder, file, "--threads", "1", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Ran ran = attn(arguments);
    EXPECT_EQ(ran.code, 0) << ran.err;
    return nlohmann::json::parse(ran.out);
  };
  const auto whole = scored({});
  EXPECT_EQ(whole.at("tokens"), 14);
  EXPECT_EQ(whole.at("ids").size(), 14u);
  ASSERT_EQ(whole.at("losses").size(), 13u);
  EXPECT_EQ(whole.at("top").size(), 13u);
  double sum = 0;
  for (const auto& loss : whole.at("losses")) sum += loss.get<double>();
  EXPECT_NEAR(whole.at("mean_loss").get<double>(), sum / 13, 1e-6);
  EXPECT_TRUE(whole.at("ablation").is_null());
  EXPECT_TRUE(whole.at("sinks").is_null());
  const auto ablated = scored({"--ablate", "0.0,29.8", "--ablate-with", "mean"});
  EXPECT_EQ(ablated.at("mean_loss"), whole.at("mean_loss"));
  EXPECT_EQ(ablated.at("ablation").at("with"), "mean");
  EXPECT_NE(ablated.at("ablation").at("mean_loss"), whole.at("mean_loss"));
  EXPECT_NE(scored({"--ablate", "0.0,29.8"}).at("ablation").at("losses"),
            ablated.at("ablation").at("losses"));
  const auto short_one = scored({"--max-length", "5", "--window", "4", "--sinks", "1"});
  EXPECT_EQ(short_one.at("losses").size(), 4u);
  EXPECT_EQ(short_one.at("sinks"), 1);
  EXPECT_EQ(short_one.at("step"), 1);

  const auto message = [&](const std::vector<std::string>& more, int code) {
    std::vector<std::string> arguments = {"score", folder, file};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Ran ran = attn(arguments);
    EXPECT_EQ(ran.code, code) << ran.err;
    EXPECT_TRUE(is_one_line(ran.err)) << ran.err;
    return ran.err;
  };
  EXPECT_THAT(message({"--ablate", "30.0"}, 2), HasSubstr("no head 30.0: the model has 30 layers"));
  EXPECT_THAT(message({"--window", "8193"}, 2), HasSubstr("the model's 8192 positions"));
  EXPECT_THAT(message({"--window", "8", "--step", "8"}, 2), HasSubstr("step is 8"));
  for (const char* text : {"", "A"}) {
    std::ofstream(file) << text;
    EXPECT_THAT(message({}, 1), HasSubstr("must have two tokens or more"));
  }
}

}  // namespace
}  // namespace attn::test

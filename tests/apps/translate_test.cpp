// attn translate, on the small encoder-decoder of the assets.
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

TEST(Translate, WantsAnEncoderDecoder) {
  const Ran ran = attn({"translate", "demo", "A dog runs."});
  EXPECT_EQ(ran.code, 2);
  EXPECT_EQ(ran.out, "");
  EXPECT_TRUE(is_one_line(ran.err)) << ran.err;
  EXPECT_THAT(ran.err, HasSubstr("'demo' is no encoder-decoder; attn generate"));
  EXPECT_EQ(attn({"translate", "frobnicate", "A dog runs."}).code, 2);
}

TEST(Translate, TranslatesTextsAndFiles) {
  const std::string model = translator_folder();
  if (model.empty()) GTEST_SKIP() << "no " ATTN_ASSETS "/aren";
  const std::string text = "آ ت ز م و ن";
  const Ran plain = attn({"translate", model, text});
  EXPECT_EQ(plain.code, 0) << plain.err;
  EXPECT_EQ(plain.out, "a t z m o n\n");
  EXPECT_EQ(plain.err, "");
  // Lines stay where they are.
  const std::string file = temporary("lines.txt");
  std::ofstream(file) << text << "\n\n" << text << "\r\n";
  EXPECT_EQ(attn({"translate", model, "-f", file, "--beams", "4"}).out,
            "a t z m o n\n\na t z m o n\n");
  const Ran ran = attn({"translate", model, "-f", file, "--length-penalty", "0", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto report = nlohmann::json::parse(ran.out);
  EXPECT_EQ(report.at("model"), model);
  ASSERT_EQ(report.at("translations").size(), 3U);
  const auto& first = report.at("translations").at(0);
  EXPECT_EQ(first.at("source"), text);
  EXPECT_EQ(first.at("text"), "a t z m o n");
  EXPECT_EQ(first.at("ids").size(), 6U);
  EXPECT_EQ(first.at("tokens").at(2), "z");
  EXPECT_EQ(first.at("score"), first.at("log_probability"));
  EXPECT_EQ(first.at("ended"), true);
  EXPECT_EQ(report.at("translations").at(1).at("text"), "");

  const Ran cut = attn({"translate", model, text, "--max-tokens", "2"});
  EXPECT_EQ(cut.out, "a t\n");
  EXPECT_THAT(cut.err, HasSubstr("stopped at 2 tokens"));
  for (const std::vector<std::string>& command : {std::vector<std::string>{"generate", model, text},
                                                  {"run", model, text},
                                                  {"score", model, "/dev/null"}}) {
    const Ran other = attn(command);
    EXPECT_EQ(other.code, 2) << command[0];
    EXPECT_THAT(other.err, HasSubstr("is an encoder-decoder, which attn translate runs"));
  }
  const std::string none = temporary("none.txt");
  std::ofstream(none).flush();
  EXPECT_EQ(attn({"translate", model, "-f", none}).code, 2);
}

}  // namespace
}  // namespace attn::test

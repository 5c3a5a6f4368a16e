// attn heads, on the built-in demo model and the small encoder-decoder of the assets.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "model_folders.h"
#include "run_command.h"

namespace attn::test {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

std::string corpus() {
  const std::string file = temporary("corpus.txt");
  std::ofstream text(file);
  for (int i = 0; i < 40; ++i) text << "The cat sat on the mat, and the dog barked. ";
  return file;
}

TEST(Heads, PrintsATable) {
  const Ran ran =
      attn({"heads", "demo", corpus(), "--length", "32", "--documents", "3", "--sort", "entropy"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  std::istringstream lines(ran.out);
  std::string header, even, line;
  std::getline(lines, header);
  std::getline(lines, even);
  EXPECT_THAT(header, HasSubstr("entropy"));
  EXPECT_THAT(header, testing::Not(HasSubstr("induction")));  // of language models
  EXPECT_THAT(even, HasSubstr("even"));
  double last = 1e9;
  int heads = 0;
  for (std::string name; std::getline(lines, line); ++heads) {
    double entropy = 0;
    std::istringstream(line) >> name >> entropy;
    EXPECT_LE(entropy, last);
    last = entropy;
  }
  EXPECT_EQ(heads, 16) << ran.out;
  EXPECT_THAT(ran.err, StartsWith("3 documents of up to 32 tokens, 96 in all"));
}

TEST(Heads, JsonAndCsvSayTheSame) {
  const std::string file = corpus();
  const Ran json = attn({"heads", "demo", file, "--json"}),
            csv = attn({"heads", "demo", file, "--csv"});
  ASSERT_EQ(json.code, 0) << json.err;
  ASSERT_EQ(csv.code, 0) << csv.err;
  const auto report = nlohmann::json::parse(json.out);
  EXPECT_EQ(report.at("heads").size(), 16U);
  EXPECT_TRUE(report.at("heads")[0].at("induction").is_null());
  EXPECT_GT(report.at("seconds"), 0.0);
  std::istringstream lines(csv.out);
  std::string header, first;
  std::getline(lines, header);
  std::getline(lines, first);
  EXPECT_THAT(header, StartsWith("layer,head,entropy,"));
  std::istringstream fields(first);
  std::string layer, head, entropy;
  std::getline(fields, layer, ',');
  std::getline(fields, head, ',');
  std::getline(fields, entropy, ',');
  EXPECT_EQ(std::stod(entropy), report.at("heads")[0].at("entropy").get<double>());
}

TEST(Heads, OfAnEncoderDecoderHasThreeTables) {
  const std::string model = translator_folder();
  if (model.empty()) GTEST_SKIP() << "no " ATTN_ASSETS "/aren";
  const std::string source = temporary("source.txt"), target = temporary("target.txt");
  std::ofstream(source) << "آ ت ز م و ن\n\nن\n";
  std::ofstream(target) << "a t s\n\nn\n";
  const Ran json = attn({"heads", model, source, "--json"});
  ASSERT_EQ(json.code, 0) << json.err;
  const auto report = nlohmann::json::parse(json.out);
  for (const char* const part : {"encoder", "decoder", "cross"}) {
    EXPECT_EQ(report.at(part).at("heads").size(), 48U) << part;
    EXPECT_EQ(report.at(part).at("documents"), 2) << part;
  }
  EXPECT_TRUE(report.at("cross").at("heads")[0].at("distance").is_null());
  EXPECT_TRUE(report.at("decoder").at("heads")[0].at("distance").is_number());
  const Ran csv = attn({"heads", model, source, "--target", target, "--csv", "--sort", "first"});
  EXPECT_THAT(csv.out, StartsWith("part,layer,head,entropy,"));
  EXPECT_THAT(csv.out, HasSubstr("\ncross,0,even,"));
  const Ran table = attn({"heads", model, source, "--target", target});
  EXPECT_THAT(table.out, StartsWith("encoder\n"));
  EXPECT_THAT(table.out, HasSubstr("\n\ncross\n  head  entropy  share  largest  first"));
  EXPECT_THAT(table.err, StartsWith("2 pairs of texts, 7 tokens of sources and 6 of targets"));
  const auto fails = [&](std::vector<std::string> arguments, const std::string& what) {
    const Ran ran = attn(arguments);
    EXPECT_EQ(ran.code, 2) << what;
    EXPECT_THAT(ran.err, HasSubstr(what));
  };
  std::ofstream(target) << "a t s\n";
  fails({"heads", model, source, "--target", target}, "the texts have 3 lines");
  fails({"heads", model, source, "--sinks"}, "--sinks needs a language model");
  fails({"heads", model, source, "--ablation"}, "not for encoder-decoders");
  fails({"heads", "demo", source, "--target", target}, "--target needs an encoder-decoder");
}

TEST(Heads, WrongArgumentsAreSaid) {
  const std::string file = corpus();
  const auto fails = [&](std::vector<std::string> more, const std::string& what) {
    std::vector<std::string> arguments = {"heads", "demo", file};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Ran ran = attn(arguments);
    EXPECT_EQ(ran.code, 2) << what;
    EXPECT_TRUE(is_one_line(ran.err)) << ran.err;
    EXPECT_THAT(ran.err, HasSubstr(what));
  };
  fails({"--sort", "beauty"}, "--sort beauty is none of entropy, ");
  fails({"--sort", "ablation"}, "needs --ablation");
  fails({"--csv", "--json"}, "not both");
  fails({"--sinks", "--csv"}, "table of its own");
  fails({"--length", "100000"}, "length is 100000");
  fails({"--ablation"}, "needs a language model");
  const std::string empty = temporary("empty.txt");
  std::ofstream(empty).flush();
  const Ran ran = attn({"heads", "demo", empty});
  EXPECT_EQ(ran.code, 2);
  EXPECT_THAT(ran.err, HasSubstr("no document"));
}

}  // namespace
}  // namespace attn::test

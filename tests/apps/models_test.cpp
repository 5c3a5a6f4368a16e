// The commands that take a MODEL, on the built-in demo model: no network.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>

#include "attn/model.h"
#include "run_command.h"

namespace attn::test {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

std::string demo_folder() {
  const Ran ran = attn({"get", "demo", "--path", "--offline"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.out.find('\n'), ran.out.size() - 1) << ran.out;
  return ran.out.substr(0, ran.out.size() - 1);
}

TEST(Get, ListsWhatItKnows) {
  const Ran ran = attn({"get"});
  EXPECT_EQ(ran.code, 0);
  for (const char* word : {"name", "minilm", "smollm2", "demo", "Apache-2.0", "MB"}) {
    EXPECT_THAT(ran.out, HasSubstr(word));
  }
  bool found = false;
  for (const auto& model : nlohmann::json::parse(attn({"get", "--json"}).out)) {
    if (model.at("name") == "minilm") {
      found = true;
      EXPECT_EQ(model.at("licence"), "Apache-2.0");
    }
  }
  EXPECT_TRUE(found);
}

TEST(Get, PathIsAFolderAlone) {
  EXPECT_TRUE(std::filesystem::is_regular_file(demo_folder() + "/config.json"));
}

TEST(Get, UnknownNamesFail) {
  const Ran ran = attn({"get", "frobnicate", "--offline"});
  EXPECT_EQ(ran.code, 2);
  EXPECT_TRUE(is_one_line(ran.err)) << ran.err;
  EXPECT_THAT(ran.err, HasSubstr("frobnicate"));
  EXPECT_THAT(ran.err, HasSubstr("minilm, smollm2, demo"));
}

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

// An encoder has no text to continue.
TEST(Generate, WantsALanguageModel) {
  const Ran ran = attn({"generate", "demo", "Once upon a time"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.out, "");
  EXPECT_TRUE(is_one_line(ran.err)) << ran.err;
  EXPECT_THAT(ran.err, HasSubstr("model_type \"bert\" is an encoder's, which continues no texts"));
  EXPECT_EQ(attn({"generate", "frobnicate", "Once upon a time"}).code, 2);
}

TEST(Translate, WantsAnEncoderDecoder) {
  const Ran ran = attn({"translate", "demo", "A dog runs."});
  EXPECT_EQ(ran.code, 2);
  EXPECT_EQ(ran.out, "");
  EXPECT_TRUE(is_one_line(ran.err)) << ran.err;
  EXPECT_THAT(ran.err, HasSubstr("'demo' is no encoder-decoder; attn generate"));
  EXPECT_EQ(attn({"translate", "frobnicate", "A dog runs."}).code, 2);
}

TEST(Translate, TranslatesTextsAndFiles) {
  const std::string model = std::string(ATTN_ASSETS) + "/aren";
  if (!std::filesystem::exists(model + "/model.bin")) GTEST_SKIP() << "no " << model;
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

TEST(Look, ShowsATranslationInThreeTabs) {
  const std::string model = std::string(ATTN_ASSETS) + "/aren";
  if (!std::filesystem::exists(model + "/model.bin")) GTEST_SKIP() << "no " << model;
  const std::string text = "آ ت ز م و ن", page = temporary("translation.html");
  const Ran plain = attn({"look", model, text, "-o", page});
  ASSERT_EQ(plain.code, 0) << plain.err;
  EXPECT_EQ(plain.out, page + "\n");
  EXPECT_THAT(plain.err, StartsWith("target: a t z m o n\nencoder: Head "));
  EXPECT_THAT(plain.err, HasSubstr("\ndecoder: Head "));
  EXPECT_THAT(plain.err, HasSubstr("\ncross: Head "));
  const std::string html = read(page);
  for (const char* const tab : {"Encoder", "Decoder", "Cross"})
    EXPECT_THAT(html, HasSubstr("\"name\":\"" + std::string(tab) + "\""));
  EXPECT_THAT(html, HasSubstr("<title>" + text + " \u2192 a t z m o n</title>"));

  const auto looked = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"look", model, text, "-o", page, "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Ran ran = attn(arguments);
    EXPECT_EQ(ran.code, 0) << ran.err;
    return nlohmann::json::parse(ran.out);
  };
  const auto report = looked({});
  EXPECT_EQ(report.at("page"), page);
  EXPECT_EQ(report.at("target"), "a t z m o n");
  EXPECT_FALSE(report.contains("heads"));
  for (const char* const part : {"encoder", "decoder", "cross"}) {
    EXPECT_EQ(report.at(part).at("heads").size(), 48U) << part;
    EXPECT_EQ(report.at(part).at("findings").size(), 3U) << part;
  }
  const auto& cross = report.at("cross");
  EXPECT_EQ(cross.at("tokens").size(), 7U);
  EXPECT_EQ(cross.at("keys"), report.at("encoder").at("tokens"));
  EXPECT_FALSE(report.at("decoder").contains("keys"));
  for (const char* const name : {"previous", "next", "self", "distance"}) {
    EXPECT_FALSE(cross.at("heads").at(0).contains(name)) << name;
    EXPECT_TRUE(report.at("decoder").at("heads").at(0).at(name).is_number()) << name;
  }
  EXPECT_TRUE(cross.at("heads").at(0).at("entropy").is_number());

  // A given translation, and some layers.
  const auto given = looked({"--target", "a t s", "--layers", "5,0", "--findings", "1"});
  EXPECT_EQ(given.at("target"), "a t s");
  EXPECT_EQ(given.at("cross").at("tokens").size(), 4U);
  ASSERT_EQ(given.at("cross").at("heads").size(), 16U);
  EXPECT_EQ(given.at("cross").at("heads").at(8).at("layer"), 5);
  EXPECT_EQ(given.at("encoder").at("findings").size(), 1U);

  const auto refused = [](const std::vector<std::string>& arguments) {
    const Ran ran = attn(arguments);
    EXPECT_EQ(ran.code, 2) << ran.err;
    EXPECT_EQ(ran.out, "");
    EXPECT_TRUE(is_one_line(ran.err)) << ran.err;
    return ran.err;
  };
  EXPECT_THAT(refused({"look", model, text, "--layers", "6"}), HasSubstr("layer 6 is not in"));
  EXPECT_THAT(refused({"look", model, text, "--pair", "x"}), HasSubstr("is an encoder-decoder"));
  EXPECT_THAT(refused({"look", model, text, "--max-length", "3"}),
              HasSubstr("--max-length would cut the end of a source off"));
  EXPECT_THAT(refused({"look", "demo", text, "--target", "x"}),
              HasSubstr("--target needs an encoder-decoder, which 'demo' is not"));
}

// What it says is not judged, but that it says it, in which shape, and that a seed decides.
TEST(Generate, ContinuesAText) {
  // The commands of these tests have a cache of their own.
  std::string folder;
  try {
    folder = fetch_model("smollm2", {.offline = true});
  } catch (const Error& error) {
    GTEST_SKIP() << "SmolLM2 is not in the cache: " << error.what();
  }
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
  std::string folder;
  try {
    folder = fetch_model("smollm2", {.offline = true});
  } catch (const Error& error) {
    GTEST_SKIP() << "SmolLM2 is not in the cache: " << error.what();
  }
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
  const std::string model = std::string(ATTN_ASSETS) + "/aren";
  if (!std::filesystem::exists(model + "/model.bin")) GTEST_SKIP() << "no " << model;
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

TEST(Look, WritesThePageAndPrintsItsPathAlone) {
  const std::string page = temporary("page.html");
  const Ran ran = attn({"look", "demo", "the cat sat on the mat", "-o", page});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.out, std::filesystem::canonical(page).string() + "\n");
  EXPECT_THAT(read(page), StartsWith("<!"));
  EXPECT_THAT(ran.err, HasSubstr("ead "));  // findings name heads
}

// The demo is a BERT, whose tensors a BigBird has too.
TEST(Look, ShowsABigBird) {
  const std::string folder = temporary("bigbird");
  std::filesystem::copy(demo_folder(), folder, std::filesystem::copy_options::recursive);
  auto config = nlohmann::json::parse(read(folder + "/config.json"));
  config["model_type"] = "big_bird";
  config["architectures"] = {"BigBirdModel"};
  config["block_size"] = 2;
  config["num_random_blocks"] = 1;
  std::ofstream(folder + "/config.json") << config;
  std::string text;
  for (int i = 0; i < 10; ++i) text += "the cat sat on the mat ";
  const Ran ran = attn({"look", folder, text, "-o", temporary("page.html"), "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto demo = nlohmann::json::parse(
      attn({"look", "demo", text, "-o", temporary("page.html"), "--json"}).out);
  const auto report = nlohmann::json::parse(ran.out);
  ASSERT_EQ(report.at("heads").size(), demo.at("heads").size());
  EXPECT_LT(report.at("heads")[0].at("entropy"), demo.at("heads")[0].at("entropy"));

  const Ran wrong = attn({"look", folder, text, "--global-tokens", "0"});
  EXPECT_EQ(wrong.code, 2);
  EXPECT_THAT(wrong.err, HasSubstr("the model has no global tokens"));
}

TEST(Look, FindingsGoToOutputWhenAsked) {
  const std::string page = temporary("page.html");
  const Ran ran = attn({"look", "demo", "the cat sat on the mat", "-o", page, "--findings", "2"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  std::istringstream lines(ran.out);
  std::vector<std::string> all;
  for (std::string line; std::getline(lines, line);) all.push_back(line);
  ASSERT_EQ(all.size(), 3u) << ran.out;
  EXPECT_EQ(all.back(), std::filesystem::canonical(page).string());
  EXPECT_EQ(ran.err, "");
}

TEST(Look, JsonHasEveryHead) {
  const Ran ran = attn({"look", "demo", "the cat", "--pair", "the dog", "--max-length", "6", "-o",
                        temporary("page.html"), "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto report = nlohmann::json::parse(ran.out);
  EXPECT_TRUE(std::filesystem::exists(report.at("page").get<std::string>()));
  EXPECT_LE(report.at("tokens").size(), 6u);
  EXPECT_GT(report.at("heads").size(), 0u);
  for (const auto& head : report.at("heads")) {
    EXPECT_GE(head.at("relative_entropy"), 0.0);
    EXPECT_LE(head.at("relative_entropy"), 1.0 + 1e-9);
  }
}

// A page that cannot be written whole leaves what was there before, and nothing beside it.
TEST(Look, AFailureKeepsTheOldPage) {
  demo_folder();  // into the cache, before files may not grow
  const std::string folder = temporary("folder");
  std::filesystem::create_directory(folder);
  const std::string page = folder + "/page.html";
  std::ofstream(page) << "old";
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit small = before;
  small.rlim_cur = 4096;
  std::signal(SIGXFSZ, SIG_IGN);  // so that the write fails instead
  setrlimit(RLIMIT_FSIZE, &small);
  const Ran ran = attn({"look", "demo", "the cat sat on the mat", "-o", page});
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, SIG_DFL);
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.out, "");
  EXPECT_EQ(read(page), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
}

}  // namespace
}  // namespace attn::test

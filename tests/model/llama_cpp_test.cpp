// A text scored with SmolLM2 beside llama.cpp (tools/golden_llama_cpp.py), which rounds activations
// to 8 bits: the same tokens, and nearly the same losses. Without model or text this skips and says
// so.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "attn/language_model.h"
#include "attn/model.h"
#include "golden_models.h"

namespace attn {
namespace {

TEST(LlamaCpp, ForeseesAText) {
  const std::string text_path = std::string(ATTN_ASSETS) + "/text/wikitext2-valid.txt";
  if (!std::filesystem::exists(text_path)) GTEST_SKIP() << "no " << text_path;
  std::string model_path;
  try {
    model_path = fetch_model("smollm2", {.offline = true});
  } catch (const Error& error) {
    GTEST_SKIP() << "SmolLM2 is not in the cache: " << error.what();
  }
  const Json golden = read_golden("llama_cpp.json");
  const LanguageModel model = LanguageModel::load(model_path);
  const std::string text = read_file(text_path);
  std::vector<std::int32_t> ids =
      model.encode(text.substr(0, static_cast<std::size_t>(golden.find("bytes")->integer)));
  EXPECT_EQ(static_cast<std::int64_t>(ids.size()), golden.find("tokens")->integer);
  const std::vector<std::int32_t> expected = ids_of(*golden.find("ids"));
  ids.resize(expected.size());
  ASSERT_EQ(ids, expected);

  const TextScore got = model.score(
      ids, {.window = golden.find("window")->integer, .step = golden.find("step")->integer});
  const double perplexity = golden.find("perplexity")->real;
  EXPECT_NEAR(got.perplexity, perplexity, 0.01 * perplexity);
  const std::vector<std::int32_t> top = ids_of(*golden.find("top"));
  ASSERT_EQ(got.top.size(), top.size());
  double same = 0;
  for (std::size_t i = 0; i < top.size(); ++i) same += got.top[i] == top[i] ? 1 : 0;
  EXPECT_GE(same / static_cast<double>(top.size()), 0.97);
}

}  // namespace
}  // namespace attn

// The whole path on the built-in example, whose weights need no network: against the encoder
// written once more in plain double loops.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "attn/model.h"
#include "folder.h"
#include "model/demo.h"
#include "model/weights.h"

namespace attn {
namespace {

using Rows = std::vector<std::vector<double>>;  // [tokens][width]

// BERT as its paper and Hugging Face's modeling_bert.py have it, one text.
class PlainBert {
 public:
  explicit PlainBert(const std::string& folder) : weights_(folder) {
    for (const TensorEntry& entry : weights_.entries()) shapes_[entry.name] = entry.shape;
  }

  // Last hidden states; probabilities [layer][head][query][key] on the way, and value norms.
  Rows run(const Encoding& text) {
    Rows x;
    for (std::size_t i = 0; i < text.ids.size(); ++i) {
      x.push_back(row("embeddings.word_embeddings", text.ids[i]));
      add(x.back(), row("embeddings.position_embeddings", static_cast<std::int64_t>(i)));
      add(x.back(), row("embeddings.token_type_embeddings", text.type_ids[i]));
    }
    normalise(x, "embeddings.LayerNorm");
    for (int i = 0; i < 4; ++i) {
      const std::string layer = "encoder.layer." + std::to_string(i) + ".";
      const Rows attended = attention(x, layer);
      residual(x, linear(attended, layer + "attention.output.dense"));
      normalise(x, layer + "attention.output.LayerNorm");
      Rows wide = linear(x, layer + "intermediate.dense");
      for (auto& r : wide) {
        for (double& v : r) v = 0.5 * v * (1 + std::erf(v / std::sqrt(2.0)));
      }
      residual(x, linear(wide, layer + "output.dense"));
      normalise(x, layer + "output.LayerNorm");
    }
    return x;
  }

  std::vector<std::vector<Rows>> probabilities;
  std::vector<Rows> value_norms;  // [layer][head][token]

 private:
  static constexpr std::size_t kHeads = 4, kHeadWidth = 16;

  const float* numbers(const std::string& name) { return weights_.floats(name, shapes_.at(name)); }
  std::vector<double> row(const std::string& table, std::int64_t index) {
    const auto width = shapes_.at(table + ".weight")[1];
    const float* const begin = numbers(table + ".weight") + index * width;
    return {begin, begin + width};
  }
  static void add(std::vector<double>& a, const std::vector<double>& b) {
    for (std::size_t j = 0; j < a.size(); ++j) a[j] += b[j];
  }
  static void residual(Rows& x, const Rows& y) {
    for (std::size_t i = 0; i < x.size(); ++i) add(x[i], y[i]);
  }
  void normalise(Rows& x, const std::string& name) {
    const float* const weight = numbers(name + ".weight");
    const float* const bias = numbers(name + ".bias");
    for (auto& r : x) {
      double mean = 0, variance = 0;
      for (const double v : r) mean += v / static_cast<double>(r.size());
      for (const double v : r) variance += (v - mean) * (v - mean) / static_cast<double>(r.size());
      for (std::size_t j = 0; j < r.size(); ++j) {
        r[j] = (r[j] - mean) / std::sqrt(variance + 1e-12) * weight[j] + bias[j];
      }
    }
  }
  Rows linear(const Rows& x, const std::string& name) {
    const float* const weight = numbers(name + ".weight");
    const float* const bias = numbers(name + ".bias");
    const auto out = static_cast<std::size_t>(shapes_.at(name + ".weight")[0]);
    Rows y;
    for (const auto& r : x) {
      y.emplace_back();
      for (std::size_t o = 0; o < out; ++o) {
        double sum = bias[o];
        for (std::size_t j = 0; j < r.size(); ++j) sum += r[j] * weight[o * r.size() + j];
        y.back().push_back(sum);
      }
    }
    return y;
  }
  Rows attention(const Rows& x, const std::string& layer) {
    const Rows q = linear(x, layer + "attention.self.query");
    const Rows k = linear(x, layer + "attention.self.key");
    const Rows v = linear(x, layer + "attention.self.value");
    const float* const output = numbers(layer + "attention.output.dense.weight");
    Rows out(x.size(), std::vector<double>(x[0].size()));
    probabilities.emplace_back();
    value_norms.emplace_back();
    for (std::size_t h = 0; h < kHeads; ++h) {
      Rows p;
      for (std::size_t i = 0; i < x.size(); ++i) {
        std::vector<double> s;
        double sum = 0;
        for (std::size_t j = 0; j < x.size(); ++j) {
          double score = 0;
          for (std::size_t d = h * kHeadWidth; d < (h + 1) * kHeadWidth; ++d) {
            score += q[i][d] * k[j][d];
          }
          s.push_back(std::exp(score / std::sqrt(double{kHeadWidth})));
          sum += s.back();
        }
        for (std::size_t j = 0; j < x.size(); ++j) {
          s[j] /= sum;
          for (std::size_t d = h * kHeadWidth; d < (h + 1) * kHeadWidth; ++d) {
            out[i][d] += s[j] * v[j][d];
          }
        }
        p.push_back(s);
      }
      probabilities.back().push_back(p);
      std::vector<double> norms;
      for (const auto& r : v) {
        double square = 0;
        for (std::size_t o = 0; o < r.size(); ++o) {
          double projected = 0;
          for (std::size_t d = h * kHeadWidth; d < (h + 1) * kHeadWidth; ++d) {
            projected += r[d] * output[o * r.size() + d];
          }
          square += projected * projected;
        }
        norms.push_back(std::sqrt(square));
      }
      value_norms.back().push_back(norms);
    }
    return out;
  }

  Weights weights_;
  std::map<std::string, std::vector<std::int64_t>> shapes_;
};

class Demo : public testing::Test {
 protected:
  Demo() { write_demo_model(folder_.path()); }
  Model load() const { return Model::load(folder_.path()); }

  TestFolder folder_;
};

const char* const kTexts[] = {"The cat sat on the mat.", "", "A long story about a river, a king!",
                              "x"};

TEST_F(Demo, IsTheSameEverywhere) {
  const std::string weights = slurp(folder_.file("model.safetensors"));
  EXPECT_EQ(static_cast<std::int64_t>(weights.size()), kDemoBytes);
  const TestFolder again;
  write_demo_model(again.path());
  EXPECT_EQ(weights, slurp(again.file("model.safetensors")));
  const ModelInfo info = load().info();
  EXPECT_EQ(info.family, "bert");
  EXPECT_EQ(info.layers, 4);
  EXPECT_EQ(info.heads, 4);
  EXPECT_EQ(info.head_width, 16);
  EXPECT_EQ(info.max_length, 128);
  EXPECT_GT(info.parameters, 100'000);
}

TEST_F(Demo, HiddenStatesMatchPlainDouble) {
  const Model model = load();
  for (const char* const text : kTexts) {
    const Encoding encoding = model.encode(text, std::string("and a bird"));
    const std::vector<float> hidden = model.hidden(encoding);
    const Rows wanted = PlainBert(folder_.path()).run(encoding);
    ASSERT_EQ(hidden.size(), wanted.size() * 64);
    for (std::size_t i = 0; i < hidden.size(); ++i) {
      ASSERT_TRUE(std::abs(hidden[i] - wanted[i / 64][i % 64]) <= 2e-5)
          << text << ": " << i << ": " << hidden[i] << " against " << wanted[i / 64][i % 64];
    }
  }
}

TEST_F(Demo, EmbeddingsAreTheNormalisedMean) {
  const Model model = load();
  const Encoding encoding = model.encode(kTexts[0]);
  const Rows hidden = PlainBert(folder_.path()).run(encoding);
  std::vector<double> mean(64);
  for (const auto& row : hidden) {
    for (std::size_t j = 0; j < 64; ++j) mean[j] += row[j];
  }
  double square = 0;
  for (const double x : mean) square += x * x;
  const auto embedding = model.embed(std::span(&encoding, 1)).at(0);
  ASSERT_EQ(embedding.size(), 64U);
  for (std::size_t j = 0; j < 64; ++j) {
    EXPECT_TRUE(std::abs(embedding[j] - mean[j] / std::sqrt(square)) <= 1e-5) << j;
  }
}

TEST_F(Demo, BatchIsAlone) {
  const Model model = load();
  std::vector<Encoding> texts;
  // Enough tokens for several packs.
  for (int i = 0; i < 40; ++i) {
    std::string text = kTexts[i % 4];
    for (int j = 0; j < i; ++j) text += " water and light";
    texts.push_back(model.encode(text));
  }
  const auto together = model.embed(texts);
  ASSERT_EQ(together.size(), texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto alone = model.embed(std::span(&texts[i], 1)).at(0);
    for (std::size_t j = 0; j < alone.size(); ++j) {
      ASSERT_TRUE(std::abs(alone[j] - together[i][j]) <= 2e-6) << i << ", " << j;
    }
  }
}

TEST_F(Demo, PoolingFollowsTheFolder) {
  const auto pooled = [&](const char* mode, bool normalize) {
    folder_.write("1_Pooling/config.json", std::string("{\"pooling_mode_") + mode + "\":true}");
    folder_.write("modules.json", std::string(R"([{"type":"x.Pooling","path":"1_Pooling"})") +
                                      (normalize ? R"(,{"type":"x.Normalize"}])" : "]"));
    const Model model = load();
    const Encoding encoding = model.encode(kTexts[2]);
    return model.embed(std::span(&encoding, 1)).at(0);
  };
  const Model model = load();
  const std::vector<float> hidden = model.hidden(model.encode(kTexts[2]));
  const auto cls = pooled("cls_token", false);
  const auto max = pooled("max_tokens", false);
  const auto mean = pooled("mean_tokens", false);
  for (std::size_t j = 0; j < 64; ++j) {
    EXPECT_FLOAT_EQ(cls[j], hidden[j]);
    float largest = hidden[j];
    double sum = 0;
    for (std::size_t i = j; i < hidden.size(); i += 64) {
      largest = std::max(largest, hidden[i]);
      sum += hidden[i];
    }
    EXPECT_FLOAT_EQ(max[j], largest);
    EXPECT_NEAR(mean[j], sum / (static_cast<double>(hidden.size()) / 64), 1e-6);
  }
  double square = 0;
  for (const float x : pooled("max_tokens", true)) square += x * x;
  EXPECT_NEAR(square, 1, 1e-6);
}

TEST_F(Demo, RecordHoldsWhatAttentionRead) {
  const Model model = load();
  const Encoding encoding = model.encode("The cat sat", std::string("on a mat."));
  const AttentionRecord record = model.record(encoding);
  ASSERT_EQ(record.layers.size(), 4U);
  ASSERT_EQ(record.tokens.size(), encoding.ids.size());
  EXPECT_EQ(record.heads, 4);
  EXPECT_EQ(record.kv_heads, 4);
  EXPECT_EQ(record.width, 16);
  EXPECT_EQ(record.tokens[1].text, "the");
  PlainBert plain(folder_.path());
  plain.run(encoding);
  const std::size_t n = encoding.ids.size();
  for (std::size_t l = 0; l < 4; ++l) {
    const LayerRecord& layer = record.layers[l];
    ASSERT_EQ(layer.q.size(), 4 * n * 16);
    ASSERT_EQ(layer.k.size(), 4 * n * 16);
    ASSERT_EQ(layer.value_norm.size(), 4 * n);
    for (std::size_t h = 0; h < 4; ++h) {
      for (std::size_t i = 0; i < n; ++i) {
        std::vector<double> p(n);
        double sum = 0;
        for (std::size_t j = 0; j < n; ++j) {
          for (std::size_t d = 0; d < 16; ++d) {
            p[j] += layer.q[(h * n + i) * 16 + d] * layer.k[(h * n + j) * 16 + d];
          }
          p[j] = std::exp(p[j] / 4);
          sum += p[j];
        }
        for (std::size_t j = 0; j < n; ++j) {
          ASSERT_TRUE(std::abs(p[j] / sum - plain.probabilities[l][h][i][j]) <= 1e-5)
              << l << "." << h << " " << i << ", " << j;
        }
        ASSERT_TRUE(std::abs(layer.value_norm[h * n + i] - plain.value_norms[l][h][i]) <= 1e-5);
      }
    }
  }
}

// The same numbers under the names of other checkpoints.
TEST_F(Demo, LoadsOtherNames) {
  const Model model = load();
  const std::vector<float> hidden = model.hidden(model.encode(kTexts[0]));
  const std::string file = slurp(folder_.file("model.safetensors"));
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  const auto with = [&](const std::vector<std::pair<std::string, std::string>>& changes) {
    std::string header = file.substr(8, length);
    for (const auto& [from, to] : changes) {
      for (auto at = header.find(from); at != std::string::npos;
           at = header.find(from, at + to.size())) {
        header.replace(at, from.size(), to);
      }
    }
    const std::uint64_t size = header.size();
    std::string out(8, '\0');
    std::memcpy(out.data(), &size, 8);
    folder_.write("model.safetensors", out + header + file.substr(8 + length));
    return load().hidden(model.encode(kTexts[0]));
  };
  EXPECT_EQ(with({{"\"embeddings.", "\"bert.embeddings."}, {"\"encoder.", "\"bert.encoder."}}),
            hidden);
  EXPECT_EQ(with({{"LayerNorm.weight", "LayerNorm.gamma"}, {"LayerNorm.bias", "LayerNorm.beta"}}),
            hidden);
  EXPECT_THAT(message_of<Error>([&] {
                with({{"layer.3.output.dense.bias", "layer.3.gone"}});
              }),
              testing::HasSubstr(
                  "model.safetensors: tensor encoder.layer.3.output.dense.bias: is missing"));
  EXPECT_THAT(message_of<Error>([&] {
                with({{"[2,64]", "[1,128]"}});
              }),
              testing::HasSubstr("token_type_embeddings.weight: has shape [1, 128], the "
                                 "configuration says [2, 64]"));
}

TEST_F(Demo, TruncatesAndChecksLengths) {
  const Model model = load();
  std::string lengthy;
  for (int i = 0; i < 300; ++i) lengthy += "water ";
  const Encoding cut = model.encode(lengthy);
  EXPECT_EQ(cut.ids.size(), 128U);
  EXPECT_TRUE(cut.truncated);
  EXPECT_TRUE(model.record(cut).truncated);
  EXPECT_EQ(model.encode(lengthy, {}, 16).ids.size(), 16U);
  EXPECT_THROW(model.encode("x", {}, 129), std::invalid_argument);
  EXPECT_THROW(model.encode("x", {}, -1), std::invalid_argument);
  EXPECT_THROW(model.hidden(Encoding()), std::invalid_argument);
  Encoding wrong = model.encode("x");
  wrong.ids[1] = 1'000'000;
  EXPECT_THROW(model.hidden(wrong), std::invalid_argument);
  wrong.type_ids.pop_back();
  EXPECT_THROW(model.embed(std::span(&wrong, 1)), std::invalid_argument);
  EXPECT_TRUE(model.embed({}).empty());
}

// There is no model without a folder, so none that would crash.
static_assert(!std::is_default_constructible_v<Model>);

TEST_F(Demo, NamesTheMissingFile) {
  for (const char* const name : {"vocab.txt", "config.json", "model.safetensors"}) {
    const TestFolder other;
    write_demo_model(other.path());
    std::filesystem::remove(other.file(name));
    EXPECT_THAT(message_of<Error>([&] { Model::load(other.path()); }), testing::HasSubstr(name));
  }
}

}  // namespace
}  // namespace attn

// all-MiniLM-L6-v2 against golden values of PyTorch and transformers (tools/golden_minilm.py). The
// model is fetched once into the user's cache; without a network these tests skip and say so.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "attn/model.h"
#include "folder.h"
#include "model/json.h"

namespace attn {
namespace {

namespace fs = std::filesystem;

// The model's folder, or why there is none. A failure is remembered for ten minutes, so that every
// test after the first does not wait for the same network.
std::optional<std::string> find_model(std::string& reason) {
  const std::string marker = std::string(ATTN_TEST_SCRATCH) + "/minilm-unavailable.txt";
  FetchOptions options;
  std::error_code none;
  const auto when = fs::last_write_time(marker, none);
  options.offline = !none && fs::file_time_type::clock::now() - when < std::chrono::minutes(10);
  try {
    return fetch_model("minilm", options);
  } catch (const Error& error) {
    if (!options.offline) {
      reason = error.what();
      std::ofstream(marker) << reason;
    } else {
      reason = slurp(marker);
    }
    return std::nullopt;
  }
}

std::vector<float> floats(const Json& base64) {
  std::string bytes;
  unsigned bits = 0;
  int count = 0;
  for (const char c : base64.text) {
    static const std::string kDigits =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const auto digit = kDigits.find(c);
    if (digit == std::string::npos) break;
    bits = bits << 6 | static_cast<unsigned>(digit);
    count += 6;
    if (count >= 8) bytes += static_cast<char>(bits >> (count -= 8) & 255);
  }
  std::vector<float> out(bytes.size() / sizeof(float));
  std::memcpy(out.data(), bytes.data(), out.size() * sizeof(float));
  return out;
}

std::vector<std::int32_t> integers(const Json& array) {
  std::vector<std::int32_t> out;
  for (const Json& item : array.items) out.push_back(static_cast<std::int32_t>(item.integer));
  return out;
}

std::string from_hex(const std::string& hex) {
  std::string out;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    out += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return out;
}

class MiniLm : public testing::Test {
 protected:
  void SetUp() override {
    std::string reason;
    const auto folder = find_model(reason);
    if (!folder) GTEST_SKIP() << "no all-MiniLM-L6-v2: " << reason;
    model_.emplace(Model::load(*folder));
    golden_ = Json::parse(slurp(std::string(ATTN_TEST_DATA) + "/minilm.json"), "minilm.json");
  }
  const Json& golden(const char* name) const { return *golden_.find(name); }
  Encoding encode(const Json& item) const {
    const Json* const pair = item.find("pair");
    const Json* const length = item.find("max_length");
    return model_->encode(item.find("text")->text,
                          pair == nullptr ? std::nullopt : std::optional(pair->text),
                          length == nullptr ? 0 : length->integer);
  }

  std::optional<Model> model_;
  Json golden_;
};

TEST_F(MiniLm, Info) {
  const ModelInfo& info = model_->info();
  EXPECT_EQ(info.layers, 6);
  EXPECT_EQ(info.heads, 12);
  EXPECT_EQ(info.width, 384);
  EXPECT_EQ(info.head_width, 32);
  EXPECT_EQ(info.max_length, 256);
  EXPECT_EQ(info.max_positions, 512);
  EXPECT_EQ(info.parameters, 22'713'216);  // as published
}

TEST_F(MiniLm, TokensOfHardTexts) {
  ASSERT_GE(golden("torture").items.size(), 30U);
  for (const Json& item : golden("torture").items) {
    const std::string text = from_hex(item.find("hex")->text);
    EXPECT_EQ(model_->encode(text, {}, 512).ids, integers(*item.find("ids"))) << text;
  }
}

TEST_F(MiniLm, TokensOfTextsAndPairs) {
  for (const char* const list : {"embedded", "truncated"}) {
    for (const Json& item : golden(list).items) {
      const Encoding encoding = encode(item);
      EXPECT_EQ(encoding.ids, integers(*item.find("ids"))) << item.find("text")->text;
      EXPECT_EQ(encoding.type_ids, integers(*item.find("types"))) << item.find("text")->text;
    }
  }
}

TEST_F(MiniLm, EmbeddingsOfTwentyTexts) {
  const auto& items = golden("embedded").items;
  ASSERT_EQ(items.size(), 20U);
  std::vector<Encoding> texts;
  for (const Json& item : items) texts.push_back(encode(item));
  const auto embeddings = model_->embed(texts);
  double worst = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const auto wanted = floats(*items[i].find("embedding"));
    const auto alone = model_->embed(std::span(&texts[i], 1)).at(0);
    ASSERT_EQ(wanted.size(), 384U);
    ASSERT_EQ(embeddings[i].size(), 384U);
    for (std::size_t j = 0; j < 384; ++j) {
      const double error = std::abs(embeddings[i][j] - wanted[j]);
      ASSERT_TRUE(error <= 1e-4) << items[i].find("text")->text << ": " << j;
      ASSERT_TRUE(std::abs(alone[j] - embeddings[i][j]) <= 2e-6) << "alone: " << i << ", " << j;
      worst = std::max(worst, error);
    }
  }
  RecordProperty("largest_error", std::to_string(worst));
  // Both sides compute in float32: rounding alone stays far below the contract's 1e-4.
  EXPECT_LE(worst, 2e-6);
}

TEST_F(MiniLm, HiddenStates) {
  const Json& item = golden("hidden");
  const auto wanted = floats(*item.find("states"));
  const auto hidden = model_->hidden(
      encode(golden("embedded").items[static_cast<std::size_t>(item.find("text")->integer)]));
  ASSERT_EQ(hidden.size(), wanted.size());
  for (std::size_t i = 0; i < hidden.size(); ++i) {
    ASSERT_TRUE(std::abs(hidden[i] - wanted[i]) <= 2e-5) << i;
  }
}

TEST_F(MiniLm, RecordGivesTransformersAttentions) {
  ASSERT_GE(golden("attention").items.size(), 6U);
  for (const Json& item : golden("attention").items) {
    const auto index = static_cast<std::size_t>(item.find("text")->integer);
    const auto layer = static_cast<std::size_t>(item.find("layer")->integer);
    const auto head = static_cast<std::size_t>(item.find("head")->integer);
    const auto wanted = floats(*item.find("rows"));
    const AttentionRecord record = model_->record(encode(golden("embedded").items[index]));
    const std::size_t n = record.tokens.size();
    const auto width = static_cast<std::size_t>(record.width);
    ASSERT_EQ(wanted.size(), n * n);
    const LayerRecord& seen = record.layers.at(layer);
    for (std::size_t i = 0; i < n; ++i) {
      std::vector<double> row(n);
      double sum = 0;
      for (std::size_t j = 0; j < n; ++j) {
        for (std::size_t d = 0; d < width; ++d) {
          row[j] += static_cast<double>(seen.q[(head * n + i) * width + d]) *
                    seen.k[(head * n + j) * width + d];
        }
        row[j] = std::exp(row[j] / std::sqrt(static_cast<double>(width)));
        sum += row[j];
      }
      for (std::size_t j = 0; j < n; ++j) {
        ASSERT_TRUE(std::abs(row[j] / sum - wanted[i * n + j]) <= 1e-5)
            << layer << "." << head << ": " << i << ", " << j;
      }
    }
  }
}

}  // namespace
}  // namespace attn

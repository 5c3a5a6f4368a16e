#include "model/demo.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "attn/error.h"
#include "model/file.h"

namespace attn {
namespace {

constexpr std::int64_t kLayers = 4, kHeads = 4, kWidth = 64, kFeedForward = 128, kPositions = 128;

constexpr std::string_view kSpecial[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};

constexpr std::string_view kWords =
    "the of and to in is was that it for on with as his he be at by they this had not are but from "
    "or have an were one all we when there can said which do their if will each about how up out "
    "them then she many some so these would other into has more her two like him see time could no "
    "make than first been its who now people my made over did down only way find use may water "
    "long little very after words called just where most know get through back much before go good "
    "new write our used me man too any day same right look think also around another came come "
    "work three word must because does part even place well such here take why things help put "
    "years different away again off went old number great tell men say small every found still "
    "between name should home big give air line set own under read last never us left end along "
    "while might next sound below saw something thought both few those always looked show large "
    "often together asked house world going want school important until form food keep children "
    "feet land side without boy once animals life enough took four head above kind began almost "
    "live page got earth need far hand high year mother light country father let night picture "
    "being study second soon story since white ever paper hard near sentence better best across "
    "during today however sure means knew try told young sun whole hear example heard several "
    "change answer room sea against top turned learn point city play toward five himself usually "
    "money seen car morning cat dog mat sat rug bird fish tree river road king queen book music "
    "stock market fell rose rain snow wind fire stone star moon red green blue black cold warm";

constexpr std::string_view kEndings = "s ed ing er est ly ness ment tion able ful less es en al";

std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> words;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    words.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return words;
}

std::vector<std::string> vocabulary() {
  std::vector<std::string> pieces(std::begin(kSpecial), std::end(kSpecial));
  for (char c = '!'; c <= '~'; ++c) {
    if (c >= 'A' && c <= 'Z') continue;
    pieces.emplace_back(1, c);
    if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) pieces.push_back({'#', '#', c});
  }
  for (const std::string_view word : split(kWords)) pieces.emplace_back(word);
  for (const std::string_view ending : split(kEndings)) {
    pieces.emplace_back("##").append(ending);
  }
  return pieces;
}

// Number `index` of stream `stream` with mean 0 and variance 1 (near normal: a sum of four
// uniform ones), from a counter (SplitMix64's finaliser) in integers, so that all machines agree.
float random_number(std::uint64_t stream, std::uint64_t index) {
  std::uint64_t x = (stream << 40 | index) * 0x9e3779b97f4a7c15U + 0x9e3779b97f4a7c15U;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9U;
  x = (x ^ x >> 27) * 0x94d049bb133111ebU;
  x ^= x >> 31;
  std::int64_t sum = -131070;  // the mean of four 16-bit numbers
  for (int shift = 0; shift < 64; shift += 16) sum += static_cast<std::int64_t>(x >> shift & 65535);
  return static_cast<float>(sum) * (1.0F / 37837.0F);
}

struct DemoTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  float mean = 0, deviation = 0;
};

std::vector<DemoTensor> tensors(std::int64_t words) {
  std::vector<DemoTensor> list = {
      {"embeddings.word_embeddings.weight", {words, kWidth}, 0, 1},
      {"embeddings.position_embeddings.weight", {kPositions, kWidth}, 0, 0.5F},
      {"embeddings.token_type_embeddings.weight", {2, kWidth}, 0, 0.1F}};
  const auto norm = [&](const std::string& name) {
    list.push_back({name + ".weight", {kWidth}, 1, 0.02F});
    list.push_back({name + ".bias", {kWidth}, 0, 0.02F});
  };
  const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in,
                          float deviation) {
    list.push_back({name + ".weight", {out, in}, 0, deviation});
    list.push_back({name + ".bias", {out}, 0, 0.02F});
  };
  norm("embeddings.LayerNorm");
  for (std::int64_t i = 0; i < kLayers; ++i) {
    const std::string layer = "encoder.layer." + std::to_string(i) + ".";
    // Wide enough for logits of about 2, so that heads prefer some tokens to others.
    linear(layer + "attention.self.query", kWidth, kWidth, 0.18F);
    linear(layer + "attention.self.key", kWidth, kWidth, 0.18F);
    linear(layer + "attention.self.value", kWidth, kWidth, 0.125F);
    linear(layer + "attention.output.dense", kWidth, kWidth, 0.125F);
    norm(layer + "attention.output.LayerNorm");
    linear(layer + "intermediate.dense", kFeedForward, kWidth, 0.125F);
    linear(layer + "output.dense", kWidth, kFeedForward, 0.09F);
    norm(layer + "output.LayerNorm");
  }
  return list;
}

std::string safetensors(std::int64_t words) {
  std::string header = "{";
  std::string data;
  std::uint64_t stream = 0;
  for (const DemoTensor& tensor : tensors(words)) {
    std::int64_t count = 1;
    std::string shape;
    for (const std::int64_t size : tensor.shape) {
      count *= size;
      shape += (shape.empty() ? "" : ",") + std::to_string(size);
    }
    const std::size_t begin = data.size();
    data.resize(begin + static_cast<std::size_t>(count) * sizeof(float));
    for (std::int64_t i = 0; i < count; ++i) {
      const float value =
          tensor.mean + tensor.deviation * random_number(stream, static_cast<std::uint64_t>(i));
      std::memcpy(data.data() + begin + static_cast<std::size_t>(i) * sizeof(float), &value,
                  sizeof(float));
    }
    ++stream;
    header += (header.size() == 1 ? "\"" : ",\"") + tensor.name +
              "\":{\"dtype\":\"F32\",\"shape\":[" + shape + "],\"data_offsets\":[" +
              std::to_string(begin) + "," + std::to_string(data.size()) + "]}";
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = header.size();
  std::string file(sizeof(length), '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  return file + header + data;
}

std::string config(std::int64_t words) {
  const auto number = [](const char* name, std::int64_t value) {
    return std::string("  \"") + name + "\": " + std::to_string(value) + ",\n";
  };
  return "{\n  \"architectures\": [\"BertModel\"],\n  \"hidden_act\": \"gelu\",\n" +
         number("hidden_size", kWidth) + number("intermediate_size", kFeedForward) +
         "  \"layer_norm_eps\": 1e-12,\n" + number("max_position_embeddings", kPositions) +
         "  \"model_type\": \"bert\",\n" + number("num_attention_heads", kHeads) +
         number("num_hidden_layers", kLayers) + "  \"position_embedding_type\": \"absolute\",\n" +
         number("type_vocab_size", 2) + "  \"vocab_size\": " + std::to_string(words) + "\n}\n";
}

constexpr char kModules[] = R"([
  {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
  {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
  {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
]
)";

constexpr char kReadme[] =
    "A tiny BERT encoder with random weights, never trained. It shows that everything runs; what\n"
    "its heads look at means nothing.\n";

}  // namespace

void write_demo_model(const std::string& folder) {
  std::error_code failed;
  std::filesystem::create_directories(folder + "/1_Pooling", failed);
  if (failed) throw Error(folder + ": cannot be created: " + failed.message());
  const std::vector<std::string> pieces = vocabulary();
  const auto words = static_cast<std::int64_t>(pieces.size());
  std::string lines;
  for (const std::string& piece : pieces) lines += piece + "\n";
  write_file(folder + "/vocab.txt", lines);
  write_file(folder + "/model.safetensors", safetensors(words));
  write_file(folder + "/tokenizer_config.json",
             "{\"do_lower_case\": true, \"tokenizer_class\": \"BertTokenizer\"}\n");
  write_file(folder + "/modules.json", kModules);
  write_file(folder + "/1_Pooling/config.json",
             "{\"word_embedding_dimension\": " + std::to_string(kWidth) +
                 ", \"pooling_mode_mean_tokens\": true}\n");
  write_file(folder + "/README.md", kReadme);
  write_file(folder + "/config.json", config(words));
}

}  // namespace attn

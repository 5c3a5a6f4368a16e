#include "attn/model.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <stdexcept>
#include <system_error>

#include "model/encoder_tokenizer.h"
#include "model/families.h"
#include "model/file.h"
#include "model/layer_observed.h"
#include "model/model_info.h"
#include "model/pooling.h"
#include "model/recorder.h"
#include "model/text_pattern.h"
#include "model/transformer.h"
#include "model/weights.h"
#include "nn/dense.h"

namespace attn {
namespace {

// Texts run together until a pack has this many tokens: enough to keep the products busy, little
// enough to stay within some megabytes.
constexpr std::int64_t kPackTokens = 2048;

// A folder with nothing but a GGUF file is a model too, of a kind that the file names.
void refuse_gguf(const std::string& folder) {
  std::error_code ignored;
  if (std::filesystem::exists(folder + "/config.json", ignored)) return;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    if (entry.path().extension() != ".gguf") continue;
    const Weights weights(entry.path().string());
    throw Error(entry.path().string() + ": is a model of architecture \"" +
                weights.gguf()->text("general.architecture") +
                "\"; attn generate continues texts with it, this needs an encoder");
  }
}

// What a folder holds.
struct Parts {
  std::unique_ptr<Weights> weights;
  DescribedModel model;
  std::string family;
};

Parts load_parts(const std::string& folder) {
  const std::string source = folder + "/config.json", text = read_file(source);
  const Json config = Json::parse(text, source);
  const std::string family = Fields(config, source).needed_text("model_type");
  if (!is_encoder(family)) {
    throw Error(
        source + ": model_type \"" + family +
        "\" is not an encoder's (bert, roberta, distilbert, longformer, big_bird); attn generate "
        "continues texts with language models");
  }
  auto weights = std::make_unique<Weights>(folder);
  DescribedModel model = load_described(text, source, *weights);
  return {std::move(weights), std::move(model), family};
}

// max_seq_length of sentence-transformers, at most all positions.
std::int64_t read_max_length(const std::string& folder, std::int64_t positions) {
  const std::string source = folder + "/sentence_bert_config.json";
  const auto json = read_file_if_present(source);
  if (!json) return positions;
  const Json tree = Json::parse(*json, source);
  return std::min(Fields(tree, source).size("max_seq_length", kLargestSize).value_or(positions),
                  positions);
}

}  // namespace

struct Model::Impl {
  Impl(const std::string& folder, const Context& where) : Impl(folder, where, load_parts(folder)) {}
  Impl(const std::string& folder, const Context& where, Parts parts)
      : context(where),
        weights(std::move(parts.weights)),
        transformer(parts.model.config, std::move(parts.model.weights)),
        tokenizer(folder, parts.family, transformer.config().vocabulary),
        pooling(read_pooling(folder)) {
    const TransformerConfig& c = transformer.config();
    info = model_info(c, std::move(parts.family), folder, weights->parameters());
    info.max_length = read_max_length(folder, c.positions);
  }

  void check(const Encoding& text, const char* function) const {
    const std::string where = std::string("[") + function + "] ";
    if (text.global_tokens && !text.global_tokens->empty() && !transformer.config().global_tokens)
      throw std::invalid_argument(where + "the model has no global tokens");
    if (text.ids.empty()) throw std::invalid_argument(where + "the text has no tokens");
    if (text.type_ids.size() != text.ids.size()) {
      throw std::invalid_argument(where + std::to_string(text.ids.size()) + " ids, " +
                                  std::to_string(text.type_ids.size()) + " type ids");
    }
    if (static_cast<std::int64_t>(text.ids.size()) > info.max_positions) {
      throw std::invalid_argument(where + "the text has " + std::to_string(text.ids.size()) +
                                  " tokens, the model has " + std::to_string(info.max_positions) +
                                  " positions");
    }
  }
  // The model's own choice where a text makes none.
  std::vector<std::int64_t> globals_of(const Encoding& text) const {
    return text.global_tokens.value_or(std::vector<std::int64_t>{0});
  }
  void add(const Encoding& text, PackedTexts& texts) const {
    texts.add(text.ids, text.type_ids);
    if (transformer.config().global_tokens) texts.global_tokens.push_back(globals_of(text));
  }
  PackedTexts pack(const Encoding& text, const char* function) const {
    check(text, function);
    PackedTexts packed;
    add(text, packed);
    return packed;
  }

  Context context;
  std::unique_ptr<Weights> weights;
  Transformer transformer;
  EncoderTokenizer tokenizer;
  PoolingConfig pooling;
  ModelInfo info;
};

Model Model::load(const std::string& folder, const Context& context) {
  refuse_gguf(folder);
  return Model(std::make_shared<const Impl>(folder, context));
}

const ModelInfo& Model::info() const { return impl_->info; }

Encoding Model::encode(const std::string& text, const std::optional<std::string>& pair,
                       std::int64_t max_length) const {
  if (max_length < 0 || max_length > impl_->info.max_positions) {
    throw std::invalid_argument("[encode] max_length is " + std::to_string(max_length) +
                                ", the model has " + std::to_string(impl_->info.max_positions) +
                                " positions");
  }
  return impl_->tokenizer.encode(text, pair, max_length == 0 ? impl_->info.max_length : max_length);
}

std::vector<float> Model::hidden(const Encoding& text) const {
  return impl_->transformer.hidden(impl_->pack(text, "hidden"), impl_->context);
}

std::vector<float> Model::observe(const Encoding& text, const Observed& observed) const {
  return impl_->transformer.hidden(
      impl_->pack(text, "observe"), impl_->context,
      {.ask = [&](std::int64_t i) { return observed_of_layer(observed, i, impl_->info.layers); }});
}

std::vector<std::vector<float>> Model::embed(std::span<const Encoding> texts) const {
  for (const Encoding& text : texts) impl_->check(text, "embed");
  std::vector<std::vector<float>> out;
  out.reserve(texts.size());
  std::size_t next = 0;
  while (next < texts.size()) {
    PackedTexts packed;
    do {
      impl_->add(texts[next], packed);
      ++next;
    } while (next < texts.size() &&
             packed.tokens() + static_cast<std::int64_t>(texts[next].ids.size()) <= kPackTokens);
    const std::vector<float> hidden = impl_->transformer.hidden(packed, impl_->context);
    const float* row = hidden.data();
    for (const std::int64_t length : packed.lengths) {
      out.push_back(pool(row, length, impl_->info.width, impl_->pooling));
      row += length * impl_->info.width;
    }
  }
  return out;
}

AttentionRecord Model::record(const Encoding& text, std::vector<std::int64_t> layers) const {
  const ModelInfo& info = impl_->info;
  AttentionRecord record = begin_record(info);
  record.layer_numbers = recorded_layers(std::move(layers), info.layers);
  record.tokens = text.tokens;
  record.truncated = text.truncated;
  const PackedTexts packed = impl_->pack(text, "record");
  if (text.tokens.size() != text.ids.size()) {
    throw std::invalid_argument("[record] " + std::to_string(text.ids.size()) + " ids, " +
                                std::to_string(text.tokens.size()) + " tokens");
  }
  const Transformer& model = impl_->transformer;
  std::map<const AttentionOptions*, Mask> masks;  // shared by the layers that have the same
  const auto see = [&](const SeenAttention& seen) {
    const auto& wanted = record.layer_numbers;
    if (!std::binary_search(wanted.begin(), wanted.end(), seen.layer)) return;
    LayerRecord& layer = record.layers.emplace_back(
        record_layer(seen, packed.tokens(), model.config(), impl_->context));
    const AttentionOptions& options = model.attention(seen.layer);
    const auto [mask, added] = masks.try_emplace(&options);
    if (added) {
      mask->second = text_mask(model.config(), options.mask, packed.tokens(), packed.globals_of(0));
    }
    layer.mask = mask->second;
    layer.score = options.score;
    record.width = seen.head_width;
  };
  model.hidden(packed, impl_->context, {.see = see});
  return record;
}

Mask Model::mask(std::int64_t layer, std::int64_t tokens) const {
  if (layer < 0 || layer >= impl_->info.layers) {
    throw std::invalid_argument("[mask] layer " + std::to_string(layer) + " of " +
                                std::to_string(impl_->info.layers));
  }
  const Transformer& model = impl_->transformer;
  const std::vector<std::int64_t> globals =
      model.config().global_tokens ? impl_->globals_of({}) : std::vector<std::int64_t>{};
  return text_mask(model.config(), model.attention(layer).mask, tokens, globals);
}

std::string dense_library() { return nn::dense_library(); }

}  // namespace attn

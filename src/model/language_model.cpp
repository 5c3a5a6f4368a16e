#include "attn/language_model.h"

#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <utility>

#include "model/ablation.h"
#include "model/encoder_tokenizer.h"
#include "model/families.h"
#include "model/fields.h"
#include "model/file.h"
#include "model/generate.h"
#include "model/gguf_tokenizer.h"
#include "model/head_watch.h"
#include "model/layer_observed.h"
#include "model/model_info.h"
#include "model/pooling.h"
#include "model/record_tokens.h"
#include "model/recorder.h"
#include "model/recurrent_model.h"
#include "model/score.h"
#include "model/stretch.h"
#include "model/tokenizer.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace attn {

namespace {

// A state has no end; so far that no text reaches it, so near that sums of such lengths fit.
constexpr std::int64_t kAnyLength = std::int64_t{1} << 40;

// eos_token_id of generation_config.json or else of config.json.
std::vector<std::int32_t> end_tokens(const std::string& folder, const Fields& config) {
  constexpr std::int64_t kAnyToken = kLargestSize + 1;
  const std::string source = folder + "/generation_config.json";
  if (const auto text = read_file_if_present(source)) {
    const Json tree = Json::parse(*text, source);
    const Fields generation(tree, source);
    if (generation.find("eos_token_id") != nullptr)
      return generation.tokens("eos_token_id", kAnyToken);
  }
  return config.tokens("eos_token_id", kAnyToken);
}

// The bytes of a token; none where a model has more tokens than its tokenizer, as padded tables do.
std::string token_bytes(const Tokenizer& tokenizer, std::int32_t id) {
  return id < tokenizer.size() ? tokenizer.token_bytes(id) : std::string();
}

// What a folder or file holds.
struct Parts {
  std::unique_ptr<Weights> weights;
  std::optional<DescribedModel> model;
  std::unique_ptr<RecurrentModel> recurrent;  // instead
  Tokenizer tokenizer;
  std::vector<std::int32_t> ends;
  std::string family;
};

Parts load_parts(const std::string& path) {
  auto weights = std::make_unique<Weights>(path);
  if (const Gguf* const gguf = weights->gguf()) {
    DescribedModel model = load_gguf(*weights);
    Tokenizer tokenizer = read_gguf_tokenizer(*gguf);
    std::vector<std::int32_t> ends = gguf_end_tokens(*gguf);
    std::string family = gguf->text("general.architecture");
    return {std::move(weights),   std::move(model), nullptr,
            std::move(tokenizer), std::move(ends),  std::move(family)};
  }
  if (!std::filesystem::is_directory(path)) {
    throw Error(path +
                ": holds weights alone; give the folder with its config.json and "
                "tokenizer.json");
  }
  const std::string config_path = path + "/config.json";
  const std::string config_text = read_file(config_path);
  const Json tree = Json::parse(config_text, config_path);
  const Fields config(tree, config_path);
  std::string family = config.needed_text("model_type");
  if (is_encoder(family)) {
    throw Error(config_path + ": model_type \"" + family +
                "\" is an encoder's, which continues no texts");
  }
  std::optional<DescribedModel> model;
  std::unique_ptr<RecurrentModel> recurrent;
  if (is_recurrent(family))
    recurrent = load_recurrent(config_text, config_path, *weights);
  else
    model = load_described(config_text, config_path, *weights);
  auto tokenizer = read_folder_tokenizer(path, family);
  if (!tokenizer) throw Error(path + "/tokenizer.json: is missing");
  return {std::move(weights),    std::move(model),         std::move(recurrent),
          *std::move(tokenizer), end_tokens(path, config), std::move(family)};
}

Parts stretched(Parts parts, const LanguageModelOptions& options) {
  if (!options.rope_scaling) return parts;
  if (!parts.model)
    throw std::invalid_argument("[load] a model with a state has no rotary positions to stretch");
  stretch(parts.model->config, *options.rope_scaling);
  return parts;
}

}  // namespace

struct LanguageModel::Impl {
  Impl(const std::string& path, const Context& where, const LanguageModelOptions& options)
      : Impl(path, where, stretched(load_parts(path), options)) {}
  Impl(const std::string& path, const Context& where, Parts parts)
      : context(where),
        weights(std::move(parts.weights)),
        tokenizer(std::move(parts.tokenizer)),
        ends(std::move(parts.ends)),
        recurrent(std::move(parts.recurrent)) {
    if (parts.model) {
      transformer.emplace(parts.model->config, std::move(parts.model->weights));
      info =
          model_info(transformer->config(), std::move(parts.family), path, weights->parameters());
    } else {
      const RecurrentModel::Sizes& sizes = recurrent->sizes();
      info.family = std::move(parts.family);
      info.path = path;
      info.layers = sizes.layers;
      info.heads = info.kv_heads = sizes.heads;
      info.width = sizes.width;
      info.vocabulary = sizes.vocabulary;
      info.max_length = info.max_positions = kAnyLength;
      info.parameters = weights->parameters();
    }
    if (tokenizer.size() > info.vocabulary) {
      throw Error(path + ": the tokenizer has " + std::to_string(tokenizer.size()) +
                  " tokens, the model " + std::to_string(info.vocabulary));
    }
  }

  // Throws std::invalid_argument for a model with a state.
  const Transformer& attending(const char* function) const {
    if (transformer) return *transformer;
    throw std::invalid_argument(std::string("[") + function + "] a model of the family " +
                                info.family + " has a state instead of heads that attend");
  }
  // Throws std::invalid_argument for a text that is longer than the model's positions.
  void check_length(std::size_t tokens, const char* function) const;

  Context context;
  std::unique_ptr<Weights> weights;
  Tokenizer tokenizer;
  std::vector<std::int32_t> ends;
  std::optional<Transformer> transformer;
  std::unique_ptr<RecurrentModel> recurrent;  // instead
  ModelInfo info;
};

bool is_language_model(const std::string& path) {
  const std::string source = path + "/config.json";
  if (std::filesystem::is_directory(path)) {
    if (const auto text = read_file_if_present(source)) {
      const Json config = Json::parse(*text, source);
      return !is_encoder(Fields(config, source).needed_text("model_type"));
    }
  }
  return Weights(path).gguf() != nullptr;
}

LanguageModel LanguageModel::load(const std::string& path, const Context& context,
                                  const LanguageModelOptions& options) {
  return LanguageModel(std::make_shared<const Impl>(path, context, options));
}

const ModelInfo& LanguageModel::info() const { return impl_->info; }

std::vector<std::int32_t> LanguageModel::encode(const std::string& text) const {
  return impl_->tokenizer.encode(text).ids;
}

std::string LanguageModel::piece(std::int32_t id) const { return impl_->tokenizer.piece(id); }

bool LanguageModel::is_text(std::int32_t id) const {
  try {
    return !impl_->tokenizer.is_special(id) && !piece(id).empty();
  } catch (const std::invalid_argument&) {
    return false;
  }
}

std::string LanguageModel::decode(std::span<const std::int32_t> ids) const {
  return impl_->tokenizer.decode(ids);
}

std::vector<std::int32_t> LanguageModel::encode_chat(const std::string& system,
                                                     const std::string& user) const {
  for (const char* const mark : {"<|im_start|>", "<|im_end|>"}) {
    if (!impl_->tokenizer.id(mark)) {
      throw std::invalid_argument(std::string("[chat] the model has no token ") + mark +
                                  "; it does not speak ChatML");
    }
  }
  std::string text;
  const auto add = [&](const std::string& role, const std::string& content) {
    text += "<|im_start|>" + role + "\n" + content + "<|im_end|>\n";
  };
  if (!system.empty()) add("system", system);
  add("user", user);
  return encode(text + "<|im_start|>assistant\n");
}

void LanguageModel::Impl::check_length(std::size_t tokens, const char* function) const {
  if (static_cast<std::int64_t>(tokens) <= info.max_positions) return;
  throw std::invalid_argument(std::string("[") + function + "] the text has " +
                              std::to_string(tokens) + " tokens, the model has " +
                              std::to_string(info.max_positions) +
                              " positions; rope_scaling stretches them");
}

std::vector<float> LanguageModel::logits(std::span<const std::int32_t> ids,
                                         const HeadAblation& ablation) const {
  impl_->check_length(ids.size(), "logits");
  const Context& context = impl_->context;
  if (impl_->recurrent && ablation.heads.empty())
    return impl_->recurrent->logits(hidden(ids), context);
  const Transformer& model = impl_->attending("logits");
  KvCache cache(model.cache_options(static_cast<std::int64_t>(ids.size())), context);
  const AttentionWatch watch{.outputs = ablate(ablation, model.config())};
  return model.logits(model.hidden(ids, cache, cache.create(), context, watch), context);
}

TextScore LanguageModel::score(std::span<const std::int32_t> ids,
                               const ScoreOptions& options) const {
  if (impl_->recurrent) return attn::score(*impl_->recurrent, ids, options, impl_->context);
  return attn::score(*impl_->transformer, ids, options, impl_->context);
}

std::vector<float> LanguageModel::head_means(std::span<const std::int32_t> ids,
                                             const ScoreOptions& options) const {
  return attn::head_means(impl_->attending("head_means"), ids, options, impl_->context);
}

HeadAblation LanguageModel::mean_ablation(const std::vector<HeadAblation::Head>& heads,
                                          std::span<const std::int32_t> ids,
                                          const ScoreOptions& options) const {
  HeadAblation ablation{.heads = heads};
  const TransformerConfig& config = impl_->attending("mean_ablation").config();
  ablate(ablation, config);  // throws for a head that is not there
  const std::vector<float> means = head_means(ids, options);
  const std::int64_t width = config.value_width;
  for (const HeadAblation::Head& head : heads) {
    const auto from = means.begin() + (head.layer * impl_->info.heads + head.head) * width;
    ablation.means.insert(ablation.means.end(), from, from + width);
  }
  return ablation;
}

std::vector<RecordToken> LanguageModel::tokens(std::span<const std::int32_t> ids) const {
  const Tokenizer& tokenizer = impl_->tokenizer;
  std::vector<TokenPiece> pieces;
  for (const std::int32_t id : ids) {
    const bool special = tokenizer.is_special(id);
    pieces.push_back({special ? tokenizer.piece(id) : tokenizer.token_bytes(id), special});
  }
  return record_tokens(pieces);
}

AttentionRecord LanguageModel::record(std::span<const std::int32_t> ids,
                                      std::vector<std::int64_t> layers,
                                      std::int64_t generated) const {
  const auto count = static_cast<std::int64_t>(ids.size());
  if (count == 0) throw std::invalid_argument("[record] the text has no tokens");
  impl_->check_length(ids.size(), "record");
  AttentionRecord record = begin_record(impl_->info);
  record.layer_numbers = recorded_layers(std::move(layers), impl_->info.layers);
  record.tokens = tokens(ids);
  record.verbatim = true;
  for (std::int64_t i = std::max<std::int64_t>(generated, 0); generated >= 0 && i < count; ++i)
    record.tokens[static_cast<std::size_t>(i)].generated = true;
  const auto is_wanted = [&](std::int64_t layer) {
    const auto& wanted = record.layer_numbers;
    return std::binary_search(wanted.begin(), wanted.end(), layer);
  };
  if (impl_->recurrent) {
    TextState state = impl_->recurrent->start();
    impl_->recurrent->hidden(ids, state, impl_->context,
                             [&](std::int64_t i, const ImpliedAttention& implied) {
                               if (is_wanted(i)) record.layers.push_back(implied_layer(implied));
                             });
    return record;
  }
  const Transformer& model = *impl_->transformer;
  const auto see = [&](const SeenAttention& seen) {
    if (!is_wanted(seen.layer)) return;
    LayerRecord layer = record_layer(seen, count, model.config(), impl_->context);
    layer.mask = model.attention(seen.layer).mask;
    layer.score = model.attention(seen.layer).score;
    record.layers.push_back(std::move(layer));
  };
  KvCache cache(model.cache_options(count), impl_->context);
  model.hidden(ids, cache, cache.create(), impl_->context, {.see = see});
  return record;
}

std::vector<float> LanguageModel::hidden(std::span<const std::int32_t> ids) const {
  if (!impl_->recurrent) return observe(ids, {});
  TextState state = impl_->recurrent->start();
  return impl_->recurrent->hidden(ids, state, impl_->context);
}

std::vector<float> LanguageModel::observe(std::span<const std::int32_t> ids,
                                          const Observed& observed) const {
  impl_->check_length(ids.size(), "observe");
  if (impl_->recurrent) {
    TextState state = impl_->recurrent->start();
    return impl_->recurrent->hidden(
        ids, state, impl_->context, [&](std::int64_t i, const ImpliedAttention& implied) {
          implied.observe(observed_of_layer(observed, i, impl_->info.layers), impl_->context);
        });
  }
  const Transformer& model = *impl_->transformer;
  KvCache cache(model.cache_options(static_cast<std::int64_t>(ids.size())), impl_->context);
  const auto ask = [&](std::int64_t i) {
    return observed_of_layer(observed, i, impl_->info.layers);
  };
  return model.hidden(ids, cache, cache.create(), impl_->context, {.ask = ask});
}

Mask LanguageModel::mask(std::int64_t layer) const {
  if (layer < 0 || layer >= impl_->info.layers) {
    throw std::invalid_argument("[mask] layer " + std::to_string(layer) + " of " +
                                std::to_string(impl_->info.layers));
  }
  return impl_->transformer ? impl_->transformer->attention(layer).mask : Mask::causal();
}

std::vector<std::vector<float>> LanguageModel::embed(std::span<const std::string> texts) const {
  std::vector<std::vector<float>> out;
  for (const std::string& text : texts) {
    const std::vector<std::int32_t> ids = encode(text);
    if (ids.empty()) throw std::invalid_argument("[embed] a text has no tokens");
    out.push_back(pool(hidden(ids).data(), static_cast<std::int64_t>(ids.size()), impl_->info.width,
                       {.pooling = Pooling::mean, .normalize = true}));
  }
  return out;
}

Generation LanguageModel::generate(std::span<const std::int32_t> prompt,
                                   const GenerationOptions& options,
                                   const std::function<void(std::string_view)>& show) const {
  const auto bytes_of = [&](std::int32_t id) { return token_bytes(impl_->tokenizer, id); };
  if (impl_->recurrent) {
    // A state does not tell who wrote it: where heads looked is asked of the text that came of it.
    GenerationOptions plain = options;
    plain.top_keys = std::min<std::int64_t>(options.top_keys, 0);
    Generation got = attn::generate(*impl_->recurrent, prompt, bytes_of, impl_->ends, plain,
                                    impl_->context, show);
    if (options.top_keys < 1 || got.ids.empty()) return got;
    std::vector<std::int32_t> text(prompt.begin(), prompt.end());
    text.insert(text.end(), got.ids.begin(), got.ids.end() - 1);
    got.attention = attention_of(impl_->info, static_cast<std::int64_t>(text.size()),
                                 static_cast<std::int64_t>(prompt.size()) - 1, options.top_keys,
                                 [&](const Observed& asked) { observe(text, asked); });
    return got;
  }
  return attn::generate(*impl_->transformer, prompt, bytes_of, impl_->ends, options, impl_->context,
                        show);
}

std::vector<Generation> LanguageModel::generate_batch(
    std::span<const std::vector<std::int32_t>> prompts, const GenerationOptions& options,
    const std::function<void(std::size_t, std::string_view)>& show) const {
  if (impl_->recurrent) {
    // One after the other, each from its own state.
    std::vector<Generation> all;
    double waited = 0;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      Generation& g = all.emplace_back(generate(prompts[i], options, [&](std::string_view text) {
        if (show) show(i, text);
      }));
      g.prompt_seconds += waited;
      waited = g.prompt_seconds + g.seconds;
    }
    return all;
  }
  return attn::generate_batch(
      *impl_->transformer, prompts,
      [&](std::int32_t id) { return token_bytes(impl_->tokenizer, id); }, impl_->ends, options,
      impl_->context, show);
}

}  // namespace attn

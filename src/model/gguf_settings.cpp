#include "model/gguf_settings.h"

#include <algorithm>
#include <cmath>

#include "attn/error.h"
#include "model/families.h"

namespace attn {

GgufSettings::GgufSettings(const Gguf& gguf)
    : gguf_(gguf), architecture_(gguf.text("general.architecture")) {}

void GgufSettings::fail(const std::string& key, const std::string& what) const {
  throw Error(gguf_.source() + ": key " + architecture_ + "." + key + ": " + what);
}

bool GgufSettings::has(const std::string& key) const {
  asked_.insert(key);
  return gguf_.has(architecture_ + "." + key);
}

std::int64_t GgufSettings::size(const std::string& key, std::int64_t largest) const {
  asked_.insert(key);
  const std::int64_t value = gguf_.integer(architecture_ + "." + key);
  if (value < 1 || value > largest) {
    fail(key, "is " + std::to_string(value) + ", must be in [1, " + std::to_string(largest) + "]");
  }
  return value;
}

std::int64_t GgufSettings::size(const std::string& key, std::int64_t largest,
                                std::int64_t otherwise) const {
  return has(key) ? size(key, largest) : otherwise;
}

double GgufSettings::real(const std::string& key, double least, double most,
                          double otherwise) const {
  const double value = has(key) ? gguf_.real(architecture_ + "." + key) : otherwise;
  if (!(value >= least && value <= most)) {
    fail(key, "is " + std::to_string(value) + ", must be in [" + std::to_string(least) + ", " +
                  std::to_string(most) + "]");
  }
  return value;
}

std::optional<std::string> GgufSettings::text(const std::string& key) const {
  if (!has(key)) return std::nullopt;
  return gguf_.text(architecture_ + "." + key);
}

void GgufSettings::refuse_others() const {
  // Names, of what was trained how, and of what only other programs do with a model.
  static const std::set<std::string, std::less<>> kNoResult = {
      "pooling_type", "rope.scaling.finetuned", "tensor_data_layout", "vocab_size"};
  // What every architecture may say, as long as it says what all of them here do.
  if (has("expert_count") && gguf_.integer(architecture_ + ".expert_count") != 0)
    fail("expert_count", "is not 0: mixtures of experts are not run");
  if (has("expert_used_count") && gguf_.integer(architecture_ + ".expert_used_count") != 0)
    fail("expert_used_count", "is not 0: mixtures of experts are not run");
  if (has("attention.causal") && !gguf_.boolean(architecture_ + ".attention.causal"))
    fail("attention.causal", "is false, which we do not run");
  const std::string prefix = architecture_ + ".";
  for (const GgufValue& value : gguf_.metadata()) {
    if (!value.key.starts_with(prefix)) continue;
    const std::string_view key = value.key.substr(prefix.size());
    if (asked_.count(key) == 0 && kNoResult.count(key) == 0) fail(std::string(key), "is not known");
  }
}

const float* GgufTensors::floats(const std::string& name, const std::vector<std::int64_t>& shape) {
  asked_.insert(name);
  return weights_.floats(name, shape);
}

TransformerWeights::Linear GgufTensors::linear(const std::string& name, std::int64_t out,
                                               std::int64_t in, bool needs_bias) {
  const bool bias = needs_bias || has(name + ".bias");
  return {floats(name + ".weight", {out, in}), bias ? floats(name + ".bias", {out}) : nullptr};
}

TransformerWeights::Norm GgufTensors::norm(const std::string& name, std::int64_t width, bool bias) {
  return {floats(name + ".weight", {width}), bias ? floats(name + ".bias", {width}) : nullptr};
}

void GgufTensors::refuse_others(const std::string& architecture) const {
  for (const TensorEntry& entry : weights_.entries()) {
    if (asked_.count(entry.name) == 0) {
      throw Error(weights_.gguf()->source() + ": tensor " + entry.name +
                  ": is not known to architecture \"" + architecture + "\"");
    }
  }
}

TransformerConfig read_sizes(const GgufSettings& settings) {
  TransformerConfig c;
  c.layers = settings.size("block_count", kLargestLayers);
  c.width = settings.size("embedding_length", kLargestSize);
  c.feed_forward_width = settings.size("feed_forward_length", kLargestSize);
  c.heads = settings.size("attention.head_count", kLargestSize);
  c.kv_heads = settings.size("attention.head_count_kv", kLargestSize, c.heads);
  c.positions = settings.size("context_length", kLargestSize);
  if (c.heads % c.kv_heads != 0)
    settings.fail("attention.head_count_kv", "does not divide attention.head_count");
  const bool apart = settings.has("attention.key_length");
  if (!apart && c.width % c.heads != 0)
    settings.fail("attention.head_count", "does not divide embedding_length");
  c.head_width = settings.size("attention.key_length", kLargestHeadWidth, c.width / c.heads);
  if (c.head_width > kLargestHeadWidth) {
    settings.fail("embedding_length", "gives heads of width " + std::to_string(c.head_width) +
                                          ", at most " + std::to_string(kLargestHeadWidth) +
                                          " are supported");
  }
  if (settings.size("attention.value_length", kLargestHeadWidth, c.head_width) != c.head_width)
    settings.fail("attention.value_length", "is not the width of the keys, which we do not run");
  if (settings.has("attention.sliding_window")) {
    const std::int64_t window = settings.size("attention.sliding_window", kLargestSize);
    c.windows.assign(static_cast<std::size_t>(c.layers), window);
  }
  const std::size_t tokens = settings.gguf().texts("tokenizer.ggml.tokens").size();
  if (tokens < 1 || tokens > static_cast<std::size_t>(kLargestSize)) {
    throw Error(settings.gguf().source() + ": key tokenizer.ggml.tokens: has " +
                std::to_string(tokens) + " tokens, must have 1 to " + std::to_string(kLargestSize));
  }
  c.vocabulary = static_cast<std::int64_t>(tokens);
  return c;
}

namespace {

RopeScaling read_scaling(const GgufSettings& settings, std::int64_t positions) {
  constexpr double kMost = 1 << 20;
  const std::string type = settings.text("rope.scaling.type").value_or("linear");
  // What the model was trained for; it means something to YaRN only.
  const std::int64_t length =
      settings.size("rope.scaling.original_context_length", kLargestSize, positions);
  double factor = settings.real("rope.scaling.factor", 0, kMost, 0);
  if (factor == 0) factor = settings.real("rope.scale_linear", 0, kMost, 0);  // of early files
  if (factor == 0) factor = 1;
  if (factor < 1) settings.fail("rope.scaling.factor", "is below 1");
  if (type == "none" || (type == "linear" && factor == 1)) return {};
  if (type == "linear") return RopeScaling::linear(factor);
  if (type != "yarn")
    settings.fail("rope.scaling.type", "\"" + type + "\" is not known (none, linear, yarn)");
  RopeScaling yarn = RopeScaling::yarn(factor, length);
  yarn.beta_fast = settings.real("rope.scaling.yarn_beta_fast", 0, kMost, yarn.beta_fast);
  yarn.beta_slow = settings.real("rope.scaling.yarn_beta_slow", 1e-6, kMost, yarn.beta_slow);
  if (!(yarn.beta_fast > yarn.beta_slow))
    settings.fail("rope.scaling.yarn_beta_fast", "is not above yarn_beta_slow");
  settings.real("rope.scaling.yarn_ext_factor", 1, 1, 1);
  // They multiply the magnitude that follows from the factor.
  const double attention = settings.real("rope.scaling.attn_factor", 1e-6, kMost, 1) *
                           settings.real("rope.scaling.yarn_attn_factor", 1e-6, kMost, 1);
  yarn.attention_factor = attention * (0.1 * std::log(factor) + 1);
  return yarn;
}

}  // namespace

RopeOptions read_rope(const GgufSettings& settings, GgufTensors& tensors,
                      const TransformerConfig& config, RopeLayout layout) {
  RopeOptions rope{.layout = layout};
  rope.base = settings.real("rope.freq_base", 1 + 1e-6, 1e12, 10000);
  const std::int64_t rotated =
      settings.size("rope.dimension_count", config.head_width, config.head_width);
  if (rotated % 2 != 0) settings.fail("rope.dimension_count", "is odd");
  rope.fraction = static_cast<double>(rotated) / static_cast<double>(config.head_width);
  rope.scaling = read_scaling(settings, config.positions);
  const std::string divisors = "rope_freqs.weight";
  if (tensors.has(divisors)) {
    const float* const from = tensors.floats(divisors, {rotated / 2});
    const std::vector<double> list(from, from + rotated / 2);
    const auto fits = [](double x) { return x > 0 && std::isfinite(x); };
    const std::string place = settings.gguf().source() + ": tensor " + divisors;
    if (!std::all_of(list.begin(), list.end(), fits))
      throw Error(place + ": holds a number that is not positive");
    if (rope.scaling.kind != RopeScaling::Kind::none)
      throw Error(place + ": and rope.scaling.type are both there, which we do not run");
    rope.scaling = RopeScaling::divided(list);
  }
  return rope;
}

}  // namespace attn

#include "model/families.h"

#include <algorithm>
#include <iterator>
#include <span>
#include <string_view>
#include <vector>

namespace attn {

DescribedModel load_described(const std::string& config_json, const std::string& source,
                              Weights& weights) {
  const Json tree = Json::parse(config_json, source);
  const Fields fields(tree, source);
  const std::string type = fields.needed_text("model_type");
  if (type == "bert" || type == "roberta") return load_bert(fields, type, weights);
  if (type == "distilbert") return load_distilbert(fields, weights);
  if (type == "longformer") return load_longformer(fields, weights);
  if (type == "big_bird") return load_big_bird(fields, weights);
  if (type == "bloom") return load_bloom(fields, weights);
  if (type == "deepseek_v2") return load_deepseek_v2(fields, weights);
  if (type == "gemma2") return load_gemma2(fields, weights);
  if (type == "gpt2") return load_gpt2(fields, weights);
  if (type == "gptj") return load_gptj(fields, weights);
  if (type == "mpt") return load_mpt(fields, weights);
  if (type == "gpt_neox") return load_gpt_neox(fields, weights);
  if (type == "llama" || type == "mistral" || type == "qwen2" || type == "qwen3")
    return load_llama(fields, type, weights);
  fields.fail(
      "model_type",
      "\"" + type +
          "\" is not known (bert, roberta, distilbert, longformer, big_bird, llama, mistral, "
          "qwen2, qwen3, gemma2, gpt2, gpt_neox, gptj, bloom, mpt, deepseek_v2)");
}

bool is_encoder(const std::string& model_type) {
  static constexpr std::string_view kEncoders[] = {"bert", "roberta", "distilbert", "longformer",
                                                   "big_bird"};
  return std::find(std::begin(kEncoders), std::end(kEncoders), model_type) != std::end(kEncoders);
}

TransformerConfig read_sizes(const Fields& fields, const SizeNames& names) {
  TransformerConfig c;
  c.width = fields.needed_size(names.width, kLargestSize);
  c.layers = fields.needed_size(names.layers, kLargestLayers);
  c.heads = fields.needed_size(names.heads, kLargestSize);
  c.kv_heads = c.heads;
  if (names.kv_heads != nullptr)
    c.kv_heads = fields.size(names.kv_heads, kLargestSize).value_or(c.heads);
  if (c.heads % c.kv_heads != 0)
    fields.fail(names.kv_heads, std::string("does not divide ") + names.heads);
  const auto head_width = names.head_width != nullptr
                              ? fields.size(names.head_width, kLargestHeadWidth)
                              : std::optional<std::int64_t>();
  if (!head_width && c.width % c.heads != 0)
    fields.fail(names.heads, std::string("does not divide ") + names.width);
  c.head_width = head_width.value_or(c.width / c.heads);
  if (c.head_width > kLargestHeadWidth) {
    fields.fail(names.width, "gives heads of width " + std::to_string(c.head_width) + ", at most " +
                                 std::to_string(kLargestHeadWidth) + " are supported");
  }
  if (names.feed_forward_width != nullptr)
    c.feed_forward_width = fields.needed_size(names.feed_forward_width, kLargestSize);
  c.vocabulary = fields.needed_size(names.vocabulary, kLargestSize);
  if (names.positions != nullptr) c.positions = fields.needed_size(names.positions, kLargestSize);
  return c;
}

double read_epsilon(const Fields& fields, const char* name, double otherwise) {
  const double epsilon = fields.number(name).value_or(otherwise);
  if (!(epsilon >= 0 && epsilon < 1))
    fields.fail(name, "is " + std::to_string(epsilon) + ", must be in [0, 1)");
  return epsilon;
}

void require_encoder(const Fields& fields, const std::string& family) {
  static constexpr std::string_view kHeads[] = {"Model",
                                                "ForPreTraining",
                                                "ForMaskedLM",
                                                "ForMultipleChoice",
                                                "ForNextSentencePrediction",
                                                "ForQuestionAnswering",
                                                "ForSequenceClassification",
                                                "ForTokenClassification"};
  const Json* const list = fields.find("architectures");
  if (list == nullptr) return;
  for (const Json& name : list->items) {
    const bool known =
        std::any_of(std::begin(kHeads), std::end(kHeads),
                    [&](std::string_view head) { return name.text == family + std::string(head); });
    if (!known) fields.fail("architectures", "names \"" + name.text + "\", which is not known");
  }
}

TransformerWeights::Linear read_linear(Weights& weights, const std::string& name, std::int64_t out,
                                       std::int64_t in, bool bias) {
  return {weights.floats(name + ".weight", {out, in}),
          bias ? weights.floats(name + ".bias", {out}) : nullptr};
}

TransformerWeights::Norm read_norm(Weights& weights, const std::string& name, std::int64_t width,
                                   bool bias) {
  return {weights.floats(name + ".weight", {width}),
          bias ? weights.floats(name + ".bias", {width}) : nullptr};
}

nn::Activation activation_named(const Fields& fields, const char* name) {
  const std::string value = fields.needed_text(name);
  if (value == "gelu" || value == "gelu_python") return nn::Activation::gelu;
  if (value == "gelu_new" || value == "gelu_pytorch_tanh" || value == "gelu_fast")
    return nn::Activation::gelu_tanh;
  if (value == "silu" || value == "swish") return nn::Activation::silu;
  if (value == "relu") return nn::Activation::relu;
  fields.fail(name,
              "\"" + value + "\" is not known (gelu, gelu_new, gelu_pytorch_tanh, silu, relu)");
}

namespace {

double positive(const Fields& fields, const char* name, std::optional<double> otherwise = {}) {
  const auto value = fields.number(name);
  if (!value && !otherwise) fields.fail(name, "is missing");
  const double number = value ? *value : *otherwise;
  if (!(number > 0)) fields.fail(name, "must be above 0");
  return number;
}

RopeScaling read_scaling(const Fields& fields, const std::string& type, std::int64_t positions) {
  if (type == "default") return {};
  const double factor = positive(fields, "factor");
  if (type == "linear") return RopeScaling::linear(factor);
  if (type == "dynamic") {
    return RopeScaling::dynamic_ntk(
        factor, fields.size("original_max_position_embeddings", kLargestSize).value_or(positions));
  }
  if (type == "llama3") {
    return RopeScaling::llama3(
        factor, positive(fields, "low_freq_factor"), positive(fields, "high_freq_factor"),
        fields.needed_size("original_max_position_embeddings", kLargestSize));
  }
  if (type == "yarn") {
    RopeScaling yarn = RopeScaling::yarn(
        factor, fields.size("original_max_position_embeddings", kLargestSize).value_or(positions));
    yarn.beta_fast = positive(fields, "beta_fast", yarn.beta_fast);
    yarn.beta_slow = positive(fields, "beta_slow", yarn.beta_slow);
    yarn.truncate = fields.boolean("truncate").value_or(true);
    yarn.attention_factor = fields.number("attention_factor").value_or(0);
    yarn.mscale = fields.number("mscale").value_or(0);
    yarn.mscale_all_dim = fields.number("mscale_all_dim").value_or(0);
    return yarn;
  }
  fields.fail("rope_type",
              "\"" + type + "\" is not known (default, linear, dynamic, yarn, llama3)");
}

}  // namespace

RopeOptions read_rope(const Fields& fields, std::int64_t positions) {
  RopeOptions rope;
  rope.base = positive(fields, "rope_theta", rope.base);
  rope.fraction = fields.number("partial_rotary_factor").value_or(1);
  for (const char* const name : {"rope_parameters", "rope_scaling"}) {
    const Json* const object = fields.find(name);
    if (object == nullptr) continue;
    const Fields inner(*object, fields.source() + ": " + name);
    rope.base = positive(inner, "rope_theta", rope.base);
    rope.fraction = inner.number("partial_rotary_factor").value_or(rope.fraction);
    // Early files say "type", and newer ones both.
    const auto early = inner.text("type"), type = inner.text("rope_type");
    rope.scaling = read_scaling(inner, type ? *type : early.value_or("default"), positions);
    inner.refuse_others({}, {"max_position_embeddings"});
  }
  if (!(rope.fraction > 0 && rope.fraction <= 1))
    fields.fail("partial_rotary_factor", "must be in (0, 1]");
  return rope;
}

TransformerWeights::Linear part_of_heads(TransformerWeights& weights,
                                         const TransformerWeights::Linear& all, int part,
                                         const TransformerConfig& config) {
  const auto copy = [&](const float* from, std::int64_t in) {
    const std::int64_t each = config.head_width * in;
    std::vector<float>& to = weights.made.emplace_back();
    to.reserve(static_cast<std::size_t>(config.heads * each));
    for (std::int64_t h = 0; h < config.heads; ++h) {
      const float* rows = from + (3 * h + part) * each;
      to.insert(to.end(), rows, rows + each);
    }
    return to.data();
  };
  return {copy(all.weight, config.width), copy(all.bias, 1)};
}

void require(const Fields& fields, const char* name, bool value) {
  if (fields.boolean(name).value_or(value) != value)
    fields.fail(name, std::string("is ") + (value ? "false" : "true") + ", which we do not run");
}

void refuse_others(const Fields& fields, std::initializer_list<std::string_view> also) {
  static constexpr std::string_view kEverywhere[] = {"_name_or_path",
                                                     "architectures",
                                                     "attention_dropout",
                                                     "bos_token_id",
                                                     "chunk_size_feed_forward",
                                                     "classifier_dropout",
                                                     "dtype",
                                                     "eos_token_id",
                                                     "finetuning_task",
                                                     "id2label",
                                                     "initializer_range",
                                                     "is_decoder",
                                                     "label2id",
                                                     "output_attentions",
                                                     "output_hidden_states",
                                                     "pad_token_id",
                                                     "pretraining_tp",
                                                     "problem_type",
                                                     "return_dict",
                                                     "task_specific_params",
                                                     "torch_dtype",
                                                     "transformers_version",
                                                     "use_cache"};
  fields.refuse_others(std::span<const std::string_view>(kEverywhere), also);
}

}  // namespace attn

// Families of models: which name and which setting in their files means what in the
// description of a transformer (transformer.h). Nothing else differs between them.
#pragma once

#include <string>

#include "model/fields.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace attn {

struct DescribedModel {
  TransformerConfig config;
  TransformerWeights weights;  // point into the file, which must live longer
};

// By model_type of config.json: bert, roberta, distilbert, longformer and big_bird, which are
// encoders; llama, mistral, qwen2, qwen3, gemma2, gpt2, gpt_neox, gptj, bloom, mpt, deepseek_v2.
// Throws attn::Error for another type, and for a setting that is not known or that we do not run,
// by its name.
DescribedModel load_described(const std::string& config_json, const std::string& source,
                              Weights& weights);

// Is it an encoder's model_type?
bool is_encoder(const std::string& model_type);

// By general.architecture of a GGUF file: gpt2, llama (Mistral's and SmolLM2's too), qwen2, qwen3,
// gemma2, phi3. Throws attn::Error likewise, also for a tensor that is not known.
DescribedModel load_gguf(Weights& weights);
class GgufSettings;
class GgufTensors;
DescribedModel load_gguf_gpt2(const GgufSettings& in, GgufTensors& tensors);

// The families, one file each.
DescribedModel load_bert(const Fields& fields, const std::string& type, Weights& weights);
DescribedModel load_distilbert(const Fields& fields, Weights& weights);
DescribedModel load_longformer(const Fields& fields, Weights& weights);
DescribedModel load_big_bird(const Fields& fields, Weights& weights);
DescribedModel load_llama(const Fields& fields, const std::string& type, Weights& weights);
DescribedModel load_deepseek_v2(const Fields& fields, Weights& weights);
DescribedModel load_gemma2(const Fields& fields, Weights& weights);
DescribedModel load_gpt2(const Fields& fields, Weights& weights);
DescribedModel load_gpt_neox(const Fields& fields, Weights& weights);
DescribedModel load_gptj(const Fields& fields, Weights& weights);
DescribedModel load_bloom(const Fields& fields, Weights& weights);
DescribedModel load_mpt(const Fields& fields, Weights& weights);

// What several of them share.

// Bounds far above any model keep products of sizes inside 64 bits.
constexpr std::int64_t kLargestSize = 1 << 24;
constexpr std::int64_t kLargestLayers = 1 << 12;
constexpr std::int64_t kLargestHeadWidth = 1024;  // that attention takes

// BERT's settings, which those that came of it share.
TransformerConfig read_bert_config(const Fields& fields);
// Embeddings and layers as BERT names them, with `prefix` before each name.
TransformerWeights read_bert_weights(Weights& weights, const TransformerConfig& config,
                                     const std::string& prefix, bool projection_biases = true);
// RoBERTa's first position is the row behind the padding token's.
void skip_padding_position(const Fields& fields, std::int64_t padding, DescribedModel& model);

// What a family calls its sizes; null: it has none of the kind.
struct SizeNames {
  const char* width = "hidden_size";
  const char* layers = "num_hidden_layers";
  const char* heads = "num_attention_heads";
  const char* kv_heads = nullptr;    // missing: as heads
  const char* head_width = nullptr;  // missing: the heads share the width
  const char* feed_forward_width = "intermediate_size";
  const char* vocabulary = "vocab_size";
  const char* positions = "max_position_embeddings";
};
TransformerConfig read_sizes(const Fields& fields, const SizeNames& names = {});
// Of a norm; in [0, 1).
double read_epsilon(const Fields& fields, const char* name, double otherwise);
// Throws unless "architectures" names models of this family that are encoders: "BertModel",
// "BertForMaskedLM".
void require_encoder(const Fields& fields, const std::string& family);

// name.weight [out][in] and, with one, name.bias [out].
TransformerWeights::Linear read_linear(Weights& weights, const std::string& name, std::int64_t out,
                                       std::int64_t in, bool bias);
// name.weight [width] and, for layer norms, name.bias [width].
TransformerWeights::Norm read_norm(Weights& weights, const std::string& name, std::int64_t width,
                                   bool bias);
nn::Activation activation_named(const Fields& fields, const char* name);
// rope_parameters, or rope_theta and rope_scaling of earlier versions.
RopeOptions read_rope(const Fields& fields, std::int64_t positions);
// Part 0, 1 or 2 (queries, keys, values) of a product whose rows are [heads][3][head_width], copied
// to `made`.
TransformerWeights::Linear part_of_heads(TransformerWeights& weights,
                                         const TransformerWeights::Linear& all, int part,
                                         const TransformerConfig& config);
// The setting `name` changes what the model computes in a way that we do not run, unless it is
// `value` or absent.
void require(const Fields& fields, const char* name, bool value);
// Settings that every config.json may have and that change no result.
void refuse_others(const Fields& fields, std::initializer_list<std::string_view> also = {});

}  // namespace attn

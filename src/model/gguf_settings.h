// What a GGUF file says of its model, read strictly: a setting or a tensor that nobody asked for is
// an error, since it may change what the model computes.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "model/transformer.h"
#include "model/weights.h"

namespace attn {

// The keys that begin with the architecture's name, which questions leave out. Each question throws
// attn::Error that names the key when the value is missing, of another type or out of bounds.
class GgufSettings {
 public:
  explicit GgufSettings(const Gguf& gguf);

  const std::string& architecture() const { return architecture_; }
  const Gguf& gguf() const { return gguf_; }
  [[noreturn]] void fail(const std::string& key, const std::string& what) const;

  bool has(const std::string& key) const;
  // In [1, largest].
  std::int64_t size(const std::string& key, std::int64_t largest) const;
  std::int64_t size(const std::string& key, std::int64_t largest, std::int64_t otherwise) const;
  // In [least, most], both included.
  double real(const std::string& key, double least, double most, double otherwise) const;
  std::optional<std::string> text(const std::string& key) const;
  // Throws for a key of the architecture that was not asked for, unless it changes no result.
  void refuse_others() const;

 private:
  const Gguf& gguf_;
  std::string architecture_;
  mutable std::set<std::string, std::less<>> asked_;
};

// A file's tensors by name.
class GgufTensors {
 public:
  explicit GgufTensors(Weights& weights) : weights_(weights) {}

  bool has(const std::string& name) const { return weights_.has(name); }
  const float* floats(const std::string& name, const std::vector<std::int64_t>& shape);
  // name.weight [out][in] and, where there is one or it is needed, name.bias [out].
  TransformerWeights::Linear linear(const std::string& name, std::int64_t out, std::int64_t in,
                                    bool needs_bias = false);
  // name.weight [width] and, where it is needed, name.bias [width].
  TransformerWeights::Norm norm(const std::string& name, std::int64_t width, bool bias = false);
  // Throws attn::Error for a tensor that was not asked for.
  void refuse_others(const std::string& architecture) const;

 private:
  Weights& weights_;
  std::set<std::string, std::less<>> asked_;
};

// block_count, embedding_length, feed_forward_length, attention.head_count, head_count_kv,
// key_length and value_length, context_length, sliding_window; the vocabulary is the tokenizer's.
TransformerConfig read_sizes(const GgufSettings& settings);
// rope.*, and the divisors of rope_freqs.weight.
RopeOptions read_rope(const GgufSettings& settings, GgufTensors& tensors,
                      const TransformerConfig& config, RopeLayout layout);

}  // namespace attn

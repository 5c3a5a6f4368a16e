// Linear attention: softmax's kernel exp(q . k) replaced by a product of features phi(q) . phi(k),
// so that a state of features x values stands for all keys (Katharopoulos et al. 2020, arXiv
// 2006.16236), and FAVOR+, whose random features estimate that kernel without bias (Performer,
// Choromanski et al. 2021, arXiv 2009.14794).
//
//   y_i = sum over j of phi(q_i) . phi(k_j) v_j / sum over j of phi(q_i) . phi(k_j)
//
// over j <= i, or over all j. O(L) time; memory beside the tensors does not grow with the length
// forward, and backward by a state for 64 tokens of one head a thread (favor: for 512 tokens of all
// heads).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "attn/context.h"
#include "attn/tensor.h"

namespace attn {

enum class FeatureMap : std::uint8_t {
  identity,
  relu,
  elu_plus_one,  // elu(x) + 1, of Katharopoulos et al.
  favor          // positive orthogonal random features of exp(q . k / sqrt(D))
};

// The random directions of FAVOR+: blocks of at most D orthogonal ones, with the lengths of vectors
// of D standard normal numbers. The same seed gives the same directions on every machine.
class RandomFeatures {
 public:
  // Throws std::invalid_argument for a width or count outside 1...1024.
  RandomFeatures(std::int64_t width, std::int64_t count, std::uint64_t seed,
                 bool orthogonal = true);

  std::int64_t width() const { return width_; }
  std::int64_t count() const { return count_; }
  // [count][width]
  const std::vector<double>& directions() const { return directions_; }

  struct Packed;  // as the kernels read them
  const Packed& packed() const { return *packed_; }

 private:
  std::int64_t width_, count_;
  std::vector<double> directions_;
  std::shared_ptr<const Packed> packed_;
};

struct LinearAttentionOptions {
  FeatureMap map = FeatureMap::elu_plus_one;
  // For FeatureMap::favor; one for all heads. Draw others now and then in training.
  std::shared_ptr<const RandomFeatures> random = {};
  bool causal = true;     // false: every query reads all keys
  bool normalise = true;  // false: without the denominator; not with favor
  double epsilon = 0;     // added to the denominator; a denominator of 0 gives 0
  // Sequences one after the other along the length, with batch 1: sequence s has tokens
  // [offsets[s], offsets[s + 1]), and states have as many entries as there are sequences. Empty: a
  // batch.
  std::vector<std::int64_t> offsets = {};
};

// What stands for all keys so far.
struct LinearState {
  // [B, H, F, Dv + 1] (normalised; the last column sums keys) or [B, H, F, Dv], F the number of
  // features: Dk, with favor the number of directions.
  Tensor sums = {};
  // With favor [B, H, 1, 1]: the sums are to be multiplied by its exponential. -infinity when
  // empty.
  Tensor log_scale = {};
};

// q, k [B, Hq, L, Dk], v [B, H, L, Dv], H a multiple of Hq (H / Hq consecutive heads read the same
// queries and keys); out [B, H, L, Dv]. `state` holds what came before (zeros for nothing;
// log_scale -infinity) and then what comes after; empty: nothing before, and not wanted. Not
// causal: without a state. float32, or float64 throughout. Throws std::invalid_argument when
// something does not fit.
void linear_attention(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
                      const Tensor& out, const LinearAttentionOptions& options = {},
                      const LinearState& state = {}, const Context& context = Context());

// Gradients of q, k and v from that of out (empty: not computed); from no state, and to none.
void linear_attention_backward(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
                               const ConstTensor& d_out, const Tensor& d_q, const Tensor& d_k,
                               const Tensor& d_v, const LinearAttentionOptions& options = {},
                               const Context& context = Context());

// The state of two parts of a sequence, each run from nothing, to `state`; it may be the first.
void merge_linear_states(const LinearState& first, const LinearState& second,
                         const LinearState& state);

}  // namespace attn

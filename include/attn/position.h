// Positions: where tokens stand. Sinusoidal and learned tables, rotary embedding (RoPE) with its
// context extensions, ALiBi slopes, T5 buckets.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "attn/context.h"
#include "attn/tensor.h"

namespace attn {

// Sinusoidal table (arXiv 1706.03762, 3.5): out[p][2i] = sin(p / base^(2i/d)), out[p][2i+1] = cos.
// Writes [positions.size()][d_model]; odd d_model ends with a sine.
void sinusoidal(std::span<const std::int64_t> positions, std::int64_t d_model, float* out,
                double base = 10000.0);

// out[i] = table[positions[i]], rows of d_model. Throws std::invalid_argument naming the limit when
// a position is negative or at least `limit` (the rows of the table); never wraps.
void learned_positions(const float* table, std::int64_t limit, std::int64_t d_model,
                       std::span<const std::int64_t> positions, float* out);

// Which two components rotate together.
enum class RopeLayout : std::uint8_t {
  half,        // i and i + D/2: GPT-NeoX, Hugging Face LLaMA
  interleaved  // 2i and 2i + 1: GPT-J, original LLaMA
};

// How RoPE is stretched past its training length. Build one with the functions.
struct RopeScaling {
  enum class Kind : std::uint8_t { none, linear, ntk, dynamic_ntk, yarn, llama3, divided };
  Kind kind = Kind::none;
  double factor = 1.0;
  std::int64_t original_length = 0;  // training length L0: dynamic_ntk, yarn, llama3
  // yarn
  double beta_fast = 32, beta_slow = 1;
  bool truncate = true;         // round the correction range outwards
  double attention_factor = 0;  // magnitude; 0: 0.1 ln s + 1, or from the two below
  // When both are set: (0.1 mscale ln s + 1) / (0.1 mscale_all_dim ln s + 1), as Transformers does.
  double mscale = 0, mscale_all_dim = 0;
  bool paper_ramp = false;  // ramp linear in rotations (paper) instead of in index (code)
  // llama3
  double low_freq_factor = 1, high_freq_factor = 4;
  std::vector<double> divisors = {};  // divided: [rotary width / 2]

  // Position interpolation (arXiv 2306.15595): position / factor.
  static RopeScaling linear(double factor);
  // NTK-aware: base * factor^(D/(D-2)).
  static RopeScaling ntk(double factor);
  // Dynamic NTK: base * (s L/L0 - (s-1))^(D/(D-2)), L = max(sequence length, L0).
  static RopeScaling dynamic_ntk(double factor, std::int64_t original_length);
  // YaRN (arXiv 2309.00071).
  static RopeScaling yarn(double factor, std::int64_t original_length);
  // LLaMA 3.1.
  static RopeScaling llama3(double factor = 8, double low_freq_factor = 1,
                            double high_freq_factor = 4, std::int64_t original_length = 8192);
  // Every frequency by its own number, as files of GGUF keep LLaMA 3.1's scaling.
  static RopeScaling divided(std::vector<double> divisors);
  // "linear:2", "ntk:2", "dynamic:4", "yarn:4": a kind and its factor; "none:2" turns nothing
  // otherwise, for who would see what a model does past its length. original_length is left 0, for
  // who knows the model. Throws std::invalid_argument for anything else.
  static RopeScaling from_text(const std::string& text);
};

struct RopeOptions {
  double base = 10000.0;
  RopeLayout layout = RopeLayout::half;
  double fraction = 1.0;  // of the head width that rotates, from the front; rounded down to even
  RopeScaling scaling = {};
};

// Frequencies of one rotary embedding: angle(p, i) = p * frequency[i], cos and sin times magnitude.
struct RopeTable {
  std::vector<double> frequency;  // [rotary width / 2]
  double magnitude = 1.0;         // YaRN's attention factor
};

// `width` is the head width; `sequence_length` matters to dynamic_ntk only.
RopeTable rope_table(const RopeOptions& options, std::int64_t width,
                     std::int64_t sequence_length = 0);

// Rotates x [B, H, L, D] in place; positions [L] (or empty: 0, 1, ...). float32 and float64.
// Dynamic NTK takes the sequence length from the largest position + 1 unless given.
void rope(const Tensor& x, std::span<const std::int64_t> positions, const RopeOptions& options = {},
          std::int64_t sequence_length = 0);
// The inverse: rope_inverse(rope(x)) == x. Without a magnitude it is the gradient too; with a
// magnitude m (YaRN) the gradient is m^2 times it.
void rope_inverse(const Tensor& x, std::span<const std::int64_t> positions,
                  const RopeOptions& options = {}, std::int64_t sequence_length = 0);

// Cosines and sines of some positions, computed once where many tensors stand there, as in every
// layer of a model. Arguments as of rope(); 8 bytes for each position and dimension that rotates.
class RopeAngles {
 public:
  RopeAngles(std::span<const std::int64_t> positions, std::int64_t width,
             const RopeOptions& options = {}, std::int64_t sequence_length = 0);

  // x [B, H, L, D] in place: the bits of rope(x, positions, options, sequence_length).
  void rotate(const Tensor& x) const;

 private:
  RopeLayout layout_;
  std::int64_t length_, width_, pairs_;
  std::vector<double> cosines_, sines_;  // [length][pairs]
};

// ALiBi slopes of n heads (arXiv 2108.12409); max_bias 8 in the paper, `alibi_bias_max` in MPT.
std::vector<float> alibi_slopes(std::int64_t heads, double max_bias = 8.0);

// T5's bucket of relative position k_pos - q_pos.
int t5_bucket(std::int64_t relative, bool bidirectional = true, int buckets = 32,
              int max_distance = 128);

}  // namespace attn

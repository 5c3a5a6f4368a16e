// Recurrences of single channels: Mamba's causal convolution and selective scan (arXiv 2312.00752)
// and RWKV-4's weighted mean (arXiv 2305.13048), each with its state in and out and its gradients.
//
// A state carries what came before, so a sequence may come at once, in pieces or token by token:
// the bits are the same, for any thread count too. States are plain tensors; copy them to fork a
// sequence, merge them to join parts that ran apart. Decays are kept as logarithms: no length and
// no gate makes one overflow or become NaN.
//
// S sequences are the entries of a batch, or, with `offsets`, parts of a batch of 1: sequence s has
// tokens [offsets[s], offsets[s + 1]) and begins from its own state. Tensors are float32, or
// float64 throughout. An initial state that is empty is a fresh one. A final state may be written
// over the initial one (and is, for a token at a time, at its cost once); nothing else may overlap
// what is read. All functions throw std::invalid_argument when arguments do not fit, and when the
// context is already running.
#pragma once

#include <cstdint>
#include <vector>

#include "attn/context.h"
#include "attn/tensor.h"

namespace attn {

// --- Causal depthwise convolution -----------------------------------------------------------
//
//   out_t = f(bias + sum_i weight_i x_(t - width + 1 + i)),   i = 0 ... width - 1

struct ConvolutionInputs {
  ConstTensor x;           // [B, 1, L, channels]
  ConstTensor weight;      // [1, 1, width, channels], width 2...8; its last row meets the token
  ConstTensor bias = {};   // [1, 1, 1, channels]; empty: 0
  ConstTensor state = {};  // [S, 1, width - 1, channels]: what came before, oldest first
};

struct ConvolutionOutputs {
  Tensor out;         // [B, 1, L, channels]
  Tensor state = {};  // as the initial one; empty: not wanted
};

struct ConvolutionOptions {
  bool silu = false;  // f(x) = x sigmoid(x) instead of x
  std::vector<std::int64_t> offsets = {};
};

void causal_convolution(const ConvolutionInputs& inputs, const ConvolutionOutputs& outputs,
                        const ConvolutionOptions& options = {}, const Context& context = Context());

// Where gradients go, shaped as what they belong to; empty: not computed.
struct ConvolutionGradients {
  Tensor x = {}, weight = {}, bias = {}, state = {};
};

// `d`: gradients of the loss with respect to the outputs; an empty one is 0.
struct ConvolutionOutputGradients {
  ConstTensor out, state = {};
};
void causal_convolution_backward(const ConvolutionInputs& inputs,
                                 const ConvolutionOutputGradients& d,
                                 const ConvolutionGradients& to,
                                 const ConvolutionOptions& options = {},
                                 const Context& context = Context());

// The state of a sequence in two parts, from those of the parts, the second run from a fresh state;
// `lengths` [S]: tokens of the second. Outputs of its first width - 1 tokens need the state of the
// first to be right. `out` may be the memory of either.
void merge_convolution_states(const ConstTensor& first, const ConstTensor& second,
                              const std::vector<std::int64_t>& lengths, const Tensor& out);

// --- Selective scan (selective_scan_ref of state-spaces/mamba) ------------------------------
//
//   D_t = softplus(delta_t + delta_bias), or without softplus
//   h_t = exp(D_t a) h_(t - 1) + D_t b_t u_t        of each channel and of each of its N states
//   out_t = (sum over states of c_t h_t + d u_t) silu(z_t)

struct ScanInputs {
  ConstTensor u;      // [B, 1, L, channels]
  ConstTensor delta;  // [B, 1, L, channels]
  // [1, 1, N, channels]: the paper's A, transposed, as states are, so that channels lie together.
  // Below 0 for a decay.
  ConstTensor a;
  ConstTensor b, c;             // [B, groups, L, N]; a group has channels / groups channels
  ConstTensor d = {};           // [1, 1, 1, channels]; empty: 0
  ConstTensor z = {};           // [B, 1, L, channels]; empty: no gate
  ConstTensor delta_bias = {};  // [1, 1, 1, channels]; empty: 0
  ConstTensor state = {};       // [S, 1, N, channels]; fresh: 0
};

struct ScanOutputs {
  Tensor out;         // [B, 1, L, channels]
  Tensor state = {};  // as the initial one; empty: not wanted
  // [S, 1, 1, channels], float64: the sum of D_t, which merging needs, is added to it.
  Tensor elapsed = {};
};

struct ScanOptions {
  bool softplus = false;
  std::vector<std::int64_t> offsets = {};
};

void selective_scan(const ScanInputs& inputs, const ScanOutputs& outputs,
                    const ScanOptions& options = {}, const Context& context = Context());

struct ScanGradients {
  Tensor u = {}, delta = {}, a = {}, b = {}, c = {}, d = {}, z = {}, delta_bias = {}, state = {};
};
struct ScanOutputGradients {
  ConstTensor out, state = {};
};
// States are kept every so many tokens, about the root of the length, and computed again between:
// memory O(L channels (1 + N / 64) + sqrt(L) N channels).
void selective_scan_backward(const ScanInputs& inputs, const ScanOutputGradients& d,
                             const ScanGradients& to, const ScanOptions& options = {},
                             const Context& context = Context());

// exp(elapsed a) first + second: the state of a sequence in two parts, the second of which ran from
// a fresh state, with its elapsed time counted from 0. Elapsed times of parts add up. Outputs of
// the second lack what the state of the first adds to them: for those, run it once more from there.
// `out` may be the memory of either.
void merge_scan_states(const ConstTensor& first, const ConstTensor& second, const ConstTensor& a,
                       const ConstTensor& elapsed, const Tensor& out);

// --- RWKV-4 (rwkv_linear_attention_cpu of Transformers, wkv_cuda.cu of RWKV-LM) --------------
//
//   out_t = (sum_(i < t) e^((t - 1 - i) decay + k_i) v_i + e^(bonus + k_t) v_t) / (the same, v = 1)

struct Wkv4Inputs {
  ConstTensor k, v;   // [B, 1, L, channels]
  ConstTensor decay;  // [1, 1, 1, channels], at most 0: a model's -exp(time_decay)
  ConstTensor bonus;  // [1, 1, 1, channels]: time_first
  // [S, 1, 3, channels]: rows p, q, o, which stand for sums p e^o over the values and q e^o of the
  // weights; fresh: 0, 0, kWkv4Fresh.
  ConstTensor state = {};
};
constexpr double kWkv4Fresh = -1e38;

struct Wkv4Outputs {
  Tensor out;         // [B, 1, L, channels]
  Tensor state = {};  // as the initial one; empty: not wanted
};

struct Wkv4Options {
  std::vector<std::int64_t> offsets = {};
};

void wkv4(const Wkv4Inputs& inputs, const Wkv4Outputs& outputs, const Wkv4Options& options = {},
          const Context& context = Context());

struct Wkv4Gradients {
  Tensor k = {}, v = {}, decay = {}, bonus = {}, state = {};
};
struct Wkv4OutputGradients {
  ConstTensor out, state = {};
};
// Memory as for the scan. The gradient of o is that of the numbers, as finite differences give it.
void wkv4_backward(const Wkv4Inputs& inputs, const Wkv4OutputGradients& d, const Wkv4Gradients& to,
                   const Wkv4Options& options = {}, const Context& context = Context());

// The state of a sequence in two parts, the second, of lengths[s] tokens, run from a fresh state.
// Outputs of the second: as for the scan. `out` may be the memory of either.
void merge_wkv4_states(const ConstTensor& first, const ConstTensor& second,
                       const ConstTensor& decay, const std::vector<std::int64_t>& lengths,
                       const Tensor& out);

}  // namespace attn

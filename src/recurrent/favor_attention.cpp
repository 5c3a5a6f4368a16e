#include "recurrent/favor_attention.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "attn/recurrent.h"
#include "recurrent/favor_features.h"

namespace attn {

namespace {

ConstTensor tokens(ConstTensor x, std::int64_t begin, std::int64_t n) {
  if (x.empty()) return x;
  x.data = static_cast<const char*>(x.data) +
           begin * x.strides[2] * static_cast<std::int64_t>(size_of(x.dtype));
  x.shape[2] = n;
  return x;
}
Tensor tokens(const Tensor& x, std::int64_t begin, std::int64_t n) {
  const ConstTensor part = tokens(ConstTensor(x), begin, n);
  return {const_cast<void*>(part.data), part.dtype, part.shape, part.strides};
}

RecurrentOptions recurrence(const LinearAttentionOptions& options) {
  return {StateRule::add, options.normalise, options.epsilon, {}};  // sequences come one by one
}

// Calls each(begin, tokens) for the blocks of a length.
template <class Each>
void for_blocks(std::int64_t length, std::int64_t block, const Each& each) {
  for (std::int64_t t = 0; t < length; t += block) each(t, std::min(block, length - t));
}

template <class T>
void run_favor(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v, const Tensor& out,
               const LinearAttentionOptions& options, const LinearState& state,
               const Context& context) {
  FavorFeatures<T> features(q, v.heads(), options, context);
  const std::int64_t group = v.heads() / q.heads();
  std::vector<T> own;
  Tensor sums = state.sums;
  if (sums.empty()) {
    const Shape shape{v.batch(), v.heads(), features.count(), v.width() + 1};
    own.assign(static_cast<std::size_t>(shape[0] * shape[1] * shape[2] * shape[3]), T(0));
    sums = Tensor(own.data(), shape);
  }
  const auto each_scale = [&](auto&& each) {
    for (std::int64_t b = 0; b < v.batch() && !state.log_scale.empty(); ++b) {
      for (std::int64_t h = 0; h < v.heads(); ++h)
        each(*state.log_scale.row<T>(b, h, 0),
             features.scale()[static_cast<std::size_t>(b * q.heads() + h / group)]);
    }
  };
  each_scale([](T given, T& scale) { scale = given; });
  for_blocks(q.length(), features.block(), [&](std::int64_t t, std::int64_t n) {
    RecurrentInputs in;
    in.k = features.keys(k, t, n);
    in.log_decay = features.log_decay(n);
    in.q = options.causal ? features.queries(q, t, n) : in.k;
    in.v = tokens(v, t, n);
    in.state = sums;
    recurrent(in, options.causal ? tokens(out, t, n) : Tensor(), sums, recurrence(options),
              context);
  });
  each_scale([](T& given, T scale) { given = scale; });
  if (options.causal) return;
  // All keys are in the state: queries read it, and nothing is written.
  const T nothing = 0;
  for_blocks(q.length(), features.block(), [&](std::int64_t t, std::int64_t n) {
    RecurrentInputs in;
    in.q = in.k = features.queries(q, t, n);
    in.v = tokens(v, t, n);
    in.beta = {&nothing, {1, 1, 1, 1}};
    in.state = sums;
    recurrent(in, tokens(out, t, n), {}, recurrence(options), context);
  });
}

// Blocks from the last one, from the states that a first run leaves before each.
template <class T>
void run_favor_backward(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
                        const ConstTensor& d_out, const Tensor& d_q, const Tensor& d_k,
                        const Tensor& d_v, const LinearAttentionOptions& options,
                        const Context& context) {
  FavorFeatures<T> features(q, v.heads(), options, context);
  const Shape shape{v.batch(), v.heads(), features.count(), v.width() + 1};
  const auto size = static_cast<std::size_t>(shape[0] * shape[1] * shape[2] * shape[3]);
  const std::int64_t block = features.block(), length = q.length();
  const auto blocks = static_cast<std::size_t>((length + block - 1) / block);
  std::vector<std::vector<T>> states(blocks + 1), scales(blocks + 1);
  states[0].assign(size, T(0));
  scales[0] = features.scale();
  for_blocks(length, block, [&](std::int64_t t, std::int64_t n) {
    const auto i = static_cast<std::size_t>(t / block);
    states[i + 1].resize(size);
    RecurrentInputs in;
    in.q = in.k = features.keys(k, t, n);
    in.v = tokens(v, t, n);
    in.log_decay = features.log_decay(n);
    in.state = {static_cast<const T*>(states[i].data()), shape};
    recurrent(in, {}, {states[i + 1].data(), shape}, recurrence(options), context);
    scales[i + 1] = features.scale();
  });
  std::vector<T> d_state(size, T(0)), d_before(size), d_queries, d_keys;
  const auto differentiate_block = [&](std::int64_t t, std::int64_t n, const ConstTensor& state,
                                       bool reads, bool writes) {
    const T nothing = 0;
    RecurrentInputs in;
    in.q = features.queries(q, t, n);
    in.k = features.keys(k, t, n);
    in.v = tokens(v, t, n);
    in.state = state;
    if (writes)
      in.log_decay = features.log_decay(n);
    else
      in.beta = {&nothing, {1, 1, 1, 1}};
    RecurrentGradients to;
    to.q = features.scratch(d_queries, n);
    to.k = features.scratch(d_keys, n);
    if (writes && !d_v.empty()) to.v = tokens(d_v, t, n);
    to.state = {d_before.data(), shape};
    recurrent_backward(in, reads ? tokens(d_out, t, n) : ConstTensor(),
                       {static_cast<const T*>(d_state.data()), shape}, to, recurrence(options),
                       context);
    if (reads && !d_q.empty()) features.differentiate(q, in.q, to.q, t, n, d_q);
    if (writes && !d_k.empty()) features.differentiate(k, in.k, to.k, t, n, d_k);
    d_state.swap(d_before);
  };
  const auto backwards = [&](auto&& each) {
    for (std::size_t i = blocks; i-- > 0;) {
      const std::int64_t t = static_cast<std::int64_t>(i) * block;
      features.scale() = scales[i];
      each(t, std::min(block, length - t), i);
    }
  };
  if (options.causal) {
    backwards([&](std::int64_t t, std::int64_t n, std::size_t i) {
      differentiate_block(t, n, {static_cast<const T*>(states[i].data()), shape}, true, true);
    });
    return;
  }
  const ConstTensor last{static_cast<const T*>(states[blocks].data()), shape};
  for_blocks(length, block,
             [&](std::int64_t t, std::int64_t n) { differentiate_block(t, n, last, true, false); });
  backwards([&](std::int64_t t, std::int64_t n, std::size_t i) {
    differentiate_block(t, n, {static_cast<const T*>(states[i].data()), shape}, false, true);
  });
}

// One entry of a state, if there is one.
Tensor entry(Tensor x, std::size_t s) {
  if (x.empty()) return x;
  x.data = static_cast<char*>(x.data) + static_cast<std::int64_t>(s) * x.strides[0] *
                                            static_cast<std::int64_t>(size_of(x.dtype));
  x.shape[0] = 1;
  return x;
}

// Calls each(options of one sequence, number, begin, tokens) for the sequences of a ragged batch.
template <class Each>
void for_sequences(const LinearAttentionOptions& options, const Each& each) {
  LinearAttentionOptions alone = options;
  alone.offsets.clear();
  for (std::size_t s = 0; s + 1 < options.offsets.size(); ++s)
    each(alone, s, options.offsets[s], options.offsets[s + 1] - options.offsets[s]);
}

}  // namespace

void favor_attention(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
                     const Tensor& out, const LinearAttentionOptions& options,
                     const LinearState& state, const Context& context) {
  if (!options.offsets.empty())
    return for_sequences(
        options, [&](const auto& alone, std::size_t s, std::int64_t t, std::int64_t n) {
          favor_attention(tokens(q, t, n), tokens(k, t, n), tokens(v, t, n), tokens(out, t, n),
                          alone, {entry(state.sums, s), entry(state.log_scale, s)}, context);
        });
  if (q.dtype == DType::f64)
    run_favor<double>(q, k, v, out, options, state, context);
  else
    run_favor<float>(q, k, v, out, options, state, context);
}

void favor_attention_backward(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
                              const ConstTensor& d_out, const Tensor& d_q, const Tensor& d_k,
                              const Tensor& d_v, const LinearAttentionOptions& options,
                              const Context& context) {
  if (!options.offsets.empty())
    return for_sequences(
        options, [&](const auto& alone, std::size_t, std::int64_t t, std::int64_t n) {
          favor_attention_backward(tokens(q, t, n), tokens(k, t, n), tokens(v, t, n),
                                   tokens(d_out, t, n), tokens(d_q, t, n), tokens(d_k, t, n),
                                   tokens(d_v, t, n), alone, context);
        });
  if (q.dtype == DType::f64)
    run_favor_backward<double>(q, k, v, d_out, d_q, d_k, d_v, options, context);
  else
    run_favor_backward<float>(q, k, v, d_out, d_q, d_k, d_v, options, context);
}

}  // namespace attn

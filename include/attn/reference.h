// The oracle: exact attention once more, plain, in double precision, written to be read. Slow on
// purpose; use it to check the fast kernels and your own.
#pragma once

#include "attn/attention.h"

namespace attn::reference {

// One rule of its own for "may query q see key k", sharing nothing with the mask algebra's
// interval code.
bool visible(const Mask& mask, const Geometry& geometry, std::int64_t batch, std::int64_t head,
             std::int64_t q, std::int64_t k);

// Same arguments as attn::attention; every product and sum in double, whatever the type of the
// tensors. Throws std::invalid_argument on the same mistakes, except that key positions may stand
// in any order under any mask. A custom score is called once a row, with s64. The mask, an added
// -infinity and a custom score of -infinity hide a pair; a product that is -infinity only weighs 0.
// Everything in `observed` is answered from whole rows of probabilities.
void attention(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v, const Tensor& out,
               const AttentionOptions& options = {}, const Observed& observed = {});
// With keys and values as they are stored; `shape` as for attn::plan.
void attention(const AttentionShape& shape, const ConstTensor& q, const KeyValue& kv,
               const Tensor& out, const AttentionOptions& options = {},
               const Observed& observed = {});

// The gradients of attn/gradient.h, from the derivative of each step; what the forward run returned
// is computed again. Takes a custom score's derivative with d64.
void backward(const AttentionInputs& inputs, const OutputGradients& from, const InputGradients& to,
              const AttentionOptions& options = {});

// What multiplies the values: the probabilities, with the sink in the denominator and after
// dropout, [B, Hq, Lq, Lk] float64.
void weights(const ConstTensor& q, const ConstTensor& k, const AttentionOptions& options,
             const Tensor& out);
void weights(const AttentionShape& shape, const ConstTensor& q, const KeyValue& kv,
             const AttentionOptions& options, const Tensor& out);

}  // namespace attn::reference

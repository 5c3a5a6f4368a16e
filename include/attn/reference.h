// The oracle: exact attention once more, plain, in double precision, written to be read. Slow on
// purpose; use it to check the fast kernels and your own.
#pragma once

#include "attn/attention.h"

namespace attn::reference {

// One rule of its own for "may query q see key k", sharing nothing with the mask algebra's
// interval code.
bool visible(const Mask& mask, const Geometry& geometry, std::int64_t batch, std::int64_t head,
             std::int64_t q, std::int64_t k);

// Same arguments as attn::attention; every product and sum in double. Tensors may be float32 or
// float64. Throws std::invalid_argument on the same mistakes, except that key positions may stand
// in any order under any mask. A custom score is called once a row, with s64. The mask, an added
// -infinity and a custom score of -infinity hide a pair; a product that is -infinity only weighs 0.
void attention(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v, const Tensor& out,
               const AttentionOptions& options = {}, const Observed& observed = {});

// The probabilities themselves, [B, Hq, Lq, Lk] float64, with the sink in the denominator.
void weights(const ConstTensor& q, const ConstTensor& k, const AttentionOptions& options,
             const Tensor& out);

}  // namespace attn::reference

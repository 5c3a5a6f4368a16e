// What a run reports beside its output.
#pragma once

#include "attn/tensor.h"

namespace attn {

struct Observed {
  // Natural-log sum of e^score over visible keys, without the sink; [B, Hq, Lq, 1], float32
  // (float64 for float64 inputs). -infinity for a row that sees nothing. Empty: not written.
  Tensor lse = {};
};

}  // namespace attn

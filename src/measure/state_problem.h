// Mechanisms with a state in place of keys and values: tensors as a trained model has them, and the
// call that is timed.
#pragma once

#include <cstdint>
#include <memory>

#include "measure/problem.h"

namespace attn::measuring {

// What a decay depends on.
enum class Decay : std::uint8_t { none, head, channel, token, token_and_channel };

// A recurrence of recurrent.h.
struct Gates {
  Decay decay = Decay::none;
  bool bonus = false;     // RWKV's reading
  bool delta = false;     // the rule, with a beta a token and keys of length 1
  bool rank_one = false;  // RWKV-7's: b of length 1, a = -(b o rate), a rate in (0, 1) a channel
};

std::unique_ptr<Problem> matrix_state(const Gates& gates, const Workload& workload,
                                      const Context& context);
// With elu + 1, or FAVOR+ with so many features.
std::unique_ptr<Problem> linear_elu(const Workload& workload, const Context& context);
std::unique_ptr<Problem> linear_favor(std::int64_t features, const Workload& workload,
                                      const Context& context);
// All heads share one group of b and c, as in the published models.
std::unique_ptr<Problem> mamba2_state(const Workload& workload, const Context& context);

// Of the chunked form, a token and head: 4 Dk Dv + 64 (Dk + Dv); the state read and written in
// chunks of 64 tokens, and half of the pairs within one.
double chunked_flops(std::int64_t width, std::int64_t v_width);

}  // namespace attn::measuring

// Recurrences of single channels: as many as all heads have values.
#pragma once

#include <cstdint>
#include <memory>

#include "measure/problem.h"

namespace attn::measuring {

// States of a channel, as in the published models.
constexpr std::int64_t kScanStates = 16;

// Mamba's selective scan: what its layer has between convolution and output projection.
std::unique_ptr<Problem> mamba_scan(const Workload& workload, const Context& context);
std::unique_ptr<Problem> rwkv4_mean(const Workload& workload, const Context& context);

// A channel and token, an exponential (or two) counted as one operation.
constexpr double kScanFlops = 7.0 * kScanStates + 4;
constexpr double kRwkv4Flops = 14;

}  // namespace attn::measuring

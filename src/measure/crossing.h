// From which length on one workload is faster than another.
#pragma once

#include <cstdint>

#include "attn/measure.h"

namespace attn::measuring {

// By bisection up to the workloads' own length, to 5 %; 0: not even there.
std::int64_t crossing(const Workload& one, const Workload& other, const Context& context);

}  // namespace attn::measuring

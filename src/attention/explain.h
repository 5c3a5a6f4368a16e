// A plan in words.
#pragma once

#include <string>

#include "attn/attention.h"

namespace attn {

std::string explain_plan(const AttentionShape& shape, const AttentionOptions& options,
                         const PlanSummary& summary, const Observed& observed);

}  // namespace attn

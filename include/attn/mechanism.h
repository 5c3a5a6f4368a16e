// The mechanisms of this library by name: what each is, what it keeps, what it costs.
//
//   for (const attn::Mechanism& m : attn::mechanisms()) ...   // "causal", "gla", ...
//   attn::mechanism_text("gla")                               // definition, uses, limits
//   const attn::AttentionShape shape{1, 12, 12, 8192, 8192, 64};
//   attn::mechanism_cost("gla", shape).state_bytes            // after 8,192 tokens
//   attn::measure({attn::workload_of("gla", shape)})
#pragma once

#include <string>
#include <vector>

#include "attn/attention.h"
#include "attn/measure.h"

namespace attn {

struct Mechanism {
  std::string name;   // "rwkv6"
  std::string title;  // "RWKV-6"
  std::string topic;  // of the text, which may be about several: "rwkv"
  std::string mask;   // exact attention with this mask; empty: something else
};

// Those that can be measured: exact ones first.
const std::vector<Mechanism>& mechanisms();
// Throws std::invalid_argument that lists the known names.
const Mechanism& mechanism(const std::string& name);

// For a whole sequence of one length, of all batch entries and heads.
struct MechanismCost {
  double flops = 0;  // forward: exact ones over visible pairs, recurrences by chunks
  // Of one more token; 0 where tokens see their future, so that none can be added.
  double step_flops = 0;
  // What is kept of the sequence for the next token: keys and values that it may see, or a state.
  double state_bytes = 0;
};
// `shape`: as many key heads as query heads, as many keys as queries. Throws std::invalid_argument.
MechanismCost mechanism_cost(const std::string& name, const AttentionShape& shape);

// To be measured; shapes as above.
Workload workload_of(const std::string& name, const AttentionShape& shape);

// Markdown: "# Title" and the sections Define, Why, Intuition, Fails when, Trade-offs; the same
// that docs/mechanisms.md shows.
struct MechanismText {
  std::string topic;
  std::string text;
};
// In alphabetical order. There are texts about what is not among mechanisms().
const std::vector<MechanismText>& mechanism_texts();
// Throws std::invalid_argument that lists the known topics.
const std::string& mechanism_text(const std::string& topic);

}  // namespace attn

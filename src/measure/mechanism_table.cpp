#include "measure/mechanism_table.h"

#include <stdexcept>

#include "measure/attention_problem.h"
#include "measure/scan_problem.h"
#include "measure/state_problem.h"
#include "measure/texts.h"

namespace attn::measuring {

namespace {

// About D ln D of width 64, as the Performer has.
constexpr std::int64_t kFavorFeatures = 256;

double heads_of(const AttentionShape& s) { return static_cast<double>(s.batch * s.q_heads); }

// Of a state of `rows` x (v_width + columns) a head; `features` are the operations a token that
// make them.
MechanismCost state_cost(const AttentionShape& s, std::int64_t rows, std::int64_t columns = 0,
                         double features = 0) {
  const double heads = heads_of(s);
  return {
      .flops = heads * static_cast<double>(s.q_len) * (chunked_flops(rows, s.v_width) + features),
      .step_flops = heads * (static_cast<double>(4 * rows * s.v_width) + features),
      .state_bytes = heads * static_cast<double>(rows * (s.v_width + columns)) *
                     static_cast<double>(size_of(s.dtype))};
}

// Of channels with a state of `rows` numbers each.
MechanismCost channel_cost(const AttentionShape& s, double flops, std::int64_t rows) {
  const double channels = heads_of(s) * static_cast<double>(s.v_width);
  return {
      .flops = channels * static_cast<double>(s.q_len) * flops,
      .step_flops = channels * flops,
      .state_bytes = channels * static_cast<double>(rows) * static_cast<double>(size_of(s.dtype))};
}

Entry gated(Mechanism about, const Gates& gates) {
  return {
      .about = std::move(about),
      .make = [gates](const Workload& w, const Context& c) { return matrix_state(gates, w, c); },
      .cost = [](const AttentionShape& s) { return state_cost(s, s.width); }};
}

std::vector<Entry> make_entries() {
  std::vector<Entry> list;
  // Exact attention with a mask.
  list.push_back({.about = {"full", "Exact attention, all pairs", "exact", "full"}});
  list.push_back({.about = {"causal", "Exact attention, causal", "exact", "causal"}});
  list.push_back({.about = {"window", "Sliding window of 256 tokens", "window", "window:255,0"}});
  list.push_back({.about = {"longformer", "Longformer, 256 each side, 2 global tokens",
                            "longformer", "window(256, 256) | global(0, 1)"}});
  list.push_back(
      {.about = {"bigbird", "BigBird, blocks of 64, 3 at random", "bigbird", "bigbird(64, 3, 0)"}});
  // One recurrence with different gates, and its relatives.
  list.push_back({.about = {"linear", "Linear attention, elu + 1", "linear", ""},
                  .make = linear_elu,
                  .cost = [](const AttentionShape& s) { return state_cost(s, s.width, 1); }});
  list.push_back({.about = {"performer", "FAVOR+, 256 features", "performer", ""},
                  .make = [](const Workload& w,
                             const Context& c) { return linear_favor(kFavorFeatures, w, c); },
                  .cost =
                      [](const AttentionShape& s) {
                        return state_cost(s, kFavorFeatures, 1,
                                          static_cast<double>(4 * s.width * kFavorFeatures));
                      }});
  list.push_back(gated({"retnet", "RetNet", "retnet", ""}, {.decay = Decay::head}));
  list.push_back(
      gated({"gla", "Gated linear attention", "gla", ""}, {.decay = Decay::token_and_channel}));
  list.push_back(gated({"rwkv5", "RWKV-5", "rwkv", ""}, {.decay = Decay::channel, .bonus = true}));
  list.push_back(
      gated({"rwkv6", "RWKV-6", "rwkv", ""}, {.decay = Decay::token_and_channel, .bonus = true}));
  list.push_back(gated({"delta", "DeltaNet", "delta", ""}, {.delta = true}));
  list.push_back(gated({"gated-delta", "Gated DeltaNet", "delta", ""},
                       {.decay = Decay::token, .delta = true}));
  list.push_back(gated({"rwkv7", "RWKV-7", "rwkv7", ""},
                       {.decay = Decay::token_and_channel, .rank_one = true}));
  list.push_back({.about = {"mamba2", "Mamba-2", "mamba2", ""},
                  .make = mamba2_state,
                  .cost = [](const AttentionShape& s) { return state_cost(s, s.width); }});
  // Recurrences of single channels.
  list.push_back({.about = {"rwkv4", "RWKV-4", "rwkv4", ""},
                  .make = rwkv4_mean,
                  .cost = [](const AttentionShape& s) { return channel_cost(s, kRwkv4Flops, 3); }});
  list.push_back(
      {.about = {"mamba", "Mamba-1's selective scan, 16 states", "mamba", ""},
       .make = mamba_scan,
       .cost = [](const AttentionShape& s) { return channel_cost(s, kScanFlops, kScanStates); }});
  return list;
}

}  // namespace

const std::vector<Entry>& entries() {
  static const std::vector<Entry> list = make_entries();
  return list;
}

const Entry& entry(const std::string& name) {
  std::string known;
  for (const Entry& e : entries()) {
    if (e.about.name == name) return e;
    known += (known.empty() ? "" : ", ") + e.about.name;
  }
  throw std::invalid_argument("[mechanism] there is no '" + name + "', must be one of " + known);
}

void check_mechanism(const Workload& w) {
  const Entry& e = entry(w.mechanism);
  const auto need = [&](bool fits, const std::string& what) {
    if (!fits) throw std::invalid_argument("[measure] " + w.mechanism + " " + what);
  };
  const AttentionShape& s = w.shape;
  need(static_cast<bool>(e.make), "is exact attention with mask '" + e.about.mask + "'");
  need(w.mask == "full" && w.score == "none", "has no mask and no score");
  need(s.q_heads == s.kv_heads, "has as many key heads as query heads");
  need(w.decode ? s.q_len == 1 : s.q_len == s.k_len,
       w.decode ? "takes one token a step" : "has as many keys as queries");
  need(s.batch > 0 && s.q_heads > 0 && s.q_len > 0, "needs a shape that is not empty");
  const std::int64_t v_width = s.v_width > 0 ? s.v_width : s.width;
  need(s.width >= 1 && s.width <= 1024 && v_width >= 1 && v_width <= 1024, "has widths 1...1024");
  need((s.dtype == DType::f32 || s.dtype == DType::f64) && s.kv_dtype.value_or(s.dtype) == s.dtype,
       "is float32 or float64 throughout");
  need(!w.ragged && w.dropout == 0 && w.layout == Layout::contiguous &&
           w.observe == Observing::nothing,
       "is measured in one piece, without dropout and unobserved");
  need(!w.decode || !w.backward, "has no backward run of a step");
  need(!w.decode || e.steps, "has no step to decode");
  need(!w.backward || e.gradients, "has no gradients");
}

std::unique_ptr<Problem> make_problem(const Workload& workload, const Context& context) {
  if (workload.mechanism == "exact") return std::make_unique<AttentionProblem>(workload, context);
  return entry(workload.mechanism).make(workload, context);
}

}  // namespace attn::measuring

namespace attn {

const std::vector<Mechanism>& mechanisms() {
  static const std::vector<Mechanism> list = [] {
    std::vector<Mechanism> all;
    for (const measuring::Entry& e : measuring::entries()) all.push_back(e.about);
    return all;
  }();
  return list;
}

const std::vector<MechanismText>& mechanism_texts() { return measuring::texts(); }

const std::string& mechanism_text(const std::string& topic) {
  std::string known;
  for (const MechanismText& t : mechanism_texts()) {
    if (t.topic == topic) return t.text;
    known += (known.empty() ? "" : ", ") + t.topic;
  }
  throw std::invalid_argument("[mechanism_text] there is no '" + topic + "', must be one of " +
                              known);
}

const Mechanism& mechanism(const std::string& name) { return measuring::entry(name).about; }

Workload workload_of(const std::string& name, const AttentionShape& shape) {
  const measuring::Entry& e = measuring::entry(name);
  Workload workload{.shape = shape};
  if (e.make) {
    workload.mechanism = name;
  } else {
    workload.mask = e.about.mask;
  }
  return workload;
}

namespace {

// Over visible pairs; what the next token may see is kept.
MechanismCost exact_cost(const std::string& text, const AttentionShape& s) {
  const Mask mask = Mask::parse(text);
  const Geometry all{.batch = 1, .heads = 1, .q_len = s.q_len, .k_len = s.k_len};
  const double pair = static_cast<double>(s.batch * s.q_heads * 2 * (s.width + s.v_width));
  MechanismCost cost{.flops = pair * static_cast<double>(mask.pairs(all))};
  if (mask.sees_future(all)) return cost;
  const Geometry next{
      .batch = 1, .heads = 1, .q_len = 1, .k_len = s.k_len + 1, .query_start = s.k_len};
  double seen = 0;
  for (const Interval& keys : mask.row(next, 0, 0, 0)) {
    seen += static_cast<double>((keys.end - keys.begin + keys.step - 1) / keys.step);
  }
  cost.step_flops = pair * seen;
  cost.state_bytes = pair / 2 * (seen - 1) * static_cast<double>(size_of(s.dtype));
  return cost;
}

}  // namespace

MechanismCost mechanism_cost(const std::string& name, const AttentionShape& given) {
  const measuring::Entry& e = measuring::entry(name);
  AttentionShape shape = given;
  if (shape.v_width == 0) shape.v_width = shape.width;
  const Workload workload = workload_of(name, shape);
  check(workload);
  return e.cost ? e.cost(shape) : exact_cost(e.about.mask, shape);
}

}  // namespace attn

#include "attn/recurrent.h"

#include <algorithm>
#include <utility>

#include "attention/parallel.h"
#include "attention/plan.h"
#include "base/check_recurrent.h"
#include "base/context_use.h"
#include "recurrent/recurrent_problem.h"

namespace attn {

namespace {

constexpr Checker kCheck("recurrent");

// Below this many multiply-adds threads cost more than they save.
constexpr double kWorkOfThreads = 1 << 18;

// Whether the last states may be written where the first ones are read: in the same places.
void check_state(const ConstTensor& before, const Tensor& after) {
  if (before.empty() || after.empty()) return;
  bool same = before.data == after.data;
  for (std::size_t i = 0; i < 3; ++i)
    same = same && (before.shape[i] <= 1 || before.strides[i] == after.strides[i]);
  if (!same) kCheck.apart("state", after, "the state before", before);
}

void check_outputs(const RecurrentInputs& in, const RecurrentOptions& options, const Tensor& out,
                   const Tensor& state) {
  kCheck.output("out", out, in.v.shape, in.q.dtype);
  kCheck.output("state", state, state_shape(in, options), in.q.dtype);
  kCheck.apart("out", out, "state", state);
  kCheck.apart("out", out, "the state before", in.state);
  check_state(in.state, state);
  const std::pair<const char*, ConstTensor> read[] = {
      {"q", in.q},       {"k", in.k},        {"v", in.v}, {"log_decay", in.log_decay},
      {"beta", in.beta}, {"bonus", in.bonus}};
  for (const auto& [what, x] : read) {
    kCheck.apart("out", out, what, x);
    kCheck.apart("state", state, what, x);
  }
}

}  // namespace

void run_recurrent(const RecurrentInputs& inputs, const Tensor& out, const Tensor& state,
                   const RecurrentOptions& options, const Context& context,
                   const RecurrentExtras& extras) {
  check_recurrent(inputs, options, kCheck);
  check_outputs(inputs, options, out, state);
  RecurrentProblem problem = recurrent_problem(inputs, options);
  kernels::RecurrentParams& p = problem.params;
  p.out = matrix_of(out);
  p.after = matrix_of(state);
  p.map = extras.map;
  p.gates = extras.gates;
  const auto& kernel = kernels::recurrent_kernel(context.isa(), inputs.q.dtype);
  const auto sequences = static_cast<std::int64_t>(problem.sequences.size());
  const std::int64_t v_heads = inputs.v.heads(), heads = sequences * v_heads;
  const bool one_token = p.before.data != nullptr && p.after.data != nullptr &&
                         std::all_of(problem.sequences.begin(), problem.sequences.end(),
                                     [](const auto& s) { return s.end - s.begin == 1; });
  const double work = static_cast<double>(inputs.v.size()) * static_cast<double>(p.width) *
                      (p.delta || p.rank_one ? 3 : 2);
  const int threads = work < kWorkOfThreads ? 1 : context.threads();
  // Columns of values do not meet: they are divided when there are fewer heads than threads.
  const std::int64_t panels = (p.v_width + kernel.panel - 1) / kernel.panel;
  std::int64_t parts = 1;
  // The sum of keys is read by all parts and written by one: not while others may still read it.
  const bool shared_sum = p.normalise && p.before.data != nullptr && p.before.data == p.after.data;
  if (!one_token && !shared_sum && heads > 0 && heads < threads)
    parts = std::min<std::int64_t>(panels, (threads + heads - 1) / heads);
  const std::int64_t columns = (panels + parts - 1) / parts * kernel.panel;
  parts = (p.v_width + columns - 1) / columns;
  const std::size_t bytes = one_token ? 0 : kernel.workspace_bytes(p, std::min(columns, p.v_width));
  const ContextUse use(context);
  const auto unit_of = [&](std::int64_t head) {
    kernels::RecurrentUnit unit = problem.sequences[static_cast<std::size_t>(head / v_heads)];
    unit.head = head % v_heads;
    return unit;
  };
  if (one_token)
    return parallel_stretches(threads, heads,
                              [&](int, std::int64_t head) { kernel.step(p, unit_of(head)); });
  parallel_units(threads, heads * parts, [&](int thread, std::int64_t number) {
    kernels::RecurrentUnit unit = unit_of(number / parts);
    unit.column = number % parts * columns;
    unit.columns = std::min(columns, p.v_width - unit.column);
    kernel.run(p, unit, context.workspace(thread, bytes));
  });
}

void recurrent(const RecurrentInputs& inputs, const Tensor& out, const Tensor& state,
               const RecurrentOptions& options, const Context& context) {
  run_recurrent(inputs, out, state, options, context, {});
}

}  // namespace attn

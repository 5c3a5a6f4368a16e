#include "recurrent/recurrent_problem.h"

#include <cstddef>

#include "attention/plan.h"

namespace attn {

namespace {

kernels::Spread spread_of(const ConstTensor& x) {
  if (x.empty()) return {};
  kernels::Spread spread{x.data, x.strides, x.shape[3]};
  for (std::size_t i = 0; i < 4; ++i) {
    if (x.shape[i] == 1) spread.strides[i] = 0;
  }
  return spread;
}

}  // namespace

RecurrentProblem recurrent_problem(const RecurrentInputs& in, const RecurrentOptions& options) {
  RecurrentProblem problem;
  kernels::RecurrentParams& p = problem.params;
  p.q = matrix_of(in.q);
  p.k = matrix_of(in.k);
  p.v = matrix_of(in.v);
  p.a = matrix_of(in.a);
  p.b = matrix_of(in.b);
  p.rank_one = !in.a.empty();
  p.group = in.v.heads() / in.q.heads();
  p.width = in.q.width();
  p.v_width = in.v.width();
  p.log_decay = spread_of(in.log_decay);
  p.beta = spread_of(in.beta);
  p.bonus = spread_of(in.bonus);
  p.delta = options.rule == StateRule::delta;
  p.normalise = options.normalise;
  p.epsilon = options.epsilon;
  p.before = matrix_of(in.state);
  kernels::RecurrentUnit unit;
  unit.columns = p.v_width;
  if (options.offsets.empty()) {
    unit.end = in.q.length();
    for (; unit.sequence < in.q.batch(); ++unit.sequence, ++unit.batch)
      problem.sequences.push_back(unit);
    return problem;
  }
  for (std::size_t s = 0; s + 1 < options.offsets.size(); ++s, ++unit.sequence) {
    unit.begin = options.offsets[s];
    unit.end = options.offsets[s + 1];
    problem.sequences.push_back(unit);
  }
  return problem;
}

}  // namespace attn

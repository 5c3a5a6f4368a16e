// Something that can be timed: its tensors and the call.
#pragma once

#include <memory>

#include "attn/measure.h"

namespace attn::measuring {

// One workload, ready to run: inputs and outputs are there and have been touched.
class Problem {
 public:
  Problem() = default;
  virtual ~Problem() = default;
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;

  // From here on memory that is taken is the mechanism's own.
  virtual void plan() {}
  virtual void run() = 0;

  virtual double flops() const = 0;  // after plan()
  virtual double bytes() const = 0;
};

std::unique_ptr<Problem> make_problem(const Workload& workload, const Context& context);

}  // namespace attn::measuring

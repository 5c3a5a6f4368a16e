// Exact attention: the tensors of a workload, and the call that is timed.
#pragma once

#include <cstdint>
#include <vector>

#include "attn/attention.h"
#include "attn/measure.h"
#include "measure/buffer.h"
#include "measure/problem.h"

namespace attn::measuring {

// What is asked of attention.
struct Call {
  AttentionShape shape;
  AttentionOptions options;
};
Call call_of(const Workload& workload);

class AttentionProblem : public Problem {
 public:
  AttentionProblem(const Workload& workload, const Context& context);

  void plan() override;
  void run() override;
  double flops() const override;
  double bytes() const override { return bytes_; }

 private:
  // Keys and values, as stored.
  struct Cache {
    Buffer k, v, k_scale, v_scale;
    Pages pages;
  };

  void make_cache(std::uint32_t seed);
  void make_observed();
  void make_gradients();
  KeyValue stored(const Cache& cache) const;
  double visible_keys() const;

  Workload workload_;
  Call call_;
  Context context_;
  std::vector<Plan> plan_;  // one, once planned
  Buffer q_, out_;
  std::vector<Cache> caches_;  // take turns
  std::size_t turn_ = 0;
  double bytes_ = 0;
  std::vector<Buffer> reports_;
  std::vector<std::int32_t> top_keys_;
  Observed observed_;
  Buffer lse_, d_out_, dq_, dk_, dv_;  // backward alone
};

}  // namespace attn::measuring

// The tensors of a workload, and the call that is timed.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "attn/attention.h"
#include "attn/measure.h"

namespace attn::measuring {

// Memory for a tensor: 64-byte aligned, as the usual libraries hand it out.
class Buffer {
 public:
  Buffer() = default;
  // Zeroed: outputs.
  Buffer(DType dtype, const Shape& shape);
  // In [-1, 1), always the same for a seed.
  static Buffer random(DType dtype, const Shape& shape, std::uint32_t seed);

  Tensor view() const;
  double bytes() const;

 private:
  struct Free {
    void operator()(void* memory) const;
  };
  DType dtype_ = DType::f32;
  Shape shape_{};
  std::unique_ptr<void, Free> memory_;
};

// What is asked of attention.
struct Call {
  AttentionShape shape;
  AttentionOptions options;
};
Call call_of(const Workload& workload);

// One workload, ready to run: inputs and outputs are there and have been touched.
class Problem {
 public:
  Problem(const Workload& workload, const Context& context);

  // Plans: from here on memory that is taken is attention's own.
  void plan();
  void run();

  double flops() const;  // after plan()
  double bytes() const { return bytes_; }

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

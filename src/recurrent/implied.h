// What the two forms of implied attention have in common.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attn/implied.h"
#include "kernels/implied.h"

namespace attn {

struct ImpliedAttention::Impl {
  virtual ~Impl() = default;

  // Of rows() for so many queries.
  virtual std::size_t workspace_bytes(const kernels::ImpliedKernel& kernel,
                                      std::int64_t count) const = 0;
  // |a_ij| of queries [begin, begin + count), in rows `stride` apart that hold zeros.
  virtual void rows(const kernels::ImpliedKernel& kernel, std::int64_t head, std::int64_t begin,
                    std::int64_t count, void* out, std::int64_t stride, void* workspace) const = 0;

  std::int64_t heads = 1, tokens = 0;
  DType dtype = DType::f32;  // of rows
};

}  // namespace attn

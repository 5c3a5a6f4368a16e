// What the scan's kernels are told of its tensors.
#pragma once

#include "attention/plan.h"
#include "attn/scan.h"
#include "kernels/selective_scan.h"

namespace attn {

inline kernels::ScanParams scan_params(const ScanInputs& in, const ScanOutputs& to,
                                       const ScanOptions& options) {
  return {.u = matrix_of(in.u),
          .delta = matrix_of(in.delta),
          .a = matrix_of(in.a),
          .b = matrix_of(in.b),
          .c = matrix_of(in.c),
          .d = matrix_of(in.d),
          .z = matrix_of(in.z),
          .delta_bias = matrix_of(in.delta_bias),
          .state = matrix_of(in.state),
          .out = matrix_of(to.out),
          .state_out = matrix_of(to.state),
          .elapsed = matrix_of(to.elapsed),
          .states = in.a.length(),
          .softplus = options.softplus};
}

}  // namespace attn

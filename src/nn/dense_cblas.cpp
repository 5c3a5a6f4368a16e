#include <cblas.h>
#include <omp.h>

#include "nn/dense.h"

namespace attn::nn {

void dense_product(const DenseParams& p, int threads) {
#ifdef OPENBLAS_VERSION
  // Among threads of ours each product runs on its own; the setting is not to be touched there.
  if (!omp_in_parallel()) openblas_set_num_threads(threads);
#else
  (void)threads;  // the CBLAS interface has no thread count
#endif
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(p.rows),
              static_cast<int>(p.out), static_cast<int>(p.in), 1.0F, p.x,
              static_cast<int>(p.x_stride), p.w, static_cast<int>(p.w_stride), 0.0F, p.y,
              static_cast<int>(p.y_stride));
}

std::string dense_library() {
#ifdef OPENBLAS_VERSION
  return std::string("CBLAS, ") + openblas_get_config();
#else
  return "CBLAS";
#endif
}

}  // namespace attn::nn

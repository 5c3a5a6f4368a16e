#include <dnnl.h>
#include <omp.h>

#include <stdexcept>

#include "nn/dense.h"

namespace attn::nn {
namespace {

// oneDNN takes its threads from OpenMP's setting for the calling thread.
class ThreadScope {
 public:
  explicit ThreadScope(int threads) : before_(omp_get_max_threads()) {
    omp_set_num_threads(threads);
  }
  ~ThreadScope() { omp_set_num_threads(before_); }
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;

 private:
  int before_;
};

}  // namespace

void dense_product(const DenseParams& p, int threads) {
  const ThreadScope scope(threads);
  const dnnl_status_t status = dnnl_sgemm('N', 'T', p.rows, p.out, p.in, 1.0F, p.x, p.x_stride, p.w,
                                          p.w_stride, 0.0F, p.y, p.y_stride);
  if (status != dnnl_success) {
    throw std::runtime_error("[dense] oneDNN's sgemm failed with status " + std::to_string(status));
  }
}

std::string dense_library() {
  const dnnl_version_t* version = dnnl_version();
  return "oneDNN " + std::to_string(version->major) + "." + std::to_string(version->minor) + "." +
         std::to_string(version->patch);
}

}  // namespace attn::nn

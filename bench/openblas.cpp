#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "bench/bench.h"

namespace attn::bench {

namespace {

using Sgemm = void (*)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                       const float* a, int lda, const float* b, int ldb, float beta, float* c,
                       int ldc);
constexpr int kRowMajor = 101, kNoTrans = 111, kTrans = 112;
constexpr std::int64_t kRows = 256;

Sgemm sgemm = nullptr;

// Compiled with -ffast-math and for each instruction set, so that expf runs on whole vectors: a
// peer with a slow softmax would flatter us.
__attribute__((target_clones("avx512f", "avx2", "default"))) void softmax(float* s,
                                                                          std::int64_t count) {
  float top = s[0];
  for (std::int64_t j = 1; j < count; ++j) top = s[j] > top ? s[j] : top;
  float sum = 0;
  for (std::int64_t j = 0; j < count; ++j) {
    s[j] = std::exp(s[j] - top);
    sum += s[j];
  }
  const float scale = 1 / sum;
  for (std::int64_t j = 0; j < count; ++j) s[j] *= scale;
}

void block_attention(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
                     const Tensor& out, bool causal, std::int64_t b, std::int64_t h,
                     std::int64_t begin, std::vector<float>& scores) {
  const std::int64_t group = q.heads() / k.heads(), rows = std::min(kRows, q.length() - begin);
  const std::int64_t keys = causal ? std::min(k.length(), begin + rows) : k.length();
  const int m = static_cast<int>(rows), n = static_cast<int>(keys), d = static_cast<int>(q.width());
  scores.resize(static_cast<std::size_t>(rows * keys));
  sgemm(kRowMajor, kNoTrans, kTrans, m, n, d, 1.0f / std::sqrt(static_cast<float>(d)),
        q.row<float>(b, h, begin), static_cast<int>(q.strides[2]), k.row<float>(b, h / group, 0),
        static_cast<int>(k.strides[2]), 0, scores.data(), n);
  for (std::int64_t r = 0; r < rows; ++r) {
    float* s = scores.data() + r * keys;
    const std::int64_t seen = causal ? begin + r + 1 : keys;
    softmax(s, seen);
    std::fill(s + seen, s + keys, 0.0f);
  }
  sgemm(kRowMajor, kNoTrans, kNoTrans, m, static_cast<int>(v.width()), n, 1, scores.data(), n,
        v.row<float>(b, h / group, 0), static_cast<int>(v.strides[2]), 0,
        out.row<float>(b, h, begin), static_cast<int>(out.strides[2]));
}

}  // namespace

bool OpenBlas::load(Isa isa, std::string& why_not) {
  // Debian's OpenBLAS does not know recent CPUs and falls back to SSE unless told.
  setenv("OPENBLAS_CORETYPE", isa == Isa::avx512 ? "SKYLAKEX" : "HASWELL", 1);
  setenv("OPENBLAS_NUM_THREADS", "1", 1);  // we call it from our own threads
  void* library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    why_not = "libopenblas.so.0 is not installed";
    return false;
  }
  sgemm = reinterpret_cast<Sgemm>(dlsym(library, "cblas_sgemm"));
  if (sgemm == nullptr) why_not = "libopenblas.so.0 has no cblas_sgemm";
  return sgemm != nullptr;
}

void OpenBlas::attention(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
                         const Tensor& out, bool causal, int threads) {
  const std::int64_t blocks = (q.length() + kRows - 1) / kRows;
  const std::int64_t units = q.batch() * q.heads() * blocks;
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> scores;
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t unit = units - 1; unit >= 0; --unit) {  // the longest causal rows first
      const std::int64_t head = unit % (q.batch() * q.heads()),
                         block = unit / (q.batch() * q.heads());
      block_attention(q, k, v, out, causal, head / q.heads(), head % q.heads(), block * kRows,
                      scores);
    }
  }
}

}  // namespace attn::bench

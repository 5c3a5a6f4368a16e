// Plain attention on OpenBLAS, a peer: for a block of 256 rows, scores of all keys by one product,
// softmax in place, outputs by another; each thread its own blocks. Built around dlopen so that the
// library's core type can be set first.
#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <vector>

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

// Contiguous float32 [batch, heads, length, width].
struct Problem {
  const float *q, *k, *v;
  float* out;
  std::int64_t batch, q_heads, kv_heads, q_len, k_len, width;
  bool causal;
};

void block_attention(const Problem& p, std::int64_t b, std::int64_t h, std::int64_t begin,
                     std::vector<float>& scores) {
  const std::int64_t rows = std::min(kRows, p.q_len - begin);
  const std::int64_t keys = p.causal ? std::min(p.k_len, begin + rows) : p.k_len;
  const std::int64_t q_row = (b * p.q_heads + h) * p.q_len + begin;
  const std::int64_t kv_row = (b * p.kv_heads + h / (p.q_heads / p.kv_heads)) * p.k_len;
  const int m = static_cast<int>(rows), n = static_cast<int>(keys), d = static_cast<int>(p.width);
  scores.resize(static_cast<std::size_t>(rows * keys));
  sgemm(kRowMajor, kNoTrans, kTrans, m, n, d, 1.0f / std::sqrt(static_cast<float>(d)),
        p.q + q_row * p.width, d, p.k + kv_row * p.width, d, 0, scores.data(), n);
  for (std::int64_t r = 0; r < rows; ++r) {
    float* s = scores.data() + r * keys;
    const std::int64_t seen = p.causal ? std::min(keys, begin + r + 1) : keys;
    softmax(s, seen);
    std::fill(s + seen, s + keys, 0.0f);
  }
  sgemm(kRowMajor, kNoTrans, kNoTrans, m, d, n, 1, scores.data(), n, p.v + kv_row * p.width, d, 0,
        p.out + q_row * p.width, d);
}

}  // namespace

// Loads the library, tuned for `core_type` ("SKYLAKEX", "HASWELL"): Debian's does not know recent
// CPUs and falls back to SSE unless told. One choice a process; 0 when there is no library.
extern "C" int attn_openblas_load(const char* core_type) {
  setenv("OPENBLAS_CORETYPE", core_type, 1);
  setenv("OPENBLAS_NUM_THREADS", "1", 1);  // we call it from our own threads
  void* library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return 0;
  sgemm = reinterpret_cast<Sgemm>(dlsym(library, "cblas_sgemm"));
  return sgemm != nullptr ? 1 : 0;
}

// shape: batch, query heads, key heads, query length, key length, width.
extern "C" void attn_openblas_attention(const float* q, const float* k, const float* v, float* out,
                                        const std::int64_t* shape, int causal, int threads) {
  const Problem p{q,        k,        v,        out,      shape[0],   shape[1],
                  shape[2], shape[3], shape[4], shape[5], causal != 0};
  const std::int64_t blocks = (p.q_len + kRows - 1) / kRows, heads = p.batch * p.q_heads;
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> scores;
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t unit = heads * blocks - 1; unit >= 0; --unit) {  // longest causal rows first
      const std::int64_t head = unit % heads;
      block_attention(p, head / p.q_heads, head % p.q_heads, unit / heads * kRows, scores);
    }
  }
}

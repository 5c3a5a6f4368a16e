// Rotary positions: q . k depends on the distance of two tokens only, and YaRN stretches a model
// that was trained on 2,048 tokens to 8,192 without turning its slow pairs further than they know.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "attn/position.h"

namespace {

constexpr std::int64_t kWidth = 64;

// The score of the same query and key, the query at `q_pos` and the key at `k_pos`.
double score(std::int64_t q_pos, std::int64_t k_pos, const attn::RopeOptions& options) {
  std::vector<double> q(kWidth, 0.3), k(kWidth, 0.3);
  const attn::Shape shape = {1, 1, 1, kWidth};  // batch, heads, length, width
  attn::rope(attn::Tensor(q.data(), shape), std::vector{q_pos}, options);
  attn::rope(attn::Tensor(k.data(), shape), std::vector{k_pos}, options);
  double sum = 0;
  for (std::size_t i = 0; i < kWidth; ++i) sum += q[i] * k[i];
  return sum;
}

}  // namespace

int main() {
  const attn::RopeOptions plain = {.base = 10000.0};
  const attn::RopeOptions yarn = {.base = 10000.0, .scaling = attn::RopeScaling::yarn(4.0, 2048)};

  std::puts("distance   plain    YaRN    YaRN, 1000 tokens later");
  for (const std::int64_t distance : {0, 1, 16, 256, 2047, 8191}) {
    const double here = score(distance, 0, yarn), later = score(1000 + distance, 1000, yarn);
    std::printf("%8lld %7.3f %7.3f %7.3f\n", static_cast<long long>(distance),
                score(distance, 0, plain), here, later);
    if (!(std::abs(here - later) < 1e-9)) return 1;  // only the distance counts
  }

  // The slowest pair has turned as far after 8,192 tokens as it did in training after 2,048.
  const attn::RopeTable before = attn::rope_table(plain, kWidth);
  const attn::RopeTable after = attn::rope_table(yarn, kWidth);
  std::printf("slowest pair: %.4f rad at 2048 plain, %.4f rad at 8192 with YaRN\n",
              2048 * before.frequency.back(), 8192 * after.frequency.back());
  std::printf("fastest pair: %.1f and %.1f rad a token; q and k are %.4f times as long\n",
              before.frequency.front(), after.frequency.front(), after.magnitude);
}

// Gradients: a head learns to read the previous token. Queries and keys say nothing here (they are
// zero), so all that it can learn is where to look: a T5 position bias, one number a distance. The
// loss also asks for a low entropy, so gradients flow into what the head observes, too.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "attn/attention.h"

namespace {

constexpr std::int64_t kTokens = 256, kWidth = 16;
constexpr int kBuckets = 32, kSteps = 300;
constexpr float kRate = 2, kEntropyWeight = 0.02f;

float next_number() {
  static std::uint32_t state = 1;
  state = state * 1664525 + 1013904223;
  return static_cast<float>(state >> 8) * 0x1p-23f - 1;
}

}  // namespace

int main() {
  const attn::Shape rows{1, 1, kTokens, kWidth}, row{1, 1, kTokens, 1};
  const std::vector<float> zero(kTokens * kWidth, 0.0f);
  std::vector<float> v(kTokens * kWidth), out(v.size()), d_out(v.size());
  std::vector<float> lse(kTokens), entropy(kTokens), table(kBuckets, 0.0f), d_table(kBuckets);
  const std::vector<float> d_entropy(kTokens, kEntropyWeight / kTokens);
  std::generate(v.begin(), v.end(), next_number);
  const attn::ConstTensor q(zero.data(), rows), k(zero.data(), rows), values(v.data(), rows);

  const attn::Context context;
  float error = 0;
  for (int step = 0; step <= kSteps; ++step) {
    const attn::Plan plan = attn::plan(
        {1, 1, 1, kTokens, kTokens, kWidth},
        {.mask = attn::Mask::causal(),
         .score = {.t5 =
                       attn::T5Bias{.table = table, .buckets = kBuckets, .bidirectional = false}}},
        context);
    const attn::Tensor o(out.data(), rows), l(lse.data(), row), e(entropy.data(), row);
    plan.run(q, k, values, o, {.lse = l, .entropy = e});

    // Mean squared distance to the value of the token before, and its gradient.
    error = 0;
    float nats = 0;
    for (std::int64_t i = 0; i < kTokens; ++i) {
      nats += entropy[static_cast<std::size_t>(i)] / kTokens;
      for (std::int64_t d = 0; d < kWidth; ++d) {
        const auto at = static_cast<std::size_t>(i * kWidth + d);
        const float miss = i == 0 ? 0 : out[at] - v[at - kWidth];
        error += miss * miss / kTokens;
        d_out[at] = 2 * miss / kTokens;
      }
    }
    if (step % 60 == 0) std::printf("step %3d  error %.4f  entropy %.3f nats\n", step, error, nats);

    plan.backward({q, k, values}, {.out = o, .lse = l, .entropy = e},
                  {.out = {d_out.data(), rows}, .entropy = {d_entropy.data(), row}},
                  {.t5 = {d_table.data(), {1, 1, kBuckets, 1}}});
    for (std::size_t i = 0; i < table.size(); ++i) table[i] -= kRate * d_table[i];
  }
  const auto best = std::max_element(table.begin(), table.end()) - table.begin();
  std::printf("the bias is largest %ld token back\n", static_cast<long>(best));
  return best == 1 && error < 0.1f ? 0 : 1;
}

// A decoder reads its source with additive attention: what depends on the source alone is computed
// once, then every step asks with its own state. States are places on a circle, and the weights of
// six steps make a diagonal.
#include "attn/additive.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

namespace {

constexpr std::int64_t kSource = 6, kWidth = 2, kHidden = 48;

void write_state(std::int64_t place, float* state) {
  const float angle = 6.2831853f * static_cast<float>(place) / kSource;
  state[0] = std::cos(angle);
  state[1] = std::sin(angle);
}

}  // namespace

int main() {
  const attn::Context context;
  // Hidden units come in pairs: x is how much query and key differ in one direction, and
  // tanh(x + 1) - tanh(x - 1) is highest where they do not.
  std::vector<float> w, u, v_a, b;
  for (std::int64_t i = 0; i < kHidden; ++i) {
    const float angle = 6.2831853f * static_cast<float>(i / 2) / (kHidden / 2);
    for (const float x : {std::cos(angle), std::sin(angle)}) {
      w.push_back(3 * x);
      u.push_back(-3 * x);
    }
    b.push_back(i % 2 == 0 ? 1.0f : -1.0f);
    v_a.push_back(i % 2 == 0 ? 0.1f : -0.1f);
  }
  const attn::Shape matrix{1, 1, kHidden, kWidth}, vector{1, 1, 1, kHidden};

  std::vector<float> source(kSource * kWidth), keys(kSource * kHidden);
  for (std::int64_t j = 0; j < kSource; ++j) write_state(j, source.data() + j * kWidth);
  const attn::ConstTensor values(source.data(), {1, 1, kSource, kWidth});
  const attn::Tensor projected(keys.data(), {1, 1, kSource, kHidden});
  attn::project(values, attn::ConstTensor(u.data(), matrix), {}, projected, context);
  const attn::AdditiveKeys kept(projected, context);  // once a source

  bool diagonal = true;
  for (std::int64_t step = 0; step < kSource; ++step) {
    float state[kWidth], out[kWidth];
    std::vector<float> query(kHidden), weights(kSource);
    write_state(step, state);
    const attn::Tensor q(query.data(), {1, 1, 1, kHidden});
    attn::project(attn::ConstTensor(state, {1, 1, 1, kWidth}), attn::ConstTensor(w.data(), matrix),
                  attn::ConstTensor(b.data(), vector), q, context);
    attn::additive(q, kept, values, attn::ConstTensor(v_a.data(), vector),
                   attn::Tensor(out, {1, 1, 1, kWidth}), {}, context,
                   {.rows = {.queries = {0},
                             .probabilities = attn::Tensor(weights.data(), {1, 1, 1, kSource})}});
    std::int64_t best = 0;
    std::printf("step %d reads", static_cast<int>(step));
    for (std::int64_t j = 0; j < kSource; ++j) {
      std::printf("  %.3f", static_cast<double>(weights[static_cast<std::size_t>(j)]));
      if (weights[static_cast<std::size_t>(j)] > weights[static_cast<std::size_t>(best)]) best = j;
    }
    std::printf("\n");
    diagonal = diagonal && best == step;
  }
  return diagonal ? 0 : 1;
}

// A state instead of keys: 16 keys get a value each, and later another one. Asked for them, linear
// attention answers with the sum of both; the delta rule has replaced the first by the second. The
// text runs in chunks, the questions token by token from the state that it left.
#include "attn/recurrent.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

namespace {

constexpr std::int64_t kKeys = 16, kWidth = 64, kTokens = 2 * kKeys;

float next_number() {
  static std::uint32_t state = 1;
  state = state * 1664525 + 1013904223;
  return static_cast<float>(state >> 8) * 0x1p-23f - 1;
}

}  // namespace

int main() {
  std::vector<float> k(kTokens * kWidth), v(k.size());
  for (float& x : v) x = next_number();
  for (std::int64_t i = 0; i < kKeys; ++i) {
    float* row = &k[static_cast<std::size_t>(i * kWidth)];
    float square = 0;
    for (std::int64_t c = 0; c < kWidth; ++c) {
      row[c] = next_number();
      square += row[c] * row[c];
    }
    for (std::int64_t c = 0; c < kWidth; ++c)
      row[c + kKeys * kWidth] = row[c] /= std::sqrt(square);  // the same key again, later
  }

  const attn::Context context;
  const attn::Shape text{1, 1, kTokens, kWidth}, token{1, 1, 1, kWidth};
  const attn::Shape square{1, 1, kWidth, kWidth};
  for (const auto rule : {attn::StateRule::add, attn::StateRule::delta}) {
    std::vector<float> out(v.size()), state(kWidth * kWidth);
    attn::recurrent({.q = {k.data(), text}, .k = {k.data(), text}, .v = {v.data(), text}},
                    {out.data(), text}, {state.data(), square}, {.rule = rule}, context);

    // A question is a token that writes nothing: its beta is 0.
    const float nothing = 0;
    double error = 0;
    for (std::int64_t i = 0; i < kKeys; ++i) {
      const float* key = &k[static_cast<std::size_t>(i * kWidth)];
      const float* value = &v[static_cast<std::size_t>((kKeys + i) * kWidth)];
      std::vector<float> answer(kWidth);
      attn::recurrent({.q = {key, token},
                       .k = {key, token},
                       .v = {value, token},
                       .beta = {&nothing, {1, 1, 1, 1}},
                       .state = {state.data(), square}},
                      {answer.data(), token}, {state.data(), square}, {.rule = rule}, context);
      for (std::int64_t c = 0; c < kWidth; ++c) {
        const double off = answer[static_cast<std::size_t>(c)] - value[c];
        error += off * off;
      }
    }
    std::printf("%-16s mean squared distance to the second value: %.3f\n",
                rule == attn::StateRule::add ? "linear attention" : "delta rule",
                error / (kKeys * kWidth));
  }
}

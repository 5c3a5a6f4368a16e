// The steps of time of state-space models.
#pragma once

#include <cmath>
#include <cstdint>

#include "attn/mamba2.h"

namespace attn {

// ln(1 + e^x) without overflow
template <class T>
T softplus(T x) {
  return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
}

// What Mamba-2's dt becomes.
template <class T>
class TimeSteps {
 public:
  TimeSteps(const Mamba2Inputs& in, const Mamba2Options& options)
      : in_(in),
        softplus_(options.softplus),
        least_(static_cast<T>(options.dt_min)),
        most_(static_cast<T>(options.dt_max)) {}

  // Steps of `count` tokens of a head, from `token` on, and the logarithms of the decays.
  void fill(std::int64_t batch, std::int64_t head, std::int64_t token, std::int64_t count,
            T* log_decay, T* step) const {
    const T a = *in_.a.row<T>(0, head, 0);
    for (std::int64_t i = 0; i < count; ++i) {
      const T x = biased(batch, head, token + i);
      const T free = softplus_ ? softplus(x) : x;  // NaN stays
      step[i] = free < least_ ? least_ : free > most_ ? most_ : free;
      log_decay[i] = a * step[i];
    }
  }

  // The derivative of a token's step by its dt.
  T derivative(std::int64_t batch, std::int64_t head, std::int64_t token, T step) const {
    if (step == most_ || (least_ > 0 && step == least_)) return 0;
    return softplus_ ? 1 / (1 + std::exp(-biased(batch, head, token))) : T(1);
  }

 private:
  T biased(std::int64_t batch, std::int64_t head, std::int64_t token) const {
    const T bias = in_.dt_bias.empty() ? T(0) : *in_.dt_bias.row<T>(0, head, 0);
    return *in_.dt.row<T>(batch, head, token) + bias;
  }

  const Mamba2Inputs& in_;
  bool softplus_;
  T least_, most_;
};

}  // namespace attn

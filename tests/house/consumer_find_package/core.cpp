// Uses attn::core from an installed copy: one query, two keys, checked by hand.
#include <cmath>
#include <cstdio>

#include "attn/attention.h"

int main() {
  const float q[2] = {1, 0};
  const float k[4] = {1, 0, 0, 1};
  const float v[4] = {1, 2, 3, 4};
  float out[2] = {};
  attn::attention({q, {1, 1, 1, 2}}, {k, {1, 1, 2, 2}}, {v, {1, 1, 2, 2}}, {out, {1, 1, 1, 2}});
  const double p = 1 / (1 + std::exp(-1 / std::sqrt(2.0)));
  const double error =
      std::fabs(out[0] - (p + 3 * (1 - p))) + std::fabs(out[1] - (2 * p + 4 * (1 - p)));
  std::printf("attn %s: %g %g, error %g\n", attn::version(), out[0], out[1], error);
  return error <= 1e-5 ? 0 : 1;
}

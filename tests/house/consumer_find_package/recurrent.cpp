// Linear attention over two tokens, from the installed library.
#include "attn/recurrent.h"

#include <cmath>

int main() {
  const float q[2] = {1, 1}, k[2] = {1, 2}, v[2] = {3, 4};
  float out[2];
  const attn::Shape shape{1, 1, 2, 1};
  attn::recurrent({.q = {q, shape}, .k = {k, shape}, .v = {v, shape}}, {out, shape});
  return std::abs(out[0] - 3) < 1e-6f && std::abs(out[1] - 11) < 1e-6f ? 0 : 1;
}

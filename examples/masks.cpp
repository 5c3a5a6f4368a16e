// Compose masks, ask what they show, and look at them.
#include <attn/mask.h>

#include <cstdio>

int main() {
  using attn::Mask;
  attn::Geometry geometry;
  geometry.q_len = geometry.k_len = 16;

  // Longformer's pattern, one-sided: the last four keys and the two global tokens, never the
  // future.
  const Mask mask = Mask::causal() & (Mask::window(3, 0) | Mask::global_tokens({0, 1}));
  std::printf("%s", mask.ascii(geometry).c_str());

  for (const attn::Interval& keys : mask.row(geometry, 0, 0, 10)) {
    std::printf("query 10 sees keys %d..%d\n", static_cast<int>(keys.begin),
                static_cast<int>(keys.end - 1));
  }
  std::printf("any query sees its future: %s\n", mask.sees_future(geometry) ? "yes" : "no");

  // Two sequences of 16 and 11 tokens in one batch, padded on the left: the queries that stand in
  // the padding of the second see nothing, and their output is 0.
  geometry.batch = 2;
  const Mask padded = mask & Mask::padding({16, 11}, attn::PaddingSide::left);
  std::printf("with %s, %d queries of the second sequence see no key\n", padded.to_string().c_str(),
              static_cast<int>(padded.empty_rows(geometry, 1).size()));

  // Costs nothing to ask at any length; the command line reads the same words.
  geometry = {.q_len = 131072, .k_len = 131072};
  const Mask parsed = Mask::parse("causal & (window:255,0 | global:0)");
  std::printf("%s at 131072 tokens: %.2f %% of all pairs\n", parsed.to_string().c_str(),
              100.0 * static_cast<double>(parsed.pairs(geometry)) / 131072.0 / 131072.0);
}

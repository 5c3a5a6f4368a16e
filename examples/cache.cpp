// A key/value cache: two answers that share one prompt, and a stream that never ends in a pool that
// never grows. Keys and values are random here; a model would write what its layers compute.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "attn/kv_cache.h"

namespace {

constexpr std::int64_t kLayers = 2, kHeads = 8, kKvHeads = 2, kWidth = 64;

float next_number() {
  static std::uint32_t state = 1;
  state = state * 1664525 + 1013904223;
  return static_cast<float>(state >> 8) * 0x1p-23f - 1;
}

std::vector<float> numbers(std::int64_t count) {
  std::vector<float> x(static_cast<std::size_t>(count));
  for (float& e : x) e = next_number();
  return x;
}

// One step of a model: the sequences get `tokens` more each, every layer writes and reads them.
// Returns what the last layer attended.
std::vector<float> step(attn::KvCache& cache, const std::vector<attn::SequenceId>& ids,
                        std::int64_t tokens, const attn::Context& context) {
  for (const attn::SequenceId id : ids) cache.append(id, tokens);
  const attn::KvBatch batch = cache.batch(ids, std::vector<std::int64_t>(ids.size(), tokens));
  const attn::Plan plan =
      attn::plan(batch.shape(kHeads), batch.options({.mask = attn::Mask::causal()}), context);
  const std::int64_t n = tokens * static_cast<std::int64_t>(ids.size());
  std::vector<float> q = numbers(kHeads * n * kWidth), out(q.size());
  const attn::Tensor queries(q.data(), {1, kHeads, n, kWidth});
  cache.rotate(queries, batch);
  for (std::int64_t layer = 0; layer < kLayers; ++layer) {
    const std::vector<float> k = numbers(kKvHeads * n * kWidth), v = numbers(kKvHeads * n * kWidth);
    const attn::Shape shape = {1, kKvHeads, n, kWidth};
    cache.write(layer, batch, attn::ConstTensor(k.data(), shape),
                attn::ConstTensor(v.data(), shape));
    plan.run(queries, cache.view(layer, batch), attn::Tensor(out.data(), {1, kHeads, n, kWidth}));
  }
  return out;
}

void print(const char* what, const attn::KvCache& cache) {
  const attn::KvCacheUse use = cache.use();
  std::printf("%-22s %2lld sequences %5lld tokens %3lld of %lld pages, %lld shared\n", what,
              static_cast<long long>(use.sequences), static_cast<long long>(use.tokens),
              static_cast<long long>(use.pages - use.free_pages), static_cast<long long>(use.pages),
              static_cast<long long>(use.shared_pages));
}

}  // namespace

int main() {
  const attn::Context context;
  // Positions move when tokens are evicted: keys are kept unrotated, and rotated when read.
  attn::KvCache cache({.layers = kLayers,
                       .kv_heads = kKvHeads,
                       .width = kWidth,
                       .dtype = attn::DType::bf16,
                       .pages = 24,
                       .page_tokens = 32,
                       .rotation = attn::RopeOptions{}},
                      context);

  const attn::SequenceId prompt = cache.create();
  step(cache, {prompt}, 300, context);
  print("a prompt", cache);

  const attn::SequenceId other = cache.fork(prompt);
  print("forked", cache);
  for (int token = 0; token < 40; ++token) step(cache, {prompt, other}, 1, context);
  print("two answers", cache);

  // Drafts that turn out wrong are taken back.
  step(cache, {other}, 8, context);
  cache.truncate(other, cache.length(other) - 6);
  cache.drop(prompt);
  print("one goes on", cache);

  // Four tokens as a sink and the last 124 (StreamingLLM): any length in the same pages.
  std::vector<float> out;
  for (int token = 0; token < 2000; ++token) {
    out = step(cache, {other}, 1, context);
    cache.evict(other, 4, 124);
  }
  print("an endless stream", cache);
  std::printf("kept %lld of %lld tokens\n", static_cast<long long>(cache.length(other)),
              static_cast<long long>(cache.seen(other)));
  for (const float x : out) {
    if (!std::isfinite(x)) return 1;
  }
  return cache.length(other) == 128 && cache.use().pages - cache.use().free_pages <= 6 ? 0 : 1;
}

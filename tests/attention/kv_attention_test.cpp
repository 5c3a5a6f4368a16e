// Attention through the key/value cache: against contiguous tensors to the bit, against the oracle,
// with every place that holds no key of the call poisoned.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "attention/kv_model.h"
#include "attn/position.h"

namespace attn::test {
namespace {

constexpr std::int64_t kHeads = 4, kKvHeads = 2, kWidth = 16, kVWidth = 24;

struct Kind {
  std::string label;
  DType dtype = DType::f32;
  bool packed = false;
  std::int64_t page_tokens = 64;
  std::optional<RopeOptions> rotation = {};
  CachePositions positions = CachePositions::in_cache;
};
void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.label; }

KvCacheOptions options_of(const Kind& kind) {
  return {.layers = 2,
          .kv_heads = kKvHeads,
          .width = kWidth,
          .v_width = kVWidth,
          .dtype = kind.dtype,
          .pages = 9000 / kind.page_tokens,
          .page_tokens = kind.page_tokens,
          .packed_keys = kind.packed,
          .rotation = kind.rotation,
          .positions = kind.positions};
}

// Queries [1, kHeads, n, kWidth] that depend on the sequence and the place of each token alone.
std::vector<float> queries_of(SequenceId id, std::int64_t first, std::int64_t n) {
  std::vector<float> q(static_cast<std::size_t>(kHeads * n * kWidth));
  for (std::int64_t h = 0; h < kHeads; ++h) {
    for (std::int64_t l = 0; l < n; ++l) {
      Random random(static_cast<std::uint64_t>((id * 100003 + first + l) * kHeads + h));
      for (std::int64_t d = 0; d < kWidth; ++d) {
        q[static_cast<std::size_t>((h * n + l) * kWidth + d)] =
            static_cast<float>(2 * random.uniform() - 1);
      }
    }
  }
  return q;
}

using Rows = std::vector<float>;  // [kHeads][queries][kVWidth]

// Copies lengths [begin, end) of [1, heads, length, width] tensors.
void copy_lengths(const ConstTensor& from, std::int64_t begin, const Tensor& to,
                  std::int64_t to_begin, std::int64_t count) {
  for (std::int64_t h = 0; h < from.heads(); ++h) {
    for (std::int64_t l = 0; l < count; ++l) {
      std::copy_n(from.row<float>(0, h, begin + l), from.width(),
                  to.row<float>(0, h, to_begin + l));
    }
  }
}

// The outputs of the last `counts[i]` tokens of ids[i], in one call.
std::vector<Rows> run(KvCache& cache, const std::vector<SequenceId>& ids,
                      const std::vector<std::int64_t>& counts, const AttentionOptions& options,
                      const Context& context, std::int64_t layer = 1, bool oracle = false) {
  const KvBatch batch = cache.batch(ids, counts);
  const std::vector<std::int64_t>& begin = batch.ragged().q_offsets;
  const AttentionShape shape = batch.shape(kHeads);
  std::vector<float> q(static_cast<std::size_t>(kHeads * begin.back() * kWidth)),
      out(static_cast<std::size_t>(kHeads * begin.back() * kVWidth), 7);
  const Tensor qt(q.data(), {1, kHeads, begin.back(), kWidth}),
      ot(out.data(), {1, kHeads, begin.back(), kVWidth});
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::vector<float> part = queries_of(ids[i], cache.length(ids[i]) - counts[i], counts[i]);
    copy_lengths(ConstTensor(part.data(), {1, kHeads, counts[i], kWidth}), 0, qt, begin[i],
                 counts[i]);
  }
  if (cache.options().rotation) cache.rotate(qt, batch);
  const KeyValue kv = cache.view(layer, batch);
  if (oracle) {
    reference::attention(shape, qt, kv, ot, batch.options(options));
  } else {
    plan(shape, batch.options(options), context).run(qt, kv, ot);
  }
  std::vector<Rows> rows;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    rows.emplace_back(static_cast<std::size_t>(kHeads * counts[i] * kVWidth));
    copy_lengths(ot, begin[i], Tensor(rows.back().data(), {1, kHeads, counts[i], kVWidth}), 0,
                 counts[i]);
  }
  return rows;
}

// Keys or values of one sequence of a batch, copied to a tensor of their own.
struct Contiguous {
  std::vector<std::byte> memory;
  std::vector<float> scales;
  ConstTensor rows, scale;

  Contiguous(const KeyValue& kv, const KvBatch& batch, std::size_t sequence, bool value) {
    const ConstTensor &pool = value ? kv.v : kv.k, &scale_pool = value ? kv.v_scale : kv.k_scale;
    const std::int64_t panel = value ? 0 : kv.k_panel;
    const std::size_t element = size_of(pool.dtype);
    const std::int64_t length =
        batch.ragged().k_offsets[sequence + 1] - batch.ragged().k_offsets[sequence];
    const auto* data = static_cast<const std::byte*>(pool.data);
    for (std::int64_t head = 0; head < pool.heads(); ++head) {
      std::int64_t run = kv.pages->run_begin[sequence];
      const std::int64_t end = kv.pages->run_begin[sequence + 1];
      for (std::int64_t key = 0; key < length; ++key) {
        while (run + 1 < end && kv.pages->runs[static_cast<std::size_t>(run) + 1].begin <= key)
          ++run;
        const PageRun& from = kv.pages->runs[static_cast<std::size_t>(run)];
        const std::int64_t row = from.row + key - from.begin;
        for (std::int64_t i = 0; i < pool.width(); ++i) {
          const auto at = static_cast<std::size_t>(pool_offset(pool, panel, head, row, i));
          memory.insert(memory.end(), data + at * element, data + (at + 1) * element);
        }
        if (!scale_pool.empty()) scales.push_back(*scale_pool.row<float>(0, head, row));
      }
    }
    const Shape shape{1, pool.heads(), length, pool.width()};
    rows = {memory.data(), pool.dtype, shape, strides_bhld(shape)};
    if (!scales.empty()) scale = ConstTensor(scales.data(), {1, pool.heads(), length, 1});
  }
};

// The same from one sequence alone, its keys copied to tensors.
Rows run_contiguous(KvCache& cache, SequenceId id, std::int64_t count,
                    const AttentionOptions& options, const Context& context) {
  const KvBatch batch = cache.batch({id}, {count});
  const KeyValue paged = cache.view(1, batch);
  const Contiguous k(paged, batch, 0, false), v(paged, batch, 0, true);
  std::vector<float> q = queries_of(id, cache.length(id) - count, count);
  const Tensor qt(q.data(), {1, kHeads, count, kWidth});
  if (cache.options().rotation) cache.rotate(qt, batch);
  AttentionOptions alone = options;
  alone.query_start = cache.length(id) - count;
  AttentionShape shape = batch.shape(kHeads);
  Rows out(static_cast<std::size_t>(kHeads * count * kVWidth), 7);
  plan(shape, alone, context)
      .run(qt,
           {.k = k.rows,
            .v = v.rows,
            .k_scale = k.scale,
            .v_scale = v.scale,
            .rotation = paged.rotation},
           Tensor(out.data(), {1, kHeads, count, kVWidth}));
  return out;
}

// NaN in every row of the pool that none of the batch's sequences holds.
void poison_rest(KvCache& cache, const std::vector<SequenceId>& ids) {
  const KvBatch batch = cache.batch(ids);
  for (std::int64_t layer = 0; layer < cache.options().layers; ++layer) {
    const KeyValue kv = cache.view(layer, batch);
    std::vector<bool> held(static_cast<std::size_t>(kv.v.length()));
    for (std::size_t i = 0; i < ids.size(); ++i) {
      for (std::int64_t r = kv.pages->run_begin[i]; r < kv.pages->run_begin[i + 1]; ++r) {
        const PageRun& run = kv.pages->runs[static_cast<std::size_t>(r)];
        const std::int64_t end = r + 1 < kv.pages->run_begin[i + 1]
                                     ? kv.pages->runs[static_cast<std::size_t>(r) + 1].begin
                                     : cache.length(ids[i]);
        for (std::int64_t j = run.begin; j < end; ++j)
          held[static_cast<std::size_t>(run.row + j - run.begin)] = true;
      }
    }
    for (const ConstTensor* t : {&kv.k, &kv.v, &kv.k_scale, &kv.v_scale}) {
      if (t->empty()) continue;
      const std::size_t element = size_of(t->dtype);
      auto* data = static_cast<std::byte*>(const_cast<void*>(t->data));
      for (std::int64_t head = 0; head < t->heads(); ++head) {
        for (std::int64_t row = 0; row < t->length(); ++row) {
          if (held[static_cast<std::size_t>(row)]) continue;
          for (std::int64_t i = 0; i < t->width(); ++i) {
            const std::int64_t at = pool_offset(*t, t == &kv.k ? kv.k_panel : 0, head, row, i);
            std::memset(data + static_cast<std::size_t>(at) * element, 0xff, element);
          }
        }
      }
    }
  }
}

const AttentionOptions kCausal = {.mask = Mask::causal(), .score = Score::alibi()};

class KvAttention : public testing::TestWithParam<Kind> {};
class KvEviction : public testing::TestWithParam<Kind> {};  // positions count within the cache
class KvChunks : public testing::TestWithParam<Kind> {};    // rotations do not change with length

// Sequences that share, were cut and evicted; one call with 1 to 200 queries each.
TEST_P(KvAttention, EqualsContiguousTensorsToTheBit) {
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 2, .isa = isa});
    ModelledCache both(options_of(GetParam()), context);
    const SequenceId a = both.create();
    both.append(a, 300);
    const SequenceId b = both.fork(a), c = both.fork(a), d = both.create(), e = both.create();
    both.append(a, 1200, 100);
    both.append(b, 7);
    both.evict(b, 5, 133);
    both.append(b, 70);
    both.truncate(c, 129);
    both.append(d, 1);
    both.append(e, 700);
    both.evict(e, 64, 256);
    const std::vector<SequenceId> ids = {a, b, c, d, e};
    const std::vector<std::int64_t> counts = {3, 70, 129, 1, 0};
    const bool alone = GetParam().positions == CachePositions::original;
    if (alone) {
      both.drop(b);
      both.drop(e);
    }
    const std::vector<SequenceId> used = alone ? std::vector{a, c, d} : ids;
    const std::vector<std::int64_t> used_counts =
        alone ? std::vector<std::int64_t>{3, 129, 1} : counts;
    poison_rest(both.cache, used);
    const std::vector<Rows> rows = run(both.cache, used, used_counts, kCausal, context);
    for (std::size_t i = 0; i < used.size(); ++i) {
      const Rows expected = run_contiguous(both.cache, used[i], used_counts[i], kCausal, context);
      for (float x : rows[i]) ASSERT_TRUE(std::isfinite(x)) << name(isa);
      EXPECT_TRUE(same_bits(rows[i], expected)) << name(isa) << " sequence " << used[i];
      EXPECT_TRUE(
          same_bits(run(both.cache, {used[i]}, {used_counts[i]}, kCausal, context)[0], expected))
          << name(isa) << " alone, sequence " << used[i];
    }
  }
}

// After an eviction: as if only what is left had ever been written.
TEST_P(KvEviction, EqualsAFreshCache) {
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 2, .isa = isa});
    ModelledCache evicted(options_of(GetParam()), context), fresh(options_of(GetParam()), context);
    const SequenceId id = evicted.create(), twin = evicted.fork(id);
    for (int round = 0; round < 4; ++round) {
      evicted.append(id, 211, 64);
      if (round == 1) evicted.drop(twin);
      evicted.evict(id, 4, 150 + 40 * round);
      if (round == 2) evicted.fork(id);  // eviction must leave the fork's pages alone
      // The same tokens into a cache that never held others.
      const SequenceId copy = fresh.create();
      const ModelSequence& kept = evicted.model.at(id);
      fresh.cache.append(copy, static_cast<std::int64_t>(kept.tokens.size()));
      for (std::int64_t layer = 0; layer < 2; ++layer) {
        const TokenRows k(kept.tokens, layer, kKvHeads, kWidth, false);
        const TokenRows v(kept.tokens, layer, kKvHeads, kVWidth, true);
        fresh.cache.write(layer, copy, k.view, v.view);
      }
      const std::int64_t count = round % 2 == 0 ? 1 : 37;
      poison_rest(evicted.cache, [&] {
        std::vector<SequenceId> all;
        for (const auto& [other, s] : evicted.model) all.push_back(other);
        return all;
      }());
      const Rows rows = run(evicted.cache, {id}, {count}, kCausal, context)[0];
      // Queries depend on the sequence's number: run_contiguous would give them another one.
      std::vector<float> q = queries_of(id, evicted.cache.length(id) - count, count);
      const KvBatch batch = fresh.cache.batch({copy}, {count});
      const Tensor qt(q.data(), {1, kHeads, count, kWidth});
      if (GetParam().rotation) fresh.cache.rotate(qt, batch);
      Rows expected(rows.size());
      plan(batch.shape(kHeads), batch.options(kCausal), context)
          .run(qt, fresh.cache.view(1, batch),
               Tensor(expected.data(), {1, kHeads, count, kVWidth}));
      EXPECT_TRUE(same_bits(rows, expected)) << name(isa) << " round " << round;
      fresh.cache.drop(copy);
    }
    EXPECT_EQ(evicted.difference(), "");
  }
}

// The prompt in one piece, in chunks, or token by token: the same bits.
TEST_P(KvChunks, EqualOneShot) {
  const std::int64_t length = 331;
  const Context context({.threads = 2});
  ModelledCache both(options_of(GetParam()), context);
  const SequenceId id = both.create();
  both.append(id, length);
  const Rows whole = run(both.cache, {id}, {length}, kCausal, context)[0];
  for (const std::int64_t chunk : {1, 17, 64, 200}) {
    both.truncate(id, 0);
    both.last_token = 0;
    for (std::int64_t begin = 0; begin < length; begin += chunk) {
      const std::int64_t n = std::min(chunk, length - begin);
      both.append(id, n);
      const Rows rows = run(both.cache, {id}, {n}, kCausal, context)[0];
      for (std::int64_t h = 0; h < kHeads; ++h) {
        for (std::int64_t i = 0; i < n * kVWidth; ++i) {
          ASSERT_EQ(rows[static_cast<std::size_t>(h * n * kVWidth + i)],
                    whole[static_cast<std::size_t>((h * length + begin) * kVWidth + i)])
              << "chunk " << chunk << " at " << begin;
        }
      }
    }
  }
}

// A score is a chain of kWidth products, an output one of as many as there are keys; each step
// rounds by half an epsilon of at most the sum of sizes.
double rounding(double keys) {
  const double epsilon = std::numeric_limits<float>::epsilon(), size = 8;  // of keys and values
  const double score = 2 * std::sqrt(kWidth) * size;                       // 2: YaRN's magnitudes
  return epsilon * size * (2 * kWidth * score + keys);
}

TEST_P(KvAttention, AgreesWithTheOracle) {
  const Context context({.threads = 2});
  ModelledCache both(options_of(GetParam()), context);
  const SequenceId a = both.create();
  both.append(a, 150);
  const SequenceId b = both.fork(a);
  both.append(a, 33);
  both.append(b, 100);
  if (GetParam().positions == CachePositions::in_cache) both.evict(b, 7, 120);
  const std::vector<SequenceId> ids = {a, b};
  const std::vector<Rows> rows = run(both.cache, ids, {40, 1}, kCausal, context),
                          oracle = run(both.cache, ids, {40, 1}, kCausal, context, 1, true);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t j = 0; j < rows[i].size(); ++j)
      ASSERT_NEAR(rows[i][j], oracle[i][j], rounding(250)) << i << " " << j;
  }
}

std::vector<Kind> kinds() {
  const RopeOptions plain = {.base = 1000};
  const RopeOptions interleaved = {.layout = RopeLayout::interleaved, .fraction = 0.5};
  const RopeOptions moving = {.scaling = RopeScaling::dynamic_ntk(2, 128)};
  return {{"float32", DType::f32},
          {"bfloat16", DType::bf16, false, 48},
          {"float16", DType::f16, false, 1},
          {"int8", DType::i8, false, 13},
          {"contiguous", DType::f32, false, 1500},
          {"packed", DType::f32, true},
          {"packed_bfloat16", DType::bf16, true, 128},
          {"packed_float16", DType::f16, true},
          {"packed_int8", DType::i8, true},
          {"rotated", DType::f32, false, 64, plain},
          {"rotated_bfloat16", DType::bf16, false, 17, interleaved},
          {"rotated_int8", DType::i8, false, 64, plain},
          {"moving_base", DType::bf16, false, 64, moving},
          {"original_positions", DType::f32, false, 20,
           RopeOptions{.scaling = RopeScaling::yarn(4, 64)}, CachePositions::original}};
}
std::vector<Kind> kinds_but(const std::string& label) {
  std::vector<Kind> some;
  for (const Kind& kind : kinds()) {
    if (kind.label != label) some.push_back(kind);
  }
  return some;
}
INSTANTIATE_TEST_SUITE_P(Kinds, KvAttention, testing::ValuesIn(kinds()),
                         [](const auto& test) { return test.param.label; });
INSTANTIATE_TEST_SUITE_P(Kinds, KvEviction, testing::ValuesIn(kinds_but("original_positions")),
                         [](const auto& test) { return test.param.label; });
INSTANTIATE_TEST_SUITE_P(Kinds, KvChunks, testing::ValuesIn(kinds_but("moving_base")),
                         [](const auto& test) { return test.param.label; });

// Keys that a cache rotates when they are read against keys that attn::rope rotated.
struct Rotated {
  std::string label;
  RopeOptions options;
  CachePositions positions = CachePositions::in_cache;
};
void PrintTo(const Rotated& rotated, std::ostream* out) { *out << rotated.label; }
class KvRotations : public testing::TestWithParam<Rotated> {};

TEST_P(KvRotations, IsThatOfRope) {
  const RopeOptions& rotation = GetParam().options;
  const Context context({.threads = 1});
  const KvCacheOptions options = {.kv_heads = kKvHeads,
                                  .width = kWidth,
                                  .v_width = kVWidth,
                                  .pages = 40,
                                  .page_tokens = 16,
                                  .rotation = rotation,
                                  .positions = GetParam().positions};
  ModelledCache both(options, context);
  const SequenceId a = both.create(), b = both.create();
  both.append(a, 90);
  both.append(b, 260);
  if (GetParam().positions == CachePositions::in_cache) both.evict(b, 3, 200);
  const bool original = GetParam().positions == CachePositions::original;
  if (original) both.evict(a, 3, 60);
  const std::vector<SequenceId> ids = original ? std::vector{a} : std::vector{a, b};
  const std::vector<std::int64_t> counts(ids.size(), 5);
  const std::vector<Rows> rows = run(both.cache, ids, counts, kCausal, context, 0);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::int64_t length = both.cache.length(ids[i]);
    std::vector<std::int64_t> positions = both.cache.original_positions(ids[i]);
    if (!original) std::iota(positions.begin(), positions.end(), 0);
    const std::int64_t seen = positions.back() + 1;
    const TokenRows k(both.model.at(ids[i]).tokens, 0, kKvHeads, kWidth, false);
    const TokenRows v(both.model.at(ids[i]).tokens, 0, kKvHeads, kVWidth, true);
    const Tensor keys(const_cast<void*>(k.view.data), k.view.dtype, k.view.shape, k.view.strides);
    rope(keys, positions, rotation, seen);
    std::vector<float> q = queries_of(ids[i], length - 5, 5);
    const Tensor qt(q.data(), {1, kHeads, 5, kWidth});
    const std::vector<std::int64_t> last(positions.end() - 5, positions.end());
    rope(qt, last, rotation, seen);
    Rows expected(rows[i].size());
    AttentionOptions alone = kCausal;
    alone.q_positions = last;
    alone.k_positions = positions;
    attention(qt, keys, v.view, Tensor(expected.data(), {1, kHeads, 5, kVWidth}), alone, context);
    for (std::size_t j = 0; j < expected.size(); ++j)
      ASSERT_NEAR(rows[i][j], expected[j], rounding(260)) << "sequence " << ids[i];
  }
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, KvRotations,
    testing::Values(
        Rotated{"plain", {}},
        Rotated{"interleaved", {.layout = RopeLayout::interleaved, .fraction = 0.75}},
        Rotated{"moving_base", {.scaling = RopeScaling::dynamic_ntk(4, 64)}},
        Rotated{"moving_base_original",
                {.scaling = RopeScaling::dynamic_ntk(4, 64)},
                CachePositions::original},
        Rotated{"yarn_original", {.scaling = RopeScaling::yarn(4, 64)}, CachePositions::original},
        Rotated{"llama3", {.scaling = RopeScaling::llama3(8, 1, 4, 64)}}),
    [](const auto& test) { return test.param.label; });

TEST(KvRotation, OfQueriesIn16Bits) {
  KvCache cache({.width = kWidth, .pages = 1, .rotation = RopeOptions{}});
  const SequenceId id = cache.create();
  cache.append(id, 9);
  const KvBatch batch = cache.batch({id}, {2});
  std::vector<float> wide = queries_of(id, 7, 2);
  std::vector<BFloat16> bf16;
  std::vector<Float16> f16;
  for (float& x : wide) {
    f16.push_back(to_float16(x = to_float(to_bfloat16(x))));
    bf16.push_back(to_bfloat16(x));
  }
  const Shape shape{1, kHeads, 2, kWidth};
  std::vector<float> exact;
  for (Float16 x : f16) exact.push_back(to_float(x));
  cache.rotate(Tensor(wide.data(), shape), batch);
  cache.rotate(Tensor(bf16.data(), shape), batch);
  cache.rotate(Tensor(exact.data(), shape), batch);
  cache.rotate(Tensor(f16.data(), shape), batch);
  for (std::size_t i = 0; i < wide.size(); ++i) {
    EXPECT_EQ(bf16[i].bits, to_bfloat16(wide[i]).bits);
    EXPECT_EQ(f16[i].bits, to_float16(exact[i]).bits);
  }
  std::vector<double> doubles(wide.size());
  EXPECT_THROW(cache.rotate(Tensor(doubles.data(), shape), batch), std::invalid_argument);
  EXPECT_THROW(cache.rotate(Tensor(wide.data(), {1, kHeads, 1, kWidth}), batch),
               std::invalid_argument);
  const KvBatch early = cache.batch({id}, {10});
  std::vector<float> many(kHeads * 10 * kWidth);
  EXPECT_THROW(cache.rotate(Tensor(many.data(), {1, kHeads, 10, kWidth}), early),
               std::invalid_argument);
}

// The observers' second pass reads keys as the first does: ragged as alone.
TEST(KvRotation, OfObserversIsThatOfTheirSequence) {
  const Context context({.threads = 2});
  ModelledCache both(options_of({"", DType::bf16, false, 32,
                                 RopeOptions{.scaling = RopeScaling::dynamic_ntk(4, 64)}}),
                     context);
  const SequenceId a = both.create(), b = both.create();
  both.append(a, 100);
  both.append(b, 300);
  const auto weighted = [&](const std::vector<SequenceId>& ids) {
    const KvBatch batch = both.cache.batch(ids);
    const auto n = static_cast<std::int64_t>(ids.size());
    std::vector<float> q(static_cast<std::size_t>(kHeads * n * kWidth), 0.3f);
    std::vector<float> out(static_cast<std::size_t>(kHeads * n * kVWidth));
    std::vector<float> norms(static_cast<std::size_t>(kHeads * n));
    const Tensor qt(q.data(), {1, kHeads, n, kWidth});
    both.cache.rotate(qt, batch);
    plan(batch.shape(kHeads), batch.options(kCausal), context)
        .run(qt, both.cache.view(0, batch), Tensor(out.data(), {1, kHeads, n, kVWidth}),
             {.value_weighted = Tensor(norms.data(), {1, kHeads, n, 1})});
    return norms;
  };
  const std::vector<float> together = weighted({a, b}), first = weighted({a}),
                           second = weighted({b});
  for (std::size_t h = 0; h < kHeads; ++h) {
    EXPECT_EQ(together[2 * h], first[h]);
    EXPECT_EQ(together[2 * h + 1], second[h]);
  }
}

// Original positions are for masks too: a window in the text, not in the cache.
TEST(KvPositions, OriginalOnesReachMasks) {
  const Context context({.threads = 1});
  ModelledCache both({.kv_heads = kKvHeads,
                      .width = kWidth,
                      .v_width = kVWidth,
                      .pages = 20,
                      .page_tokens = 16,
                      .positions = CachePositions::original},
                     context);
  const SequenceId id = both.create(), other = both.create();
  both.append(id, 200);
  both.append(other, 3);
  both.evict(id, 4, 50);
  const KvBatch batch = both.cache.batch({id}, {2});
  EXPECT_THAT(batch.q_positions(), testing::ElementsAre(198, 199));
  EXPECT_EQ(batch.k_positions()[3], 3);
  EXPECT_EQ(batch.k_positions()[4], 150);
  const AttentionOptions options = batch.options({.mask = Mask::causal() & Mask::window(60, 0)});
  EXPECT_EQ(options.mask.pairs({.heads = 1,
                                .q_len = 2,
                                .k_len = 54,
                                .q_positions = options.q_positions,
                                .k_positions = options.k_positions}),
            49 + 50);
  EXPECT_THROW(both.cache.batch({id, other}).options(), std::invalid_argument);
  EXPECT_NO_THROW(both.cache.batch({other}).options());
}

}  // namespace
}  // namespace attn::test

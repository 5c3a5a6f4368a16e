// The structure of the key/value cache: what it holds, whose pages, and what it refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "attention/kv_model.h"
#include "attn/error.h"

namespace attn::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

template <class E, class F>
std::string message(const F& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "nothing thrown";
}
#define EXPECT_REFUSED(call, words) \
  EXPECT_THAT(message<std::invalid_argument>([&] { call; }), HasSubstr(words))

struct Kind {
  std::string label;
  DType dtype = DType::f32;
  std::int64_t page_tokens = 4;
  bool packed = false;
};
void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.label; }

class KvCacheKinds : public testing::TestWithParam<Kind> {};

// Any order of operations, thousands of them, small pool: it is full again and again.
TEST_P(KvCacheKinds, HoldsWhatAModelHolds) {
  const Kind& kind = GetParam();
  ModelledCache both({.layers = 2,
                      .kv_heads = 2,
                      .width = 5,
                      .v_width = 3,
                      .dtype = kind.dtype,
                      .pages = 14,
                      .page_tokens = kind.page_tokens,
                      .packed_keys = kind.packed});
  Random random(11);
  const std::int64_t size = kind.page_tokens;
  std::map<std::string, int> happened;
  for (int step = 0; step < 3000; ++step) {
    std::vector<SequenceId> ids;
    for (const auto& [id, s] : both.model) ids.push_back(id);
    const std::int64_t count = static_cast<std::int64_t>(ids.size());
    const auto pick = [&] { return ids[static_cast<std::size_t>(random.below(count))]; };
    const std::int64_t what = ids.empty() ? 0 : random.below(20);
    std::string name;
    try {
      if (what == 0 && count < 6) {
        name = "create";
        both.create();
      } else if (what <= 2 && count < 6) {
        name = "fork";
        both.fork(pick());
      } else if (what <= 11) {
        name = "append";
        const bool one = random.below(2) == 0;
        both.append(pick(), one ? 1 : random.below(3 * size), 1 + random.below(2 * size));
      } else if (what <= 14) {
        name = "truncate";
        const SequenceId id = pick();
        const std::int64_t length = both.cache.length(id);
        both.truncate(id, length - std::min(length, random.below(size + 2)));
      } else if (what <= 18) {
        name = "evict";
        both.evict(pick(), random.below(3) * random.below(size), random.below(4 * size));
      } else {
        name = "drop";
        both.drop(pick());
      }
    } catch (const Error&) {
      name += ", full";
    }
    ++happened[name];
    ASSERT_EQ(both.difference(), "") << "step " << step << ", " << name;
  }
  for (const char* name :
       {"create", "fork", "append", "truncate", "evict", "drop", "append, full"}) {
    EXPECT_GT(happened[name], 20) << name;
  }
  while (!both.model.empty()) both.drop(both.model.begin()->first);
  EXPECT_EQ(both.cache.use().free_pages, 14);
}

std::vector<Kind> kinds() {
  const std::int64_t panels = 64;  // a multiple of every instruction set's panel
  return {{"rows", DType::f32, 4},
          {"one_token_pages", DType::f32, 1},
          {"long_pages", DType::bf16, 37},
          {"half", DType::f16, 5},
          {"int8", DType::i8, 6},
          {"packed", DType::f32, panels, true},
          {"packed_bf16", DType::bf16, panels, true},
          {"packed_int8", DType::i8, panels, true}};
}
INSTANTIATE_TEST_SUITE_P(Kinds, KvCacheKinds, testing::ValuesIn(kinds()),
                         [](const auto& test) { return test.param.label; });

TEST(KvCache, SharesPagesUntilSomebodyAppends) {
  ModelledCache both({.kv_heads = 1, .width = 4, .pages = 8, .page_tokens = 4});
  const SequenceId a = both.create();
  both.append(a, 10);  // pages: 4, 4, 2
  const SequenceId b = both.fork(a), c = both.fork(a);
  EXPECT_EQ(both.cache.use().free_pages, 5);
  EXPECT_EQ(both.cache.use().shared_pages, 3);
  both.append(b, 1);  // copies the last page alone
  EXPECT_EQ(both.cache.use().free_pages, 4);
  both.append(c, 3);  // copies it too, and takes one more
  EXPECT_EQ(both.cache.use().free_pages, 2);
  both.append(a, 2);  // nobody else has it any more
  EXPECT_EQ(both.cache.use().free_pages, 2);
  EXPECT_EQ(both.cache.use().shared_pages, 2);
  EXPECT_EQ(both.difference(), "");
}

TEST(KvCache, AFullPoolSaysSoAndChangesNothing) {
  ModelledCache both({.kv_heads = 1, .width = 4, .pages = 3, .page_tokens = 4});
  const SequenceId a = both.create();
  both.append(a, 7);
  const SequenceId b = both.fork(a);
  const KvBatch before = both.cache.batch({a, b});
  EXPECT_THAT(message<Error>([&] { both.cache.append(b, 6); }),
              HasSubstr("the pool is full: sequence 1 needs 3 more pages of 4 tokens, 1 of 3 are "
                        "free"));
  EXPECT_THAT(
      message<Error>([&] { both.cache.append(a, std::numeric_limits<std::int64_t>::max()); }),
      HasSubstr("the pool is full"));
  EXPECT_NO_THROW(both.cache.view(0, before));  // not even a new version
  EXPECT_EQ(both.difference(), "");
  both.append(b, 1);
  both.append(a, 1);
  EXPECT_THAT(message<Error>([&] { both.append(a, 1); }), HasSubstr("needs 1 more pages"));
  EXPECT_EQ(both.difference(), "");
}

// An endless stream: sinks and a window, in a pool that never grows.
TEST(KvCache, StreamsForever) {
  ModelledCache both({.kv_heads = 1, .width = 4, .pages = 5, .page_tokens = 4});
  const SequenceId id = both.create();
  for (int step = 0; step < 1000; ++step) {
    both.append(id, 1);
    both.evict(id, 3, 9);
    ASSERT_EQ(both.difference(), "") << step;
  }
  EXPECT_EQ(both.cache.length(id), 12);
  EXPECT_EQ(both.cache.seen(id), 1000);
  EXPECT_THAT(both.cache.original_positions(id),
              ElementsAre(0, 1, 2, 991, 992, 993, 994, 995, 996, 997, 998, 999));
}

// Runs of consecutive pages are joined, so that a contiguous sequence is one run.
TEST(KvCache, JoinsNeighbouringPages) {
  ModelledCache both({.kv_heads = 1, .width = 4, .pages = 6, .page_tokens = 4});
  const SequenceId a = both.create(), b = both.create();
  both.append(a, 9);
  both.append(b, 2);
  both.append(a, 4);
  const KvBatch batch = both.cache.batch({a, b});
  const KeyValue kv = both.cache.view(0, batch);
  EXPECT_THAT(kv.pages->run_begin, ElementsAre(0, 2, 3));
  EXPECT_EQ(kv.pages->runs[0].row, 0);
  EXPECT_EQ(kv.pages->runs[1].begin, 12);
  EXPECT_EQ(kv.pages->runs[1].row, 16);
}

TEST(KvCache, RefusesWhatDoesNotFit) {
  EXPECT_REFUSED(KvCache({.width = 4}), "[kv_cache] pages is 0, must be 1 or more");
  EXPECT_REFUSED(KvCache({.pages = 4}), "width is 0, must be 1 to 1024");
  EXPECT_REFUSED(KvCache({.width = 4, .v_width = 1025, .pages = 4}), "v_width is 1025");
  EXPECT_REFUSED(KvCache({.layers = 0, .width = 4, .pages = 4}), "layers is 0");
  EXPECT_REFUSED(KvCache({.kv_heads = 0, .width = 4, .pages = 4}), "kv_heads is 0");
  EXPECT_REFUSED(KvCache({.width = 4, .pages = 4, .page_tokens = 0}), "page_tokens is 0");
  EXPECT_REFUSED(KvCache({.width = 4, .pages = std::int64_t{1} << 60}), "is too much");
  EXPECT_REFUSED(KvCache({.width = 4, .pages = 4, .page_tokens = 7, .packed_keys = true}),
                 "page_tokens is 7, must be a multiple of");
  EXPECT_REFUSED(KvCache({.width = 4, .dtype = DType::f64, .pages = 4, .rotation = RopeOptions{}}),
                 "float64 keys cannot be rotated");
  EXPECT_REFUSED(KvCache({.width = 4, .pages = 4, .packed_keys = true, .rotation = RopeOptions{}}),
                 "packed keys cannot be rotated");
  EXPECT_REFUSED(KvCache({.width = 1, .pages = 4, .rotation = RopeOptions{}}), "[rope]");
  EXPECT_THAT(message<Error>([] { KvCache({.width = 1024, .pages = std::int64_t{1} << 40}); }),
              HasSubstr("no memory for"));

  ModelledCache both({.layers = 2, .kv_heads = 2, .width = 4, .v_width = 3, .pages = 4});
  KvCache& cache = both.cache;
  const SequenceId id = both.create(), other = both.create();
  both.append(id, 5);
  both.drop(other);
  EXPECT_REFUSED(cache.append(other, 1), "there is no sequence 1");
  EXPECT_REFUSED(cache.drop(7), "there is no sequence 7");
  EXPECT_REFUSED(cache.fork(-1), "there is no sequence -1");
  EXPECT_REFUSED(cache.length(other), "there is no sequence 1");
  EXPECT_REFUSED(cache.append(id, -1), "tokens is -1");
  EXPECT_REFUSED(cache.truncate(id, 6), "length is 6, must be 0 to 5, what sequence 0 has");
  EXPECT_REFUSED(cache.truncate(id, -1), "length is -1");
  EXPECT_REFUSED(cache.evict(id, -1, 2), "sinks is -1");
  EXPECT_REFUSED(cache.evict(id, 1, -2), "window is -2");
  EXPECT_REFUSED(cache.batch({id, id}), "sequence 0 is in the batch twice");
  EXPECT_REFUSED(cache.batch({id}, {1, 2}), "queries has 2 entries, must have 1");
  EXPECT_REFUSED(cache.batch({id}, {-1}), "queries is -1");

  cache.append(id, 2);
  const KvBatch batch = cache.batch({id}, {2});
  std::vector<float> rows(64, 1.0f);
  const auto tensor = [&](std::int64_t heads, std::int64_t length, std::int64_t width) {
    return ConstTensor(rows.data(), {1, heads, length, width});
  };
  const ConstTensor k = tensor(2, 2, 4), v = tensor(2, 2, 3);
  const auto write = [&](const ConstTensor& keys, const ConstTensor& values) {
    cache.write(0, id, keys, values);
  };
  EXPECT_REFUSED(cache.write(2, id, k, v), "layer is 2, must be 0 to 1");
  EXPECT_REFUSED(cache.write(0, other, k, v), "there is no sequence 1");
  EXPECT_REFUSED(write(tensor(2, 2, 5), v), "k has width 5, the cache has 4");
  EXPECT_REFUSED(write(k, tensor(2, 2, 4)), "v has width 4, the cache has 3");
  EXPECT_REFUSED(write(tensor(1, 2, 4), v), "k has heads 1, the cache has 2");
  EXPECT_REFUSED(write(k, tensor(2, 1, 3)), "v has length 1, k has 2");
  EXPECT_REFUSED(write(tensor(2, 3, 4), tensor(2, 3, 3)),
                 "layer 0 of sequence 0 has 2 tokens left");
  std::vector<double> doubles(64);
  EXPECT_REFUSED(write(ConstTensor(doubles.data(), {1, 2, 2, 4}), v),
                 "k is float64, must be float32, bfloat16 or float16");
  ConstTensor strided = k;
  strided.strides[3] = 2;
  EXPECT_REFUSED(write(strided, v), "k has stride 2 along its width");
  strided = k;
  strided.shape[0] = 2;
  EXPECT_REFUSED(write(strided, v), "k has batch 2, must have 1");
  strided = k;
  strided.data = nullptr;
  EXPECT_REFUSED(write(strided, v), "k has no data");
  EXPECT_REFUSED(cache.write(0, batch, tensor(2, 1, 4), v), "k has length 1, the batch has 2");
  EXPECT_REFUSED(cache.fork(id), "has tokens left to write");
  EXPECT_REFUSED(cache.evict(id, 1, 1), "has tokens left to write");
  EXPECT_REFUSED(cache.view(0, batch), "layer 0 of sequence 0 has 5 of 7 tokens written");
  cache.write(0, batch, k, v);
  EXPECT_NO_THROW(cache.view(0, batch));
  EXPECT_REFUSED(cache.view(1, batch), "layer 1 of sequence 0 has 5 of 7 tokens written");
  EXPECT_REFUSED(cache.view(-1, batch), "layer is -1");
  EXPECT_REFUSED(cache.write(0, batch, k, v), "has 2 queries in the batch, layer 0 has 0 tokens");
  EXPECT_REFUSED(batch.options({.query_start = 3}), "of their own");

  // The step is given up: everything is as before it.
  cache.truncate(id, 5);
  EXPECT_EQ(both.difference(), "");
  EXPECT_REFUSED(cache.view(0, batch), "the batch is not of this cache as it is now");
  KvCache twin({.layers = 2, .kv_heads = 2, .width = 4, .v_width = 3, .pages = 4});
  EXPECT_REFUSED(twin.view(0, cache.batch({})), "the batch is not of this cache");
  EXPECT_REFUSED(cache.rotate(Tensor(rows.data(), {1, 2, 0, 4}), cache.batch({})),
                 "rotation is not set");
}

// Every float16 and every tie between two of them, and the same for some bfloat16.
TEST(KvCache, RoundsToNearestTiesToEven) {
  const auto kept = [](DType dtype, std::vector<float> x) {
    KvCache cache({.width = 1, .dtype = dtype, .pages = 1, .page_tokens = 1 << 17});
    const SequenceId id = cache.create();
    const auto n = static_cast<std::int64_t>(x.size());
    cache.append(id, n);
    const ConstTensor rows(x.data(), {1, 1, n, 1});
    cache.write(0, id, rows, rows);
    const KvBatch batch = cache.batch({id});
    return gather(cache.view(0, batch), batch, 0, true);
  };
  for (const DType dtype : {DType::f16, DType::bf16}) {
    const bool half = dtype == DType::f16;
    const auto value = [&](std::uint32_t bits) {
      return half ? to_float(Float16{static_cast<std::uint16_t>(bits)})
                  : to_float(BFloat16{static_cast<std::uint16_t>(bits)});
    };
    std::vector<float> x, expected;
    for (std::uint32_t bits = 0; bits < (half ? 0x7bffu : 0x7f7fu); ++bits) {
      const float low = value(bits), high = value(bits + 1);
      const auto middle = static_cast<float>((double{low} + double{high}) / 2);
      const float above = std::nextafter(middle, high), below = std::nextafter(middle, low);
      for (const float sign : {1.0f, -1.0f}) {
        for (const float given : {low, middle, below, above}) x.push_back(sign * given);
        for (const float back : {low, bits % 2 == 0 ? low : high, low, high})
          expected.push_back(sign * back);
      }
      if (x.size() > 100000 || bits + 2 > (half ? 0x7bffu : 0x7f7fu)) {
        ASSERT_EQ(kept(dtype, x), expected) << name(dtype);
        x.clear();
        expected.clear();
      }
    }
    const float infinity = std::numeric_limits<float>::infinity();
    const float most = half ? 65520.0f : std::numeric_limits<float>::max();
    EXPECT_THAT(kept(dtype, {infinity, -infinity, most, -most}),
                ElementsAre(infinity, -infinity, infinity, -infinity));
    for (const float x_nan : kept(dtype, {std::nanf(""), -std::nanf("1")})) EXPECT_NE(x_nan, x_nan);
  }
}

// Tensors in 16-bit types are kept as they are, or widened.
TEST(KvCache, TakesSixteenBitTensors) {
  const std::vector<BFloat16> x = {to_bfloat16(1.5f), to_bfloat16(-3), to_bfloat16(0x1p-130f)};
  const std::vector<Float16> y = {to_float16(0.1f), to_float16(-2), to_float16(0x1p-24f)};
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    KvCache cache({.width = 3, .dtype = dtype, .pages = 1});
    const SequenceId id = cache.create();
    cache.append(id, 1);
    cache.write(0, id, ConstTensor(x.data(), {1, 1, 1, 3}), ConstTensor(y.data(), {1, 1, 1, 3}));
    const KvBatch batch = cache.batch({id});
    const KeyValue kv = cache.view(0, batch);
    std::vector<float> k = {1.5f, -3, 0x1p-130f}, v;
    for (Float16 e : y) v.push_back(to_float(e));
    as_kept(dtype, k);
    as_kept(dtype, v);
    EXPECT_EQ(gather(kv, batch, 0, false), k) << name(dtype);
    EXPECT_EQ(gather(kv, batch, 0, true), v) << name(dtype);
  }
}

TEST(KvCache, Int8OfRowsThatAreNotNumbers) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> x = {1, std::nanf(""), -infinity, 2, 0x1p-140f, -0x1p-149f, 127, 0.5f};
  KvCache cache({.width = 2, .dtype = DType::i8, .pages = 1});
  const SequenceId id = cache.create();
  cache.append(id, 4);
  const ConstTensor rows(x.data(), {1, 1, 4, 2});
  cache.write(0, id, rows, rows);
  const KvBatch batch = cache.batch({id});
  const std::vector<float> kept = gather(cache.view(0, batch), batch, 0, false);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_FALSE(std::isfinite(kept[i])) << i;
  EXPECT_EQ(kept[4], 0);
  EXPECT_EQ(kept[5], 0);
  EXPECT_EQ(kept[6], 127);
  EXPECT_EQ(kept[7], 0);  // a tie goes to the even side
}

TEST(KvCache, KeepsFloat64) {
  KvCache cache({.width = 2, .dtype = DType::f64, .pages = 1});
  const SequenceId id = cache.create();
  cache.append(id, 1);
  const std::vector<double> x = {0.1, 1e300};
  const ConstTensor rows(x.data(), {1, 1, 1, 2});
  cache.write(0, id, rows, rows);
  const KvBatch batch = cache.batch({id});
  const auto* kept = static_cast<const double*>(cache.view(0, batch).k.data);
  EXPECT_EQ(kept[0], 0.1);
  EXPECT_EQ(kept[1], 1e300);
}

TEST(KvCache, CountsItsBytes) {
  const KvCache cache({.layers = 3,
                       .kv_heads = 2,
                       .width = 8,
                       .v_width = 4,
                       .dtype = DType::i8,
                       .pages = 5,
                       .page_tokens = 16});
  EXPECT_EQ(cache.use().page_bytes, 3 * 2 * 16 * (8 + 4 + 4 + 4));
  EXPECT_EQ(cache.use().pool_bytes, 5 * cache.use().page_bytes);
  EXPECT_EQ(KvCache({.width = 8, .pages = 1}).use().page_bytes, 64 * 16 * 4);
}

}  // namespace
}  // namespace attn::test

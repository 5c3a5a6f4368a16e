// Keys and values as they are stored: bfloat16, float16, int8; in pages of a pool, packed as the
// kernel reads them, rotated when they are read. The kernel converts exactly, so that everything
// but int8 gives the bits of the same numbers in contiguous float32.
#include <gtest/gtest.h>

#include <cmath>

#include "attention/bound.h"
#include "attention/cases.h"
#include "kernels/forward.h"

namespace attn::test {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// One of k and v: its elements in some type, in rows or panels of a tensor or a pool, beside the
// same numbers as float32.
struct StoredTensor {
  std::vector<float> numbers;  // [B, Hkv, Lk, width]
  std::vector<std::byte> memory;
  std::vector<float> scales;
  Shape shape{};
  DType dtype = DType::f32;

  ConstTensor view() const { return {memory.data(), dtype, shape, strides_bhld(shape)}; }
  ConstTensor scale_view() const {
    if (scales.empty()) return {};
    return ConstTensor(scales.data(), {shape[0], shape[1], shape[2], 1});
  }
  void set(std::int64_t element, float x, float scale) {
    std::byte* to = memory.data() + at(element) * size_of(dtype);
    const auto put = [to](auto value) { std::memcpy(to, &value, sizeof value); };
    switch (dtype) {
      case DType::bf16: put(to_bfloat16(x)); break;
      case DType::f16: put(to_float16(x)); break;
      case DType::i8: put(static_cast<std::int8_t>(std::lround(x / scale))); break;
      default: put(x);
    }
  }
};

// The nearest number that the type holds.
float rounded(float x, DType dtype, float scale) {
  switch (dtype) {
    case DType::bf16: return to_float(to_bfloat16(x));
    case DType::f16: return to_float(to_float16(x));
    case DType::i8: return static_cast<float>(std::lround(x / scale)) * scale;
    default: return x;
  }
}

struct Storage {
  std::string label;
  DType dtype = DType::f32;
  std::int64_t page = 0;  // keys a page; 0: not paged
  bool packed = false;    // keys in panels
};

// Keys and values of a problem, stored; what is not written holds NaN, or int8 with a scale of NaN.
struct Stored {
  StoredTensor k, v;
  Pages pages;
  std::int64_t panel = 0;

  Stored(const Problem<float>& p, const Storage& how, std::int64_t kernel_panel) {
    const AttentionShape& s = p.shape;
    panel = how.packed ? kernel_panel : 0;
    // Rows of the pool: pages in reversed order, each behind a page of nothing.
    std::int64_t rows = s.k_len;
    std::int64_t page = how.page;
    if (how.page > 0) {
      if (how.packed) page = (page + panel - 1) / panel * panel;
      const std::int64_t count = (s.k_len + page - 1) / page;
      rows = 2 * page * count * s.batch;
      pages.run_begin = {0};
      for (std::int64_t b = 0; b < s.batch; ++b) {
        for (std::int64_t n = 0; n < count; ++n) {
          pages.runs.push_back({n * page, (2 * (b * count + count - n) - 1) * page});
        }
        pages.run_begin.push_back(static_cast<std::int64_t>(pages.runs.size()));
      }
    }
    fill(k, p.k, s, s.width, how.dtype, rows, page, panel);
    fill(v, p.v, s, s.v_width, how.dtype, rows, page, 0);
  }

  void fill(StoredTensor& t, const std::vector<float>& numbers, const AttentionShape& s,
            std::int64_t width, DType dtype, std::int64_t rows, std::int64_t page,
            std::int64_t panel_rows) const {
    t.dtype = dtype;
    t.shape = {page > 0 ? 1 : s.batch, s.kv_heads, rows, width};
    const std::int64_t elements = t.shape[0] * t.shape[1] * rows * width;
    t.memory.resize(at(elements) * size_of(dtype));
    for (std::int64_t i = 0; i < elements && dtype != DType::i8; ++i) t.set(i, NAN, 1);
    if (dtype == DType::i8) t.scales.assign(at(elements / width), NAN);
    t.numbers.resize(numbers.size());
    for (std::int64_t b = 0; b < s.batch; ++b) {
      for (std::int64_t h = 0; h < s.kv_heads; ++h) {
        for (std::int64_t j = 0; j < s.k_len; ++j) {
          std::int64_t row = (b * s.kv_heads + h) * rows + j;
          if (page > 0) {
            const PageRun& run = pages.runs[at(pages.run_begin[at(b)] + j / page)];
            row = h * rows + run.row + j % page;
          }
          const std::int64_t from = ((b * s.kv_heads + h) * s.k_len + j) * width;
          float largest = 1e-6f;
          for (std::int64_t d = 0; d < width; ++d) {
            largest = std::max(largest, std::abs(numbers[at(from + d)]));
          }
          const float scale = largest / 127;
          if (dtype == DType::i8) t.scales[at(row)] = scale;
          for (std::int64_t d = 0; d < width; ++d) {
            const float x = numbers[at(from + d)];
            const std::int64_t to = panel_rows == 0 ? row * width + d
                                                    : row / panel_rows * panel_rows * width +
                                                          d * panel_rows + row % panel_rows;
            t.set(to, x, scale);
            t.numbers[at(from + d)] = rounded(x, dtype, scale);
          }
        }
      }
    }
  }

  KeyValue view() const {
    return {.k = k.view(),
            .v = v.view(),
            .k_scale = k.scale_view(),
            .v_scale = v.scale_view(),
            .pages = pages.runs.empty() ? nullptr : &pages,
            .k_panel = panel};
  }
};

std::vector<Storage> storages() {
  std::vector<Storage> all;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::i8}) {
    for (const std::int64_t page : {0, 16, 48}) {
      for (const bool packed : {false, true}) {
        if (dtype == DType::f32 && page == 0 && !packed) continue;
        all.push_back({std::string(name(dtype)) + (page > 0 ? "_page" + std::to_string(page) : "") +
                           (packed ? "_packed" : ""),
                       dtype, page, packed});
      }
    }
  }
  return all;
}

void PrintTo(const Storage& s, std::ostream* out) { *out << s.label; }

std::vector<Case> shapes() {
  std::vector<Case> cases;
  const auto add = [&](std::string label, AttentionShape shape, AttentionOptions options = {}) {
    cases.push_back({std::move(label), shape, std::move(options)});
  };
  add("prefill", make_shape(2, 4, 2, 150, 150, 64), {.mask = Mask::causal()});
  add("decode", make_shape(3, 8, 2, 1, 301, 64, 40), {.mask = Mask::causal(), .query_start = 300});
  add("speculative", make_shape(1, 14, 2, 5, 1100, 33, 17),
      {.mask = Mask::causal(), .query_start = 1095});
  add("window", make_shape(1, 2, 2, 70, 270, 20, 128),
      {.mask = Mask::window(37, 0), .score = Score::alibi(), .query_start = 200});
  add("whole_panels", make_shape(2, 2, 1, 40, 192, 24));
  add("one_key", make_shape(1, 1, 1, 1, 1, 1));
  add("wide", make_shape(1, 2, 1, 9, 65, 257, 130), {.score = {.sinks = {0.5f, -1.0f}}});
  return cases;
}

// Outside a pool, panels must be full.
bool fits(const Case& c, const Storage& how, std::int64_t panel) {
  return !how.packed || how.page > 0 || c.shape.k_len % panel == 0;
}

class StoredKinds : public testing::TestWithParam<Storage> {};

TEST_P(StoredKinds, SameBitsAsTheirNumbers) {
  const Storage& how = GetParam();
  for (const Case& c : shapes()) {
    for (const Isa isa : supported_isas()) {
      if (!fits(c, how, kernels::forward_kernel(isa, DType::f32).panel)) continue;
      for (const int threads : {1, 3}) {
        const Context context({.threads = threads, .isa = isa});
        Problem<float> p(c.shape, 41);
        const Stored stored(p, how, kernels::forward_kernel(isa, DType::f32).panel);
        AttentionShape shape = p.shape;
        shape.kv_dtype = how.dtype;
        plan(shape, c.options, context).run(p.qt(), stored.view(), p.ot(), {.lse = p.lt()});
        // int8 in rows stands for int8; everything else for its numbers.
        Problem<float> plain = p;
        plain.clear();
        plain.k = stored.k.numbers;
        plain.v = stored.v.numbers;
        if (how.dtype != DType::i8) {
          plain.run(c.options, context);
        } else {
          const Stored rows(p, {.label = "", .dtype = DType::i8}, 0);
          plan(shape, c.options, context).run(p.qt(), rows.view(), plain.ot(), {.lse = plain.lt()});
        }
        EXPECT_TRUE(same_bits(p.out, plain.out)) << c.label << " " << name(isa) << " " << threads;
        EXPECT_TRUE(same_bits(p.lse, plain.lse)) << c.label << " " << name(isa) << " " << threads;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, StoredKinds, testing::ValuesIn(storages()),
                         [](const auto& kind) { return kind.param.label; });

TEST(StoredKeys, AgreeWithTheOracle) {
  for (const DType dtype : {DType::bf16, DType::f16, DType::i8}) {
    for (const Case& c : shapes()) {
      Problem<float> p(c.shape, 41), oracle = p;
      const Stored stored(p, {.label = "", .dtype = dtype}, 0);
      AttentionShape shape = p.shape;
      shape.kv_dtype = dtype;
      reference::attention(shape, p.qt(), stored.view(), oracle.ot(), c.options,
                           {.lse = oracle.lt()});
      const Bound bound(shape, p.q, stored.k.numbers, stored.v.numbers);
      for (const Isa isa : supported_isas()) {
        const std::string where = c.label + " " + name(dtype) + " " + name(isa);
        plan(shape, c.options, Context({.threads = 1, .isa = isa}))
            .run(p.qt(), stored.view(), p.ot(), {.lse = p.lt()});
        for (std::size_t i = 0; i < p.out.size(); ++i) {
          ASSERT_TRUE(std::abs(p.out[i] - oracle.out[i]) <= bound.out)
              << where << " element " << i << ": " << p.out[i] << ", oracle " << oracle.out[i]
              << ", bound " << bound.out;
        }
        for (std::size_t i = 0; i < p.lse.size(); ++i) {
          ASSERT_TRUE(std::abs(p.lse[i] - oracle.lse[i]) <= bound.lse(oracle.lse[i]))
              << where << " row " << i;
        }
      }
    }
  }
}

// Queries and outputs of 16 bits: the numbers of the queries, and the float32 output rounded once.
TEST(StoredQueries, ReadExactlyAndRoundOnce) {
  for (const Case& c : shapes()) {
    for (const Isa isa : supported_isas()) {
      const Context context({.threads = 2, .isa = isa});
      Problem<float> p(c.shape, 41);
      const auto check = [&](auto* to) {
        using Half = decltype(to(0.0f));
        std::vector<Half> q;
        for (float x : p.q) q.push_back(to(x));
        for (std::size_t i = 0; i < q.size(); ++i) p.q[i] = to_float(q[i]);
        p.run(c.options, context);
        std::vector<Half> out(p.out.size());
        std::vector<float> lse(p.lse.size());
        AttentionShape shape = p.shape;
        shape.dtype = dtype_of<Half>();
        shape.kv_dtype = DType::f32;
        const AttentionShape& s = shape;
        plan(shape, c.options, context)
            .run(p.view(q, s.q_heads, s.q_len, s.width), {.k = p.kt(), .v = p.vt()},
                 p.view(out, s.q_heads, s.q_len, s.v_width),
                 {.lse = p.view(lse, s.q_heads, s.q_len, 1)});
        EXPECT_TRUE(same_bits(lse, p.lse)) << c.label << " " << name(isa);
        for (std::size_t i = 0; i < out.size(); ++i) {
          ASSERT_EQ(out[i].bits, to(p.out[i]).bits) << c.label << " " << name(isa) << " " << i;
        }
      };
      check(&to_bfloat16);
      check(&to_float16);
    }
  }
}

// A rotation when keys are read is the rotation of the keys before.
TEST(StoredKeys, RotateWhenRead) {
  for (const bool interleaved : {false, true}) {
    for (const std::int64_t width : {64, 40}) {
      for (const Isa isa : supported_isas()) {
        const Context context({.threads = 2, .isa = isa});
        Problem<float> p(make_shape(2, 4, 2, 3, 130, 64), 41);
        std::vector<float> cosines, sines;
        for (std::int64_t i = 0; i < 130 * width / 2; ++i) {
          cosines.push_back(static_cast<float>(std::cos(0.1 * static_cast<double>(i))));
          sines.push_back(static_cast<float>(std::sin(0.1 * static_cast<double>(i))));
        }
        const KeyRotation rotation = {.cosines = cosines.data(),
                                      .sines = sines.data(),
                                      .width = width,
                                      .interleaved = interleaved};
        const KeyValue kv = {.k = p.kt(), .v = p.vt(), .rotation = &rotation};
        Problem<float> oracle = p;
        reference::attention(p.shape, p.qt(), kv, oracle.ot(), {}, {.lse = oracle.lt()});
        plan(p.shape, {}, context).run(p.qt(), kv, p.ot(), {.lse = p.lt()});
        const Bound bound(p.shape, p.q, p.k, p.v);
        for (std::size_t i = 0; i < p.out.size(); ++i) {
          ASSERT_NEAR(p.out[i], oracle.out[i], bound.out) << name(isa) << " " << i;
        }
      }
    }
  }
}

}  // namespace
}  // namespace attn::test

// The oracle on keys and values as they are stored, on ragged batches, and with dropout.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "attention/cases.h"
#include "attn/position.h"
#include "attn/reference.h"
#include "base/random.h"

namespace attn::test {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

const AttentionShape kShape = make_shape(2, 4, 2, 5, 8, 6, 4);
const AttentionOptions kOptions = {
    .mask = Mask::causal(), .score = Score::alibi(), .query_start = 2};

std::vector<double> run(const AttentionShape& shape, const ConstTensor& q, const KeyValue& kv,
                        const AttentionOptions& options = kOptions) {
  std::vector<double> out(at(shape.batch * shape.q_heads * shape.q_len * shape.v_width), 77);
  reference::attention(shape, q, kv,
                       Tensor(out.data(), {shape.batch, shape.q_heads, shape.q_len, shape.v_width}),
                       options);
  return out;
}

template <class X>
std::vector<X> converted(const std::vector<double>& x, X (*to)(float)) {
  std::vector<X> y;
  for (double e : x) y.push_back(to(static_cast<float>(e)));
  return y;
}
template <class X>
std::vector<double> widened(const std::vector<X>& x) {
  std::vector<double> y;
  for (X e : x) y.push_back(double{to_float(e)});
  return y;
}

TEST(Storage, SixteenBits) {
  Problem<double> p(kShape, 3);
  const auto expect_same = [&](auto* to) {
    auto q = converted(p.q, to), k = converted(p.k, to), v = converted(p.v, to);
    Problem<double> wide = p;
    wide.q = widened(q);
    wide.k = widened(k);
    wide.v = widened(v);
    wide.run_reference(kOptions);
    std::vector<float> out(wide.out.size());
    reference::attention(p.view(q, 4, 5, 6), p.view(k, 2, 8, 6), p.view(v, 2, 8, 4),
                         p.view(out, 4, 5, 4), kOptions);
    for (std::size_t i = 0; i < out.size(); ++i) {
      EXPECT_EQ(out[i], static_cast<float>(wide.out[i])) << i;
    }
    // Into its own type.
    auto narrow = q;
    narrow.resize(out.size());
    reference::attention(p.view(q, 4, 5, 6), p.view(k, 2, 8, 6), p.view(v, 2, 8, 4),
                         p.view(narrow, 4, 5, 4), kOptions);
    for (std::size_t i = 0; i < out.size(); ++i) EXPECT_EQ(narrow[i].bits, to(out[i]).bits) << i;
  };
  expect_same(&to_bfloat16);
  expect_same(&to_float16);
}

TEST(Storage, Int8) {
  Problem<double> p(kShape, 3);
  Random random(4);
  std::vector<std::int8_t> k(p.k.size()), v(p.v.size());
  std::vector<float> k_scale(2 * 2 * 8), v_scale(2 * 2 * 8);
  for (std::int8_t& x : k) x = static_cast<std::int8_t>(random.below(255) - 127);
  for (std::int8_t& x : v) x = static_cast<std::int8_t>(random.below(255) - 127);
  for (float& x : k_scale) x = static_cast<float>(0.02 * random.uniform());
  for (float& x : v_scale) x = static_cast<float>(0.02 * random.uniform());
  std::vector<float> q(p.q.begin(), p.q.end());
  Problem<double> wide = p;
  wide.q.assign(q.begin(), q.end());
  for (std::size_t i = 0; i < k.size(); ++i) wide.k[i] = k[i] * double{k_scale[i / 6]};
  for (std::size_t i = 0; i < v.size(); ++i) wide.v[i] = v[i] * double{v_scale[i / 4]};
  wide.run_reference(kOptions);
  AttentionShape shape = kShape;
  shape.kv_dtype = DType::i8;
  std::vector<float> out(wide.out.size());
  reference::attention(shape, p.view(q, 4, 5, 6),
                       {.k = p.view(k, 2, 8, 6),
                        .v = p.view(v, 2, 8, 4),
                        .k_scale = p.view(k_scale, 2, 8, 1),
                        .v_scale = p.view(v_scale, 2, 8, 1)},
                       p.view(out, 4, 5, 4), kOptions);
  for (std::size_t i = 0; i < out.size(); ++i) {
    EXPECT_EQ(out[i], static_cast<float>(wide.out[i])) << i;
  }
}

TEST(Storage, PagesPanelsAndRotation) {
  Problem<double> p(kShape, 3);
  p.run_reference(kOptions);
  // A pool of 40 rows, pages of 4 rows, in no order; the rest is poison.
  constexpr std::int64_t kRows = 40;
  const Pages pages = {.run_begin = {0, 2, 4}, .runs = {{0, 12}, {4, 33}, {0, 0}, {4, 4}}};
  std::vector<double> k(2 * kRows * 6, NAN), v(2 * kRows * 4, NAN), panels(k.size(), NAN);
  for (std::int64_t b = 0; b < 2; ++b) {
    for (std::int64_t h = 0; h < 2; ++h) {
      for (std::int64_t j = 0; j < 8; ++j) {
        const std::int64_t row = pages.runs[at(2 * b + j / 4)].row + j % 4, to = h * kRows + row;
        for (std::int64_t d = 0; d < 6; ++d) {
          const double x = p.k[at(((b * 2 + h) * 8 + j) * 6 + d)];
          k[at(to * 6 + d)] = x;
          panels[at((h * kRows + row / 8 * 8) * 6 + d * 8 + row % 8)] = x;
        }
        for (std::int64_t d = 0; d < 4; ++d) {
          v[at(to * 4 + d)] = p.v[at(((b * 2 + h) * 8 + j) * 4 + d)];
        }
      }
    }
  }
  KeyValue kv = {.k = ConstTensor(k.data(), {1, 2, kRows, 6}),
                 .v = ConstTensor(v.data(), {1, 2, kRows, 4}),
                 .pages = &pages};
  EXPECT_EQ(run(p.shape, p.qt(), kv), p.out);
  kv.k.data = panels.data();
  kv.k_panel = 8;
  EXPECT_EQ(run(p.shape, p.qt(), kv), p.out);

  for (const RopeLayout layout : {RopeLayout::half, RopeLayout::interleaved}) {
    // Keys kept before rotation, rotated when they are read; 4 of 6 components rotate.
    const RopeTable table = rope_table({.layout = layout, .fraction = 0.7}, 6);
    std::vector<float> cosines, sines;
    for (std::int64_t j = 0; j < 8; ++j) {
      for (double f : table.frequency) {
        cosines.push_back(static_cast<float>(std::cos(static_cast<double>(j) * f)));
        sines.push_back(static_cast<float>(std::sin(static_cast<double>(j) * f)));
      }
    }
    const KeyRotation rotation = {.cosines = cosines.data(),
                                  .sines = sines.data(),
                                  .width = 4,
                                  .interleaved = layout == RopeLayout::interleaved};
    kv.rotation = &rotation;
    Problem<double> rotated = p;
    rope(rotated.kt(), {}, {.layout = layout, .fraction = 0.7});
    rotated.run_reference(kOptions);
    const std::vector<double> out = run(p.shape, p.qt(), kv);
    for (std::size_t i = 0; i < out.size(); ++i) EXPECT_NEAR(out[i], rotated.out[i], 1e-6) << i;
  }
}

TEST(Storage, RaggedIsSeparate) {
  Problem<double> p(make_shape(1, 4, 2, 9, 12, 6, 4), 3);
  const Ragged ragged = {
      .q_offsets = {0, 3, 3, 8, 9}, .k_offsets = {0, 5, 7, 7, 12}, .query_starts = {2, 0, 1, 4}};
  AttentionOptions options = kOptions;
  options.query_start = 0;
  options.ragged = ragged;
  options.dropout = {.p = 0.4, .seed = 1};
  p.run_reference(options);
  for (std::size_t n = 0; n < 4; ++n) {
    const std::int64_t q0 = ragged.q_offsets[n], ql = ragged.q_offsets[n + 1] - q0,
                       k0 = ragged.k_offsets[n], kl = ragged.k_offsets[n + 1] - k0;
    const auto cut = [](const Tensor& x, std::int64_t begin, std::int64_t length) {
      Tensor part = x;
      part.data = x.row<double>(0, 0, begin);
      part.shape[2] = length;
      return part;
    };
    AttentionOptions one = options;
    one.ragged = {};
    one.query_start = ragged.query_starts[n];
    one.dropout.streams = {static_cast<std::uint32_t>(n)};
    const std::vector<double> out =
        run(make_shape(1, 4, 2, ql, kl, 6, 4, DType::f64), cut(p.qt(), q0, ql),
            {.k = cut(p.kt(), k0, kl), .v = cut(p.vt(), k0, kl)}, one);
    for (std::int64_t h = 0; h < 4; ++h) {
      for (std::int64_t i = 0; i < ql * 4; ++i) {
        EXPECT_EQ(out[at(h * ql * 4 + i)], p.out[at((h * 9 + q0) * 4 + i)]) << n << " " << h;
      }
    }
  }
}

TEST(Dropout, DropsAndScalesByTheRule) {
  Problem<double> p(kShape, 3);
  AttentionOptions options = kOptions;
  std::vector<double> plain(2 * 4 * 5 * 8), dropped(plain.size());
  const Shape shape = {2, 4, 5, 8};
  reference::weights(p.qt(), p.kt(), options, Tensor(plain.data(), shape));
  p.run_reference(options);
  const std::vector<double> lse = p.lse;
  options.dropout = {.p = 0.3, .seed = 0x123456789abcdef, .offset = 3, .streams = {5, 0xffffffff}};
  reference::weights(p.qt(), p.kt(), options, Tensor(dropped.data(), shape));
  p.run_reference(options);
  EXPECT_EQ(p.lse, lse) << "before dropout";
  const DropoutRule rule(options.dropout);
  for (std::int64_t b = 0; b < 2; ++b) {
    const std::uint32_t stream = b == 0 ? 8 : 2;  // modulo 2^32
    for (std::int64_t h = 0; h < 4; ++h) {
      for (std::int64_t i = 0; i < 5; ++i) {
        std::vector<double> out(4);
        for (std::int64_t j = 0; j < 8; ++j) {
          const std::size_t pair = at(((b * 4 + h) * 5 + i) * 8 + j);
          const bool kept = rule.keeps(j, 2 + i, h, stream);  // queries from 2
          EXPECT_EQ(dropped[pair], kept ? plain[pair] * rule.scale() : 0);
          for (std::int64_t d = 0; d < 4; ++d) {
            out[at(d)] += dropped[pair] * p.v[at(((b * 2 + h / 2) * 8 + j) * 4 + d)];
          }
        }
        for (std::int64_t d = 0; d < 4; ++d) {
          EXPECT_NEAR(p.out[at(((b * 4 + h) * 5 + i) * 4 + d)], out[at(d)], 1e-14);
        }
      }
    }
  }
}

TEST(Dropout, SameMaskChunkedAndAlone) {
  Problem<double> p(kShape, 3);
  AttentionOptions options = kOptions;
  options.dropout = {.p = 0.5, .seed = 9};
  p.run_reference(options);
  // Queries 3 and 4 of entry 1.
  options.query_start += 3;
  options.dropout.streams = {1};
  const auto cut = [](const Tensor& x, std::int64_t begin, std::int64_t length) {
    Tensor part = x;
    part.data = x.row<double>(1, 0, begin);
    part.shape = {1, x.heads(), length, x.width()};
    return part;
  };
  const std::vector<double> out =
      run(make_shape(1, 4, 2, 2, 8, 6, 4, DType::f64), cut(p.qt(), 3, 2),
          {.k = cut(p.kt(), 0, 8), .v = cut(p.vt(), 0, 8)}, options);
  for (std::int64_t h = 0; h < 4; ++h) {
    for (std::int64_t i = 0; i < 8; ++i) {
      EXPECT_EQ(out[at(h * 8 + i)], p.out[at(((4 + h) * 5 + 3) * 4 + i)]);
    }
  }
}

}  // namespace
}  // namespace attn::test

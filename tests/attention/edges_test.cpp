// Edges: empty rows, guard bytes, misaligned memory, aliases, errors, plan reuse, merge, counted
// work, bounded memory.
#include <gtest/gtest.h>

#include "attention/cases.h"

namespace attn::test {
namespace {

TEST(EmptyRows, AreZeroAndMinusInfinity) {
  for (const Isa isa : supported_isas()) {
    Problem<float> p(make_shape(1, 2, 1, 30, 50, 20), 3);
    p.run({.mask = Mask::window(2, 0), .query_start = 40}, Context({.threads = 1, .isa = isa}));
    // Queries stand at 40...69, keys at 0...49: from 52 on nothing is in sight.
    for (std::int64_t h = 0; h < 2; ++h) {
      for (std::int64_t q = 12; q < 30; ++q) {
        EXPECT_EQ(*p.lt().row<float>(0, h, q), -INFINITY);
        for (int d = 0; d < 20; ++d) EXPECT_EQ(p.ot().row<float>(0, h, q)[d], 0.0f);
      }
      EXPECT_TRUE(std::isfinite(*p.lt().row<float>(0, h, 11)));
    }
    const Plan counted = plan(p.shape, {.mask = Mask::window(2, 0), .query_start = 40}, Context());
    EXPECT_EQ(counted.summary().empty_rows, 2 * 18);
    EXPECT_FALSE(counted.summary().sees_future);
  }
}

// One visible key: the output is its value, to the bit.
TEST(OneKey, IsItsValue) {
  for (const Isa isa : supported_isas()) {
    Problem<float> p(make_shape(1, 1, 1, 200, 200, 33), 3);
    p.run({.mask = Mask::window(0, 0)}, Context({.threads = 1, .isa = isa}));
    EXPECT_EQ(p.out, p.v) << name(isa);
  }
}

// Nothing outside the output rows is written, whatever the width and alignment.
TEST(Guards, OutputRowsOnly) {
  constexpr float kGuard = 123.5f;
  for (const Isa isa : supported_isas()) {
    for (std::int64_t d : {1, 5, 16, 17, 31, 40}) {
      for (std::int64_t shift : {1, 3}) {
        Problem<float> p(make_shape(1, 2, 2, 19, 23, d), 3), moved = p;
        p.run({}, Context({.threads = 1, .isa = isa}));
        const std::int64_t stride = d + 5;
        std::vector<float> memory(static_cast<std::size_t>(2 * 19 * stride + shift + 8), kGuard);
        const Tensor out(memory.data() + shift, DType::f32, Shape{1, 2, 19, d},
                         Strides{2 * 19 * stride, 19 * stride, stride, 1});
        // Misaligned inputs too.
        const auto misalign = [&](std::vector<float>& x) {
          x.insert(x.begin(), static_cast<std::size_t>(shift), kGuard);
        };
        misalign(moved.q);
        misalign(moved.k);
        misalign(moved.v);
        const auto at = [&](const Tensor& t) {
          return Tensor(static_cast<float*>(t.data) + shift, t.shape);
        };
        plan(p.shape, {}, Context({.threads = 1, .isa = isa}))
            .run(at(moved.qt()), at(moved.kt()), at(moved.vt()), out);
        for (std::int64_t h = 0; h < 2; ++h)
          for (std::int64_t l = 0; l < 19; ++l)
            for (std::int64_t j = 0; j < d; ++j) {
              ASSERT_EQ(out.row<float>(0, h, l)[j], p.ot().row<float>(0, h, l)[j]);
              out.row<float>(0, h, l)[j] = kGuard;
            }
        for (float x : memory) ASSERT_EQ(x, kGuard) << name(isa) << " width " << d;
      }
    }
  }
}

TEST(Aliases, ValuesMayBeKeys) {
  // Latent attention: one key head of 48 columns whose first 32 are the values.
  for (const Isa isa : supported_isas()) {
    Problem<float> p(make_shape(1, 4, 1, 20, 100, 48, 32), 3), copied = p;
    const Tensor k = p.kt();
    const Tensor v(k.data, DType::f32, Shape{1, 1, 100, 32}, k.strides);
    for (std::int64_t l = 0; l < 100; ++l)
      std::copy_n(copied.kt().row<float>(0, 0, l), 32, copied.vt().row<float>(0, 0, l));
    const Context context({.threads = 1, .isa = isa});
    plan(p.shape, {}, context).run(p.qt(), k, v, p.ot());
    copied.run({}, context);
    EXPECT_TRUE(same_bits(p.out, copied.out));
  }
}

// Blocks of rows are written while others are still read.
TEST(Aliases, OutputsMayNotLieInInputs) {
  Problem<float> p(make_shape(1, 2, 2, 30, 30, 16), 3);
  const Plan made = plan(p.shape, {}, Context({.threads = 1}));
  const auto message = [](const auto& run) {
    try {
      run();
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  for (const char* name : {"q", "k", "v"}) {
    const Tensor where = *name == 'q' ? p.qt() : *name == 'k' ? p.kt() : p.vt();
    EXPECT_EQ(message([&] { made.run(p.qt(), p.kt(), p.vt(), where); }),
              std::string("[attention] out lies in the memory of ") + name);
    EXPECT_EQ(message([&] {
                made.backward({p.qt(), p.kt(), p.vt()}, {.out = p.ot(), .lse = p.lt()},
                              {.out = p.ot()}, {.k = where});
              }),
              std::string("[backward] the gradient of k lies in the memory of ") + name);
  }
  // Views with gaps may share memory without sharing an element: one projection's q, k, v and out.
  std::vector<float> together(30 * 4 * 2 * 16, 0.5f);
  const auto part = [&](std::size_t n) {
    return Tensor(together.data() + n * 2 * 16, DType::f32, Shape{1, 2, 30, 16},
                  Strides{0, 16, 4 * 2 * 16, 1});
  };
  EXPECT_EQ(message([&] { made.run(part(0), part(1), part(2), part(3)); }), "nothing");
}

TEST(Plans, AreReusable) {
  Problem<float> p(make_shape(2, 4, 2, 100, 100, 16), 3), again = p;
  const Plan reused = plan(p.shape, {.mask = Mask::causal()}, Context({.threads = 2}));
  for (int round = 0; round < 3; ++round) {
    again.clear();
    reused.run(again.qt(), again.kt(), again.vt(), again.ot());
  }
  p.run({.mask = Mask::causal()}, Context({.threads = 2}));
  EXPECT_EQ(p.out, again.out);
}

TEST(Plans, RefuseOtherShapes) {
  Problem<float> p(make_shape(1, 4, 2, 10, 10, 16), 3), other(make_shape(1, 4, 2, 10, 11, 16), 3);
  const Plan fitted = plan(p.shape, {}, Context());
  EXPECT_THROW(fitted.run(p.qt(), other.kt(), other.vt(), p.ot()), std::invalid_argument);
  Tensor narrow = p.ot();
  narrow.shape[3] = 15;
  EXPECT_THROW(fitted.run(p.qt(), p.kt(), p.vt(), narrow), std::invalid_argument);
  Problem<double> wide(p.shape, 3);
  EXPECT_THROW(fitted.run(wide.qt(), wide.kt(), wide.vt(), wide.ot()), std::invalid_argument);
}

// The message names the function, the argument and the values.
TEST(Errors, SayWhatAndHow) {
  Problem<float> p(make_shape(1, 4, 2, 10, 10, 16), 3);
  const auto message = [](const auto& f) -> std::string {
    try {
      f();
    } catch (const std::invalid_argument& e) {
      return e.what();
    }
    return "";
  };
  Tensor k = p.kt();
  k.shape[3] = 8;
  const std::string widths = message([&] { attention(p.qt(), k, p.vt(), p.ot()); });
  EXPECT_NE(widths.find("[attention]"), std::string::npos) << widths;
  EXPECT_NE(widths.find("8"), std::string::npos) << widths;
  EXPECT_NE(message([&] { plan(make_shape(1, 5, 2, 10, 10, 16), {}, Context()); }), "");
  EXPECT_NE(message([&] { plan(make_shape(1, 4, 2, 10, 10, 1025), {}, Context()); }), "");
  EXPECT_NE(message([&] { plan(p.shape, {.score = {.sinks = {1.0f}}}, Context()); }), "");
  EXPECT_NE(message([&] { plan(p.shape, {.score = {.soft_cap = -1}}, Context()); }), "");
  EXPECT_NE(message([&] {
              plan(p.shape, {.score = {.alibi_slopes = std::vector<float>{1.0f}}}, Context());
            }),
            "");
  EXPECT_NE(message([&] { plan(p.shape, {.q_positions = {1, 2}}, Context()); }), "");
  EXPECT_NE(message([&] { plan(p.shape, {.mask = Mask::per_head({Mask::full()})}, Context()); }),
            "");
  EXPECT_NE(message([] { Context({.threads = -1}); }), "");
  EXPECT_NE(message([&] { plan(p.shape, {.score = {.soft_cap = 1e39}}, Context()); }), "");
  EXPECT_NE(message([&] { plan(p.shape, {.score = {.scale = 1e39}}, Context()); }), "");
  constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
  EXPECT_NE(message([] { plan(make_shape(1, 1, 1, 1, kHuge, 64), {}, Context()); }), "");
  EXPECT_NE(message([] { plan(make_shape(kHuge, 2, 2, 4, 4, 64), {}, Context()); }), "");
  EXPECT_NE(
      message([] { plan(make_shape(100000, 100000, 1, 1000000, 1000000, 64), {}, Context()); }),
      "");
  EXPECT_EQ(message([] { plan(make_shape(1, 1, 1, 1, 1 << 24, 64), {}, Context()); }), "");
}

// What a custom score throws reaches the caller, from any thread.
TEST(Errors, OfACustomScorePassThrough) {
  Problem<float> p(make_shape(4, 4, 2, 600, 100, 16), 3);
  AttentionOptions options;
  options.score.custom = [](const ScoreTile& t) {
    if (t.batch == 2) throw std::runtime_error("mine");
  };
  for (int threads : {1, 4}) {
    EXPECT_THROW(p.run(options, Context({.threads = threads})), std::runtime_error);
  }
}

template <class T>
void check_merge(double tolerance) {
  Problem<T> whole(make_shape(2, 4, 4, 30, 300, 20), 3), a = whole, b = whole, joined = whole;
  const std::vector<float> sinks{0.1f, 2.0f, -1.0f, 0.0f};
  const auto part = [](Problem<T>& p, std::int64_t begin, std::int64_t end) {
    std::vector<std::uint8_t> visible(300, 0);
    std::fill(visible.begin() + begin, visible.begin() + end, 1);
    p.run({.mask = Mask::dense(visible.data(), {1, 1, 1, 300})}, Context({.threads = 1}));
  };
  part(whole, 0, 300);
  part(a, 0, 77);
  part(b, 77, 300);
  merge(a.ot(), a.lt(), b.ot(), b.lt(), joined.ot(), joined.lt());
  for (std::size_t i = 0; i < whole.out.size(); ++i)
    EXPECT_NEAR(joined.out[i], whole.out[i], tolerance);
  for (std::size_t i = 0; i < whole.lse.size(); ++i)
    EXPECT_NEAR(joined.lse[i], whole.lse[i], tolerance);

  // With sinks, and over itself.
  merge(a.ot(), a.lt(), b.ot(), b.lt(), a.ot(), a.lt(), sinks);
  whole.run({.score = {.sinks = sinks}}, Context({.threads = 1}));
  for (std::size_t i = 0; i < whole.out.size(); ++i) EXPECT_NEAR(a.out[i], whole.out[i], tolerance);

  // An empty part changes nothing, two empty parts are empty.
  Problem<T> nothing = whole;
  part(nothing, 0, 0);
  part(whole, 0, 300);
  merge(whole.ot(), whole.lt(), nothing.ot(), nothing.lt(), joined.ot(), joined.lt());
  EXPECT_EQ(joined.out, whole.out);
  merge(nothing.ot(), nothing.lt(), nothing.ot(), nothing.lt(), joined.ot(), joined.lt());
  for (T x : joined.out) EXPECT_EQ(x, T(0));
  for (T x : joined.lse) EXPECT_EQ(x, -std::numeric_limits<T>::infinity());
}

TEST(Merge, PartsGiveTheWhole) {
  check_merge<float>(2e-6);
  check_merge<double>(1e-14);
}

TEST(Merge, RefusesWhatDoesNotFit) {
  Problem<float> a(make_shape(1, 2, 2, 5, 5, 8), 1), b(make_shape(1, 2, 2, 6, 5, 8), 1);
  EXPECT_THROW(merge(a.ot(), a.lt(), b.ot(), b.lt(), a.ot(), a.lt()), std::invalid_argument);
  EXPECT_THROW(merge(a.ot(), a.lt(), a.ot(), a.lt(), a.ot(), a.lt(), {1.0f}),
               std::invalid_argument);
}

TEST(Merge, RefusesStridedRowsAndNothing) {
  Problem<float> a(make_shape(1, 2, 2, 5, 5, 8), 1);
  Tensor strided = a.ot(), missing = a.ot();
  strided.strides[3] = 2;
  missing.data = nullptr;
  EXPECT_THROW(merge(strided, a.lt(), a.ot(), a.lt(), a.ot(), a.lt()), std::invalid_argument);
  EXPECT_THROW(merge(a.ot(), a.lt(), missing, a.lt(), a.ot(), a.lt()), std::invalid_argument);
}

// A context that is running refuses a second run, and works again afterwards.
TEST(Contexts, RunOneThingAtATime) {
  const Context context({.threads = 1}), other({.threads = 1});
  Problem<float> p(make_shape(1, 1, 1, 70, 600, 16), 3), inner(make_shape(1, 1, 1, 40, 40, 8), 4);
  const auto nested = [&](const Context& where) {
    return AttentionOptions{
        .mask = Mask::causal(),
        .score = {.custom =
                      [&](const ScoreTile&) { inner.run({.mask = Mask::window(3, 0)}, where); }},
        .query_start = 530};
  };
  EXPECT_THROW(p.run(nested(context), context), std::invalid_argument);
  Problem<float> plain = p;
  plain.run({.mask = Mask::causal(), .query_start = 530}, context);
  // Another context may run inside a custom score, which here changes nothing.
  p.run(nested(other), context);
  for (std::size_t i = 0; i < p.out.size(); ++i) ASSERT_NEAR(p.out[i], plain.out[i], 1e-5);
}

// ALiBi over distances that float32 does not hold: exact from 64-bit positions.
TEST(Alibi, FarPositions) {
  for (const Isa isa : supported_isas()) {
    for (const std::int64_t far : {std::int64_t{50000001}, std::int64_t{1} << 40}) {
      Problem<float> p(make_shape(1, 1, 1, 2, 40, 16), 3);
      AttentionOptions options{.score = {.alibi_slopes = std::vector<float>{0.5f}},
                               .q_positions = {0, far}};
      for (std::int64_t j = 0; j < 40; ++j) options.k_positions.push_back(far - 20 + j);
      Problem<double> oracle = in_double(p);
      oracle.run_reference(options);
      p.run(options, Context({.threads = 1, .isa = isa}));
      // The near row; the other one sees nothing but keys at a distance beyond any resolution.
      for (std::int64_t d = 0; d < 16; ++d) {
        EXPECT_NEAR(p.ot().row<float>(0, 0, 1)[d], oracle.ot().row<double>(0, 0, 1)[d], 1e-5)
            << name(isa);
      }
    }
  }
}

// The plan's own answers are the mask's, at positions below zero too.
TEST(Work, FutureIsSeenByPosition) {
  const AttentionShape shape = make_shape(1, 1, 1, 1, 2, 8);
  const Context context({.threads = 1});
  const AttentionOptions past{
      .mask = Mask::causal(), .q_positions = {-5}, .k_positions = {-12, -11}};
  EXPECT_FALSE(plan(shape, past, context).summary().sees_future);
  const AttentionOptions future{.q_positions = {-5}, .k_positions = {-12, -4}};
  EXPECT_TRUE(plan(shape, future, context).summary().sees_future);
}

// A permutation of keys (and values) moves no more than rounding.
TEST(Permutations, OfKeysChangeNothing) {
  Problem<double> p(make_shape(1, 1, 1, 20, 150, 16), 3), permuted = p;
  for (std::int64_t j = 0; j < 150; ++j) {
    const std::int64_t from = (j * 37 + 11) % 150;
    std::copy_n(p.kt().row<double>(0, 0, from), 16, permuted.kt().row<double>(0, 0, j));
    std::copy_n(p.vt().row<double>(0, 0, from), 16, permuted.vt().row<double>(0, 0, j));
  }
  p.run({}, Context({.threads = 1}));
  permuted.run({}, Context({.threads = 1}));
  for (std::size_t i = 0; i < p.out.size(); ++i) EXPECT_NEAR(p.out[i], permuted.out[i], 1e-14);
}

// A permutation of queries moves rows, and no bit of them.
TEST(Permutations, OfQueriesMoveRows) {
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 2, .isa = isa});
    Problem<float> p(make_shape(1, 4, 2, 75, 300, 16), 3), permuted = p;
    AttentionOptions options{.mask = Mask::causal(), .score = Score::alibi()};
    options.q_positions.resize(75);
    AttentionOptions permuted_options = options;
    const auto from = [](std::int64_t i) { return (i * 37 + 11) % 75; };
    for (std::int64_t i = 0; i < 75; ++i) options.q_positions[static_cast<std::size_t>(i)] = 4 * i;
    for (std::int64_t i = 0; i < 75; ++i) {
      permuted_options.q_positions[static_cast<std::size_t>(i)] = 4 * from(i);
      for (std::int64_t h = 0; h < 4; ++h)
        std::copy_n(p.qt().row<float>(0, h, from(i)), 16, permuted.qt().row<float>(0, h, i));
    }
    p.run(options, context);
    permuted.run(permuted_options, context);
    for (std::int64_t h = 0; h < 4; ++h) {
      for (std::int64_t i = 0; i < 75; ++i) {
        for (std::int64_t d = 0; d < 16; ++d) {
          ASSERT_EQ(permuted.ot().row<float>(0, h, i)[d], p.ot().row<float>(0, h, from(i))[d])
              << name(isa) << " row " << i;
        }
      }
    }
  }
}

// Tiles counted: a window visits a band, causal half, full everything.
TEST(Work, IsProportionalToVisibleTiles) {
  const Context context({.threads = 1});
  const AttentionShape shape = make_shape(1, 1, 1, 8192, 8192, 64);
  const PlanSummary full = plan(shape, {}, context).summary();
  const PlanSummary causal = plan(shape, {.mask = Mask::causal()}, context).summary();
  const PlanSummary window =
      plan(shape, {.mask = Mask::causal() & Mask::window(255, 0)}, context).summary();
  const std::int64_t all = full.tiles_full;
  EXPECT_EQ(full.tiles_partial + full.tiles_skipped, 0);
  EXPECT_EQ(causal.tiles_full + causal.tiles_partial + causal.tiles_skipped, all);
  EXPECT_EQ(causal.visible_pairs, 8192LL * 8193 / 2);
  EXPECT_EQ(full.visible_pairs, 8192LL * 8192);
  // Half of the square and half of the blocks on the diagonal.
  const double diagonal = static_cast<double>(causal.row_block) / 8192;
  EXPECT_LE(causal.tiles_full + causal.tiles_partial, all * (0.5 + 0.5 * diagonal));
  // Each block of rows meets the tiles of its own span and of the 255 keys before it.
  const std::int64_t blocks = (8192 + window.row_block - 1) / window.row_block;
  EXPECT_LE(window.tiles_full + window.tiles_partial,
            blocks * ((window.row_block + 255) / window.key_tile + 2));
  EXPECT_EQ(window.visible_pairs, 255 * 256 / 2 + (8192 - 255) * 256LL);
  EXPECT_FALSE(causal.sees_future);
  EXPECT_TRUE(full.sees_future);
}

// Scratch does not grow with the length, once there are blocks enough for all threads.
TEST(Memory, WorkspaceIsBoundedAtAnyLength) {
  for (const Isa isa : supported_isas()) {
    for (std::int64_t width : {32, 64, 128, 256}) {
      const Context context({.threads = 3, .isa = isa});
      std::int64_t at_shortest = 0;
      for (std::int64_t length : {16384, 65536, 131072}) {
        const PlanSummary s =
            plan(make_shape(1, 1, 1, length, length, width), {}, context).summary();
        if (at_shortest == 0) at_shortest = s.workspace_bytes;
        EXPECT_EQ(s.workspace_bytes, at_shortest);
        EXPECT_LE(s.workspace_bytes, (16 << 20) + 3 * (2 << 20));
      }
    }
  }
}

TEST(Memory, NothingButWorkspaceIsHeld) {
  const Context context({.threads = 2});
  Problem<float> p(make_shape(1, 2, 2, 3000, 3000, 64), 3);
  p.run({}, context);
  EXPECT_LE(context.workspace_bytes(),
            static_cast<std::size_t>(plan(p.shape, {}, context).summary().workspace_bytes));
  EXPECT_GT(context.workspace_bytes(), 0u);
}

}  // namespace
}  // namespace attn::test

// The same bits for any thread count, in one shot, in pieces and token by token; sequences of a
// ragged batch as if each were alone; memory laid out in any way.
#include <gtest/gtest.h>

#include "recurrent/scan_problem.h"

namespace attn::test {
namespace {

constexpr std::int64_t kPieces[] = {1, 2, 5, 16, 17, 40};

template <class T>
std::vector<T> cut(const Made<T>& x, std::int64_t batch, std::int64_t begin, std::int64_t end) {
  const auto row = x.x.begin() + (batch * x.shape[2]) * x.shape[3];
  return {row + begin * x.shape[3], row + end * x.shape[3]};
}

TEST(SelectiveScan, BitsDoNotDependOnThreads) {
  for (const Isa isa : supported_isas()) {
    // Large enough that threads are started, and that channels are cut.
    const ScanProblem<float> p({2, 70, 300, 16, 2, true});
    const Context one({.threads = 1, .isa = isa});
    const auto expected = scan_of(p, &one);
    for (const int threads : {2, 3, 7}) {
      const Context many({.threads = threads, .isa = isa});
      const auto got = scan_of(p, &many);
      EXPECT_EQ(got.out.x, expected.out.x) << name(isa) << " " << threads;
      EXPECT_EQ(got.state.x, expected.state.x) << name(isa) << " " << threads;
      EXPECT_EQ(got.elapsed.x, expected.elapsed.x) << name(isa) << " " << threads;
    }
  }
}

TEST(SelectiveScan, PiecesAndStepsGiveTheSameBits) {
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 2, .isa = isa});
    for (const ScanCase& shape :
         {ScanCase{2, 41, 37, 16, 1, true}, ScanCase{1, 41, 12, 5, 3, false}}) {
      const ScanProblem<float> p(shape);
      const auto whole = scan_of(p, &context);
      for (const std::int64_t piece : kPieces) {
        Made<float> out(p.u.shape), state({shape.batch, 1, shape.states, shape.channels});
        Made<double> elapsed({shape.batch, 1, 1, shape.channels});
        state.x = p.state.there() ? p.state.x : state.x;
        for (std::int64_t t = 0; t < shape.length; t += piece) {
          const std::int64_t end = std::min(t + piece, shape.length);
          selective_scan(p.part(t, end, state.view()),
                         {out.part(t, end), state.view(), elapsed.view()}, p.options, context);
        }
        EXPECT_EQ(out.x, whole.out.x) << name(isa) << " " << piece;
        EXPECT_EQ(state.x, whole.state.x) << name(isa) << " " << piece;
        EXPECT_EQ(elapsed.x, whole.elapsed.x) << name(isa) << " " << piece;
      }
    }
  }
}

TEST(SelectiveScan, RaggedSequencesAreAlone) {
  const Context context({.threads = 2});
  ScanProblem<float> p({1, 40, 21, 6, 3, true});
  p.options.offsets = {0, 7, 7, 8, 29, 40};
  Numbers numbers(9);
  p.state = {{5, 1, 6, 21}, numbers, -1, 1};
  const auto all = scan_of(p, &context);
  for (std::int64_t s = 0; s < 5; ++s) {
    const auto n = static_cast<std::size_t>(s);
    const std::int64_t begin = p.options.offsets[n], end = p.options.offsets[n + 1];
    Made<float> out({1, 1, end - begin, 21}), from({1, 1, 6, 21}), state({1, 1, 6, 21});
    from.x = cut(p.state, s, 0, 6);
    selective_scan(p.part(begin, end, from.view()), {out.view(), state.view()}, {.softplus = true},
                   context);
    EXPECT_EQ(out.x, cut(all.out, 0, begin, end)) << s;
    EXPECT_EQ(state.x, cut(all.state, s, 0, 6)) << s;
  }
}

TEST(SelectiveScan, StridesAndNeighboursDoNotMatter) {
  const Context context({.threads = 1});
  const ScanProblem<float> p({2, 9, 13, 5, 1, true});
  const auto expected = scan_of(p, &context);
  // u and z side by side in rows of 30, b and c in rows of 16, out between guards.
  std::vector<float> uz(2 * 9 * 30, -7), bc(2 * 9 * 16, -7), out(2 * 9 * 20, -7);
  for (std::size_t row = 0; row < 18; ++row) {
    std::copy_n(&p.u.x[row * 13], 13, &uz[row * 30]);
    std::copy_n(&p.z.x[row * 13], 13, &uz[row * 30 + 15]);
    std::copy_n(&p.b.x[row * 5], 5, &bc[row * 16]);
    std::copy_n(&p.c.x[row * 5], 5, &bc[row * 16 + 6]);
  }
  const auto view = [](const float* data, std::int64_t width, std::int64_t stride) {
    return ConstTensor(data, {2, 1, 9, width}, {9 * stride, 0, stride, 1});
  };
  ScanInputs in = p.inputs();
  in.u = view(uz.data(), 13, 30);
  in.z = view(uz.data() + 15, 13, 30);
  in.b = view(bc.data(), 5, 16);
  in.c = view(bc.data() + 6, 5, 16);
  selective_scan(in, {Tensor(out.data() + 3, {2, 1, 9, 13}, {180, 0, 20, 1})}, p.options, context);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::size_t row = i / 20, column = i % 20;
    const bool inside = column >= 3 && column < 16;
    EXPECT_EQ(out[i], inside ? expected.out.x[row * 13 + column - 3] : -7.0f) << i;
  }
}

TEST(CausalConvolution, ThreadsPiecesAndRaggedSequencesGiveTheSameBits) {
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 1, .isa = isa}), many({.threads = 3, .isa = isa});
    for (const std::int64_t width : {2, 4, 7}) {
      ConvolutionProblem<float> p(1, 41, 2500, width, true);
      const auto whole = convolution_of(p, &context);
      const auto by_many = convolution_of(p, &many);
      EXPECT_EQ(by_many.out.x, whole.out.x);
      EXPECT_EQ(by_many.state.x, whole.state.x);
      for (const std::int64_t piece : kPieces) {
        Made<float> out(p.x.shape), state = p.state;
        for (std::int64_t t = 0; t < 41; t += piece) {
          const std::int64_t end = std::min<std::int64_t>(t + piece, 41);
          causal_convolution({p.x.part(t, end), p.weight.view(), p.bias.view(), state.view()},
                             {out.part(t, end), state.view()}, p.options, context);
        }
        EXPECT_EQ(out.x, whole.out.x) << name(isa) << " " << width << " " << piece;
        EXPECT_EQ(state.x, whole.state.x) << name(isa) << " " << width << " " << piece;
      }
      p.options.offsets = {0, 2, 2, 41};
      Numbers numbers(4);
      p.state = {{3, 1, width - 1, 2500}, numbers, -1, 1};
      const auto ragged = convolution_of(p, &context);
      Made<float> out({1, 1, 39, 2500}), state({1, 1, width - 1, 2500}), from = state;
      from.x = cut(p.state, 2, 0, width - 1);
      causal_convolution({p.x.part(2, 41), p.weight.view(), p.bias.view(), from.view()},
                         {out.view(), state.view()}, {.silu = true}, context);
      EXPECT_EQ(out.x, cut(ragged.out, 0, 2, 41));
      EXPECT_EQ(state.x, cut(ragged.state, 2, 0, width - 1));
      EXPECT_EQ(cut(p.state, 1, 0, width - 1), cut(ragged.state, 1, 0, width - 1));
    }
  }
}

TEST(Wkv4, ThreadsPiecesAndRaggedSequencesGiveTheSameBits) {
  for (const Isa isa : supported_isas()) {
    const Context context({.threads = 1, .isa = isa}), many({.threads = 3, .isa = isa});
    Wkv4Problem<float> p(1, 41, 2500, true);
    const auto whole = wkv4_of(p, &context);
    const auto by_many = wkv4_of(p, &many);
    EXPECT_EQ(by_many.out.x, whole.out.x);
    EXPECT_EQ(by_many.state.x, whole.state.x);
    for (const std::int64_t piece : kPieces) {
      Made<float> out(p.k.shape), state = p.state;
      for (std::int64_t t = 0; t < 41; t += piece) {
        const std::int64_t end = std::min<std::int64_t>(t + piece, 41);
        wkv4({p.k.part(t, end), p.v.part(t, end), p.decay.view(), p.bonus.view(), state.view()},
             {out.part(t, end), state.view()}, {}, context);
      }
      EXPECT_EQ(out.x, whole.out.x) << name(isa) << " " << piece;
      EXPECT_EQ(state.x, whole.state.x) << name(isa) << " " << piece;
    }
    p.options.offsets = {0, 5, 41};
    p.state = {};
    const auto ragged = wkv4_of(p, &context);
    Made<float> out({1, 1, 36, 2500}), state({1, 1, 3, 2500});
    wkv4({p.k.part(5, 41), p.v.part(5, 41), p.decay.view(), p.bonus.view()},
         {out.view(), state.view()}, {}, context);
    EXPECT_EQ(out.x, cut(ragged.out, 0, 5, 41));
    EXPECT_EQ(state.x, cut(ragged.state, 1, 0, 3));
  }
}

}  // namespace
}  // namespace attn::test

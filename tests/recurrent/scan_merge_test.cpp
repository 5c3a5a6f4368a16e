// Parts that ran apart give the state of the whole; states are plain tensors that can be copied.
#include <gtest/gtest.h>

#include <cmath>

#include "recurrent/scan_problem.h"

namespace attn::test {
namespace {

constexpr std::int64_t kLength = 37, kCuts[] = {0, 1, 2, 20, 36, 37};

template <class T>
void expect_near(const Made<T>& got, const Made<T>& expected, double bound) {
  ASSERT_EQ(got.x.size(), expected.x.size());
  for (std::size_t i = 0; i < got.x.size(); ++i) EXPECT_NEAR(got.x[i], expected.x[i], bound) << i;
}

TEST(MergeStates, OfTheScan) {
  const Context context({.threads = 1});
  const ScanProblem<double> p({2, kLength, 5, 7, 1, true});
  const auto whole = scan_of(p, &context);
  for (const std::int64_t cut : kCuts) {
    Made<double> out(p.u.shape), a({2, 1, 7, 5}), b = a, merged = a, elapsed_a({2, 1, 1, 5}),
                                                  elapsed_b = elapsed_a;
    selective_scan(p.part(0, cut, p.state.view()), {out.part(0, cut), a.view(), elapsed_a.view()},
                   p.options, context);
    selective_scan(p.part(cut, kLength, {}), {out.part(cut, kLength), b.view(), elapsed_b.view()},
                   p.options, context);
    merge_scan_states(a.view(), b.view(), p.a.view(), elapsed_b.view(), merged.view());
    expect_near(merged, whole.state, 1e-14);
    for (std::size_t i = 0; i < elapsed_a.x.size(); ++i)
      EXPECT_NEAR(elapsed_a.x[i] + elapsed_b.x[i], whole.elapsed.x[i], 1e-13);
    // Outputs of B: once more, from A's state.
    selective_scan(p.part(cut, kLength, a.view()), {out.part(cut, kLength)}, p.options, context);
    EXPECT_EQ(out.x, whole.out.x) << cut;
    // In place.
    merge_scan_states(a.view(), b.view(), p.a.view(), elapsed_b.view(), a.view());
    EXPECT_EQ(a.x, merged.x);
  }
}

TEST(MergeStates, OfTheConvolution) {
  const Context context({.threads = 1});
  const ConvolutionProblem<float> p(2, kLength, 5, 4, true);
  const auto whole = convolution_of(p, &context);
  for (const std::int64_t cut : kCuts) {
    Made<float> out(p.x.shape), a({2, 1, 3, 5}), b = a;
    causal_convolution({p.x.part(0, cut), p.weight.view(), p.bias.view(), p.state.view()},
                       {out.part(0, cut), a.view()}, p.options, context);
    causal_convolution({p.x.part(cut, kLength), p.weight.view(), p.bias.view()},
                       {out.part(cut, kLength), b.view()}, p.options, context);
    merge_convolution_states(a.view(), b.view(), {kLength - cut, kLength - cut}, a.view());
    EXPECT_EQ(a.x, whole.state.x) << cut;
  }
}

TEST(MergeStates, OfWkv4) {
  const Context context({.threads = 1});
  const Wkv4Problem<double> p(2, kLength, 5, true);
  const auto whole = wkv4_of(p, &context);
  for (const std::int64_t cut : kCuts) {
    Made<double> out(p.k.shape), a({2, 1, 3, 5}), b = a, merged = a;
    const auto part = [&](std::int64_t begin, std::int64_t end, ConstTensor from) {
      return Wkv4Inputs{p.k.part(begin, end), p.v.part(begin, end), p.decay.view(), p.bonus.view(),
                        from};
    };
    wkv4(part(0, cut, p.state.view()), {out.part(0, cut), a.view()}, {}, context);
    wkv4(part(cut, kLength, {}), {out.part(cut, kLength), b.view()}, {}, context);
    merge_wkv4_states(a.view(), b.view(), p.decay.view(), {kLength - cut, kLength - cut},
                      merged.view());
    expect_near(merged, whole.state, 1e-12);
    wkv4(part(cut, kLength, a.view()), {out.part(cut, kLength)}, {}, context);
    EXPECT_EQ(out.x, whole.out.x) << cut;
  }
}

TEST(MergeStates, RefuseWhatDoesNotFit) {
  Made<float> a({1, 1, 3, 5}), b({1, 1, 3, 4}), w({1, 1, 1, 5});
  EXPECT_THROW(merge_wkv4_states(a.view(), b.view(), w.view(), {1}, a.view()),
               std::invalid_argument);
  EXPECT_THROW(merge_wkv4_states(a.view(), a.view(), w.view(), {}, a.view()),
               std::invalid_argument);
  EXPECT_THROW(merge_convolution_states(a.view(), a.view(), {-1}, a.view()), std::invalid_argument);
}

}  // namespace
}  // namespace attn::test

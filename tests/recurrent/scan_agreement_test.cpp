// Recurrences over single channels against the oracle, for every instruction set.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "recurrent/scan_problem.h"

namespace attn::test {
namespace {

// A sum of terms of size `magnitude` altogether, each of which was rounded a few times a token
// (an exponential of 2.5 epsilon, products, sums of the states).
template <class T>
double bound(double magnitude, std::int64_t tokens, std::int64_t terms) {
  const double epsilon = std::numeric_limits<T>::epsilon() / 2;
  return epsilon * static_cast<double>(16 * tokens + terms + 64) * magnitude;
}

template <class T>
void expect_within(const Made<T>& got, const Made<double>& expected, const Made<double>& magnitude,
                   std::int64_t tokens, std::int64_t terms, const std::string& label) {
  ASSERT_EQ(got.x.size(), expected.x.size()) << label;
  for (std::size_t i = 0; i < got.x.size(); ++i) {
    const double error = std::abs(static_cast<double>(got.x[i]) - expected.x[i]);
    ASSERT_TRUE(error <= bound<T>(std::abs(magnitude.x[i]) + 1e-30, tokens, terms))
        << label << " " << i << ": " << got.x[i] << ", not " << expected.x[i];
  }
}

template <class T>
Made<double> doubles(const Made<T>& from) {
  Made<double> to;
  to.shape = from.shape;
  to.x.assign(from.x.begin(), from.x.end());
  return to;
}
Made<double> absolute(Made<double> x) {
  for (double& number : x.x) number = std::abs(number);
  return x;
}

template <class T>
ScanProblem<double> exact(const ScanProblem<T>& p) {
  ScanProblem<double> e(p.shape);
  e.u = doubles(p.u), e.delta = doubles(p.delta), e.a = doubles(p.a), e.b = doubles(p.b);
  e.c = doubles(p.c), e.d = doubles(p.d), e.z = doubles(p.z), e.bias = doubles(p.bias);
  e.state = doubles(p.state);
  e.options = p.options;
  return e;
}

template <class T>
void check_scan_cases(Isa isa) {
  for (const ScanCase& shape : scan_cases()) {
    const Context context({.threads = 2, .isa = isa});
    const ScanProblem<T> p(shape);
    const ScanProblem<double> e = exact(p);
    ScanProblem<double> size = e;  // the same without cancellation
    size.u = absolute(e.u), size.b = absolute(e.b), size.c = absolute(e.c);
    size.d = absolute(e.d), size.state = absolute(e.state);
    const auto got = scan_of(p, &context);
    const auto expected = scan_of(e, nullptr), magnitude = scan_of(size, nullptr);
    const std::string label = std::string(name(isa)) + ", " + shape.name();
    expect_within(got.out, expected.out, magnitude.out, shape.length, shape.states, label);
    expect_within(got.state, expected.state, magnitude.state, shape.length, 0, label + ", state");
    for (std::size_t i = 0; i < got.elapsed.x.size(); ++i)
      EXPECT_NEAR(got.elapsed.x[i], expected.elapsed.x[i],
                  bound<T>(expected.elapsed.x[i], 1, 0) + 1e-30)
          << label;
  }
}

TEST(SelectiveScan, AgreesWithTheOracle) {
  for (const Isa isa : supported_isas()) {
    check_scan_cases<float>(isa);
    check_scan_cases<double>(isa);
  }
}

template <class T>
void check_convolution_cases(Isa isa) {
  for (const std::int64_t length : {0, 1, 2, 3, 17, 61}) {
    for (const std::int64_t channels : {1, 16, 37}) {
      for (const std::int64_t width : {2, 4, 5, 8}) {
        for (const bool optional : {false, true}) {
          const Context context({.threads = 2, .isa = isa});
          const ConvolutionProblem<T> p(2, length, channels, width, optional);
          ConvolutionProblem<double> e(2, length, channels, width, optional);
          e.x = doubles(p.x), e.weight = doubles(p.weight), e.bias = doubles(p.bias);
          e.state = doubles(p.state);
          const auto got = convolution_of(p, &context);
          const auto expected = convolution_of(e, nullptr);
          const std::string label = std::string(name(isa)) + ", " + std::to_string(length) + " x " +
                                    std::to_string(channels) + ", " + std::to_string(width);
          for (std::size_t i = 0; i < got.out.x.size(); ++i) {
            // All inputs are below 1; the slope of silu is below 1.1.
            EXPECT_NEAR(got.out.x[i], expected.out.x[i],
                        bound<T>(static_cast<double>(width) + 1, 0, width))
                << label;
          }
          for (std::size_t i = 0; i < got.state.x.size(); ++i)
            EXPECT_EQ(got.state.x[i], static_cast<T>(expected.state.x[i])) << label;
        }
      }
    }
  }
}

TEST(CausalConvolution, AgreesWithTheOracle) {
  for (const Isa isa : supported_isas()) {
    check_convolution_cases<float>(isa);
    check_convolution_cases<double>(isa);
  }
}

template <class T>
void check_wkv4_cases(Isa isa) {
  for (const std::int64_t length : {0, 1, 2, 17, 67}) {
    for (const std::int64_t channels : {1, 16, 37}) {
      for (const bool with_state : {false, true}) {
        const Context context({.threads = 2, .isa = isa});
        const Wkv4Problem<T> p(2, length, channels, with_state);
        Wkv4Problem<double> e(2, length, channels, with_state);
        e.k = doubles(p.k), e.v = doubles(p.v), e.decay = doubles(p.decay);
        e.bonus = doubles(p.bonus), e.state = doubles(p.state);
        const auto got = wkv4_of(p, &context);
        const auto expected = wkv4_of(e, nullptr);
        const std::string label = std::string(name(isa)) + ", " + std::to_string(length) + " x " +
                                  std::to_string(channels);
        // Exponents up to 3 + 2 L are rounded, and so are sums of weights of at most 1.
        const double largest = bound<T>(4, length, length);
        for (std::size_t i = 0; i < got.out.x.size(); ++i)
          EXPECT_NEAR(got.out.x[i], expected.out.x[i], largest) << label;
        for (std::int64_t b = 0; b < 2; ++b) {
          for (std::int64_t i = 0; i < channels; ++i) {
            const auto at = [&](const auto& made, std::int64_t row) {
              return static_cast<double>(
                  made.x[static_cast<std::size_t>((b * 3 + row) * channels + i)]);
            };
            // The same sums, whatever the exponent that they are kept with.
            const double o = at(expected.state, 2), factor = std::exp(at(got.state, 2) - o);
            if (length == 0 && !with_state) {
              EXPECT_EQ(at(got.state, 2), static_cast<double>(static_cast<T>(kWkv4Fresh)));
              continue;
            }
            EXPECT_NEAR(at(got.state, 2), o, largest * (1 + std::abs(o))) << label;
            for (const int row : {0, 1}) {
              EXPECT_NEAR(at(got.state, row) * factor, at(expected.state, row),
                          2 * largest * at(expected.state, 1))
                  << label;
            }
          }
        }
      }
    }
  }
}

TEST(Wkv4, AgreesWithTheOracle) {
  for (const Isa isa : supported_isas()) {
    check_wkv4_cases<float>(isa);
    check_wkv4_cases<double>(isa);
  }
}

// The scan as attention: weight of token j on token i, through the decays between them.
TEST(SelectiveScan, IsASumOverTokensBefore) {
  const ScanProblem<double> p({1, 23, 3, 4, 1, false});
  const auto got = scan_of(p, nullptr);
  const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
  for (std::int64_t i = 0; i < 23; ++i) {
    for (std::int64_t ch = 0; ch < 3; ++ch) {
      double y = 0, elapsed = 0;
      for (std::int64_t j = i; j >= 0; --j) {
        const double step = p.delta.x[at(j * 3 + ch)];
        for (std::int64_t n = 0; n < 4; ++n) {
          y += p.c.x[at(i * 4 + n)] * std::exp(elapsed * p.a.x[at(n * 3 + ch)]) * step *
               p.b.x[at(j * 4 + n)] * p.u.x[at(j * 3 + ch)];
        }
        elapsed += step;
      }
      EXPECT_NEAR(got.out.x[at(i * 3 + ch)], y, 1e-13);
    }
  }
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::invalid_argument& e) {
    return e.what();
  }
  return "nothing was thrown";
}

TEST(SelectiveScan, RefusesWhatDoesNotFit) {
  const ScanCase shape{2, 5, 6, 4, 2, true};
  ScanProblem<float> p(shape);
  Made<float> out(p.u.shape), short_out({2, 1, 4, 6});
  const auto with = [&](const ScanInputs& inputs, const ScanOutputs& outputs,
                        const ScanOptions& options = {}) {
    return message_of([&] { selective_scan(inputs, outputs, options); });
  };
  ScanInputs in = p.inputs();
  in.b = p.a.view();
  EXPECT_EQ(with(in, {out.view()}),
            "[selective_scan] b has shape [1, 1, 4, 6], must be [2, 1, 5, 4]");
  EXPECT_EQ(with(p.inputs(), {short_out.view()}),
            "[selective_scan] out has shape [2, 1, 4, 6], must be [2, 1, 5, 6]");
  EXPECT_EQ(with(p.inputs(), {}), "[selective_scan] out has no data");
  EXPECT_EQ(with(p.inputs(), {p.u.view()}), "[selective_scan] out lies in the memory of u");
  EXPECT_EQ(with(p.inputs(), {out.view()}, {.offsets = {0, 5}}),
            "[selective_scan] offsets need a batch of 1, which is 2 here");
  in = p.inputs();
  in.a = ConstTensor();
  EXPECT_EQ(with(in, {out.view()}), "[selective_scan] a has 0 states, must have at least 1");
  Made<float> b({2, 4, 5, 4});
  in = p.inputs();
  in.b = b.view();
  EXPECT_EQ(with(in, {out.view()}),
            "[selective_scan] b has 4 groups, which do not divide 6 channels");
  ScanProblem<double> wide(shape);
  in = p.inputs();
  in.delta = wide.delta.view();
  EXPECT_EQ(with(in, {out.view()}), "[selective_scan] delta is float64, must be float32");
  ScanProblem<float> one({1, 5, 6, 4, 2, false});
  Made<float> one_out(one.u.shape);
  EXPECT_EQ(with(one.inputs(), {one_out.view()}, {.offsets = {0, 4, 3, 5}}),
            "[selective_scan] offsets descend from 4 to 3");
  EXPECT_EQ(with(one.inputs(), {one_out.view()}, {.offsets = {0, 4}}),
            "[selective_scan] offsets go from 0 to 4, must go from 0 to the length 5");
}

TEST(CausalConvolution, RefusesWidthsThatItDoesNotTake) {
  const ConvolutionProblem<float> p(1, 5, 6, 4, false);
  Made<float> out(p.x.shape), weight({1, 1, 9, 6});
  EXPECT_EQ(message_of([&] {
              causal_convolution({p.x.view(), weight.view()}, {out.view()});
            }),
            "[causal_convolution] weight has width 9, must be 2 to 8");
}

TEST(Wkv4, RefusesWhatDoesNotFit) {
  const Wkv4Problem<float> p(1, 5, 6, false);
  Made<float> out(p.k.shape);
  EXPECT_EQ(message_of([&] {
              wkv4({p.k.view(), p.v.part(0, 4), p.decay.view(), p.bonus.view()}, {out.view()});
            }),
            "[wkv4] v has shape [1, 1, 4, 6], must be [1, 1, 5, 6]");
}

}  // namespace
}  // namespace attn::test

#include <cmath>
#include <cstddef>
#include <string>

#include "attn/recurrent.h"
#include "base/checker.h"

namespace attn {

namespace {

void check_merge(const Checker& check, const ConstTensor& first, const ConstTensor& second,
                 const Tensor& state) {
  if (first.dtype != DType::f32 && first.dtype != DType::f64)
    check.fail("first is " + std::string(name(first.dtype)) + ", must be float32 or float64");
  check.view("first", first);
  check.view("second", second);
  check.dtype("second", second, first.dtype);
  check.shape("second", second, first.shape);
  if (state.empty() && first.size() > 0) check.fail("state has no data");
  check.output("state", state, first.shape, first.dtype);
}

template <class Each>
void for_rows(const Tensor& state, const Each& each) {
  for (std::int64_t b = 0; b < state.batch(); ++b) {
    for (std::int64_t h = 0; h < state.heads(); ++h) {
      for (std::int64_t r = 0; r < state.length(); ++r) each(b, h, r);
    }
  }
}

template <class T>
void merge_decayed(const ConstTensor& first, const ConstTensor& second, const ConstTensor& decay,
                   const Tensor& state) {
  for_rows(state, [&](std::int64_t b, std::int64_t h, std::int64_t r) {
    const std::int64_t index[] = {b, h, 0, r};
    std::int64_t offset = 0;
    for (std::size_t i = 0; i < 4; ++i)
      offset += decay.shape[i] == 1 ? 0 : index[i] * decay.strides[i];
    const T w = decay.empty() ? T(1) : std::exp(static_cast<const T*>(decay.data)[offset]);
    const T *one = first.row<T>(b, h, r), *two = second.row<T>(b, h, r);
    T* to = state.row<T>(b, h, r);
    for (std::int64_t c = 0; c < state.width(); ++c) to[c] = w * one[c] + two[c];
  });
}

template <class T>
void merge_transformed(const ConstTensor& first, const ConstTensor& second,
                       const ConstTensor& transition, const Tensor& state) {
  for_rows(state, [&](std::int64_t b, std::int64_t h, std::int64_t r) {
    const T *two = second.row<T>(b, h, r), *factors = transition.row<T>(b, h, r);
    T* to = state.row<T>(b, h, r);
    for (std::int64_t c = 0; c < state.width(); ++c) to[c] = two[c];
    for (std::int64_t i = 0; i < state.length(); ++i) {
      const T* one = first.row<T>(b, h, i);
      for (std::int64_t c = 0; c < state.width(); ++c) to[c] += factors[i] * one[c];
    }
  });
}

}  // namespace

void merge_states(const ConstTensor& first, const ConstTensor& second, const ConstTensor& log_decay,
                  const Tensor& state) {
  constexpr Checker kCheck("merge_states");
  check_merge(kCheck, first, second, state);
  if (!log_decay.empty()) {
    kCheck.view("log_decay", log_decay);
    kCheck.dtype("log_decay", log_decay, first.dtype);
    const Shape most{first.batch(), first.heads(), 1, first.length()};
    for (std::size_t i = 0; i < 4; ++i) {
      if (log_decay.shape[i] != most[i] && log_decay.shape[i] != 1)
        kCheck.fail("log_decay has shape " + to_string(log_decay.shape) + ", must be " +
                    to_string(most) + " with 1 in any dimension");
    }
  }
  if (first.dtype == DType::f64)
    merge_decayed<double>(first, second, log_decay, state);
  else
    merge_decayed<float>(first, second, log_decay, state);
}

void merge_delta_states(const ConstTensor& first, const ConstTensor& second,
                        const ConstTensor& transition, const Tensor& state) {
  constexpr Checker kCheck("merge_delta_states");
  check_merge(kCheck, first, second, state);
  kCheck.view("transition", transition);
  kCheck.dtype("transition", transition, first.dtype);
  kCheck.shape("transition", transition,
               {first.batch(), first.heads(), first.length(), first.length()});
  kCheck.apart("state", state, "first", first);
  kCheck.apart("state", state, "transition", transition);
  if (first.dtype == DType::f64)
    merge_transformed<double>(first, second, transition, state);
  else
    merge_transformed<float>(first, second, transition, state);
}

}  // namespace attn

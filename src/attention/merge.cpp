#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "attn/attention.h"

namespace attn {

namespace {

void require(bool condition, const std::string& what) {
  if (!condition) throw std::invalid_argument("[merge] " + what);
}

template <class T>
void merge_rows(const ConstTensor& out_a, const ConstTensor& lse_a, const ConstTensor& out_b,
                const ConstTensor& lse_b, const Tensor& out, const Tensor& lse,
                const std::vector<float>& sinks) {
  for (std::int64_t b = 0; b < out.batch(); ++b) {
    for (std::int64_t h = 0; h < out.heads(); ++h) {
      for (std::int64_t l = 0; l < out.length(); ++l) {
        const double la = *lse_a.row<T>(b, h, l), lb = *lse_b.row<T>(b, h, l);
        const double top = std::max(la, lb);
        const double reference = std::isinf(top) && top < 0 ? 0 : top;
        const double wa = std::exp(la - reference), wb = std::exp(lb - reference);
        const double sum = wa + wb;
        const double joined =
            sum == 0 ? -std::numeric_limits<double>::infinity() : top + std::log(sum);
        double scale = sum == 0 ? 0 : 1 / sum;
        if (!sinks.empty() && sum != 0) {
          scale /= 1 + std::exp(static_cast<double>(sinks[static_cast<std::size_t>(h)]) - joined);
        }
        const T* a = out_a.row<T>(b, h, l);
        const T* c = out_b.row<T>(b, h, l);
        T* to = out.row<T>(b, h, l);
        for (std::int64_t d = 0; d < out.width(); ++d) {
          to[d] = static_cast<T>((wa * static_cast<double>(a[d]) + wb * static_cast<double>(c[d])) *
                                 scale);
        }
        if (!lse.empty()) *lse.row<T>(b, h, l) = static_cast<T>(joined);
      }
    }
  }
}

}  // namespace

void merge(const ConstTensor& out_a, const ConstTensor& lse_a, const ConstTensor& out_b,
           const ConstTensor& lse_b, const Tensor& out, const Tensor& lse,
           const std::vector<float>& sinks) {
  require(out_a.shape == out_b.shape,
          "parts have shapes " + to_string(out_a.shape) + " and " + to_string(out_b.shape));
  require(out.shape == out_a.shape,
          "out has shape " + to_string(out.shape) + ", the parts " + to_string(out_a.shape));
  for (const ConstTensor& t : {out_a, lse_a, out_b, lse_b, ConstTensor(out)}) {
    require(std::all_of(t.shape.begin(), t.shape.end(), [](std::int64_t n) { return n >= 0; }),
            "a tensor has shape " + to_string(t.shape));
    require(!t.empty() || t.size() == 0, "a tensor has no data");
    require(t.width() <= 1 || t.strides[3] == 1,
            "a tensor has stride " + std::to_string(t.strides[3]) + " along its width, must be 1");
  }
  const Shape of_lse{out_a.shape[0], out_a.shape[1], out_a.shape[2], 1};
  for (const ConstTensor& t : {lse_a, lse_b}) {
    require(t.shape == of_lse,
            "log-sum-exp has shape " + to_string(t.shape) + ", needs " + to_string(of_lse));
  }
  require(lse.empty() || lse.shape == of_lse,
          "log-sum-exp has shape " + to_string(lse.shape) + ", needs " + to_string(of_lse));
  const DType type = out_a.dtype;
  for (const ConstTensor& t : {out_b, lse_a, lse_b, ConstTensor(out)}) {
    require(t.dtype == type, std::string("tensors are ") + name(type) + " and " + name(t.dtype));
  }
  require(lse.empty() || lse.dtype == type,
          std::string("tensors are ") + name(type) + " and " + name(lse.dtype));
  require(type == DType::f32 || type == DType::f64,
          std::string(name(type)) + " is not float32 or float64");
  require(sinks.empty() || static_cast<std::int64_t>(sinks.size()) == out.heads(),
          std::to_string(sinks.size()) + " sinks for " + std::to_string(out.heads()) + " heads");
  if (type == DType::f64)
    merge_rows<double>(out_a, lse_a, out_b, lse_b, out, lse, sinks);
  else
    merge_rows<float>(out_a, lse_a, out_b, lse_b, out, lse, sinks);
}

}  // namespace attn

// Keys of additive attention, prepared once.
#include "recurrent/additive_keys.h"

#include <algorithm>

#include "attention/parallel.h"
#include "base/checker.h"
#include "kernels/arena.h"

namespace attn {

namespace {

constexpr Checker kCheck("additive");

const ConstTensor& checked(const ConstTensor& k) {
  kCheck.view("k", k);
  if (k.dtype != DType::f32 && k.dtype != DType::f64) {
    kCheck.fail(std::string("k is ") + name(k.dtype) + ", must be float32 or float64");
  }
  if (k.width() < 1) kCheck.fail("k has width 0");
  return k;
}

}  // namespace

AdditiveKeys::Impl::Impl(const ConstTensor& keys, const Context& context)
    : k(checked(keys)),
      isa(context.isa()),
      kernel(kernels::additive_kernel(isa, k.dtype)),
      panels((k.length() + kernel.panel - 1) / kernel.panel),
      columns(kernels::round_up(k.width(), kernel.together)),
      exponentials(heads() * panels_bytes()),
      far(heads() * static_cast<std::size_t>(panels * kernel.panel) * size_of(k.dtype)),
      any_far(heads() * static_cast<std::size_t>(panels)) {
  constexpr double kAnExponential = 40;  // FLOPs
  parallel_units(threads_worth(context.threads(), kAnExponential * static_cast<double>(k.size())),
                 static_cast<std::int64_t>(heads()) * panels, [&](int, std::int64_t unit) {
                   const std::int64_t head = unit / panels, first = unit % panels * kernel.panel;
                   const auto element = static_cast<std::int64_t>(size_of(k.dtype));
                   const auto* row = static_cast<const char*>(k.data) +
                                     k.offset(head / k.heads(), head % k.heads(), first) * element;
                   any_far.data()[unit] = static_cast<char>(kernel.prepare(
                       {row, k.strides[2]}, std::min(kernel.panel, k.length() - first), k.width(),
                       exponentials.data() + unit * columns * kernel.panel * element,
                       far.data() + unit * kernel.panel * element));
                 });
}

kernels::AdditivePanels AdditiveKeys::Impl::panels_of(std::size_t head) const {
  const auto all = static_cast<std::size_t>(panels);
  return {exponentials.data() + head * panels_bytes(),
          far.data() + head * all * static_cast<std::size_t>(kernel.panel) * size_of(k.dtype),
          reinterpret_cast<const std::uint8_t*>(any_far.data()) + head * all};
}

AdditiveKeys::AdditiveKeys(const ConstTensor& k, const Context& context)
    : impl_(std::make_shared<Impl>(k, context)) {}

const ConstTensor& AdditiveKeys::k() const { return impl_->k; }

}  // namespace attn

#include "kernels/selective_scan.h"

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/selective_scan.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>

#include "kernels/arena.h"
#include "kernels/by_isa.h"
#include "kernels/scan_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// A stretch of tokens goes by in columns of one vector of channels, whose steps, inputs and sums
// stay in the first cache while states pass; the next column is fetched meanwhile.
template <class T>
class SelectiveScan {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  // States that stay in registers while tokens pass.
  static constexpr int kStates = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON ? 8 : 4;
  // Tokens of a stretch. Their rows are as many pages, which a small TLB has to hold.
  static constexpr std::int64_t kTokens = 16;
  // Of states and decays of a block, in the second cache.
  static constexpr std::int64_t kBytes = 256 << 10;

 public:
  static std::int64_t lanes() { return static_cast<std::int64_t>(hn::Lanes(D())); }
  // Rows are long pieces of memory, as far as scratch fits.
  static std::int64_t channels(std::int64_t states) {
    const std::int64_t fitting = kBytes / (2 * states * static_cast<std::int64_t>(sizeof(T)));
    return round_up(std::clamp<std::int64_t>(fitting, 64, 2048), lanes());
  }

  SelectiveScan(const ScanParams& params, const ChannelBlock& block, Arena arena)
      : p_(params),
        block_(block),
        rows_{block},
        width_(round_up(block.channels, lanes())),
        whole_(block.channels / lanes() * lanes()),
        one_token_(block.length == 1) {
    const std::int64_t numbers = one_token_ ? width_ : kTokens * lanes();
    step_ = arena.take<T>(numbers);
    input_ = arena.take<T>(numbers);
    out_ = arena.take<T>(numbers);
    if (!one_token_) {
      h_ = arena.take<T>(p_.states * width_);
      a_ = arena.take<T>(p_.states * width_);
    }
    bytes_ = arena.used();
  }
  std::size_t bytes() const { return bytes_; }

  void run() {
    if (one_token_) {
      run_token();
      return;
    }
    load_states();
    for (std::int64_t t = 0; t < block_.length; t += kTokens) {
      const Stretch stretch{t, std::min(kTokens, block_.length - t)};
      fetch_end_ = std::min(t + 2 * kTokens, block_.length);
      fetch_from(t + kTokens);
      for (std::int64_t v = 0; v < whole_; v += lanes()) run_column(stretch, v, lanes());
      if (whole_ < width_) run_column(stretch, whole_, block_.channels - whole_);
    }
    store_states();
  }

 private:
  struct Stretch {
    std::int64_t begin, count;
  };

  // Of b or c: of state n at token t.
  const T* mixed(const Matrix& m, std::int64_t t, std::int64_t n) const {
    return row_of<T>(m, block_.batch, block_.group, block_.begin + t, n);
  }

  // In scratch states of a column lie together.
  std::int64_t place(std::int64_t n, std::int64_t v) const { return v * p_.states + n * lanes(); }

  void load_states() {
    for (std::int64_t n = 0; n < p_.states; ++n) {
      for (std::int64_t v = 0; v < width_; v += lanes()) {
        hn::Store(load_row(d_, rows_.state(p_.state, n), v, block_.channels), d_, h_ + place(n, v));
        hn::Store(load_row(d_, rows_.parameter(p_.a, n), v, block_.channels), d_, a_ + place(n, v));
      }
    }
  }
  void store_states() {
    for (std::int64_t n = 0; n < p_.states && p_.state_out.data != nullptr; ++n) {
      T* to = rows_.state(p_.state_out, n);
      for (std::int64_t v = 0; v < block_.channels; v += lanes())
        store_some(d_, hn::Load(d_, h_ + place(n, v)), to + v, block_.channels - v);
    }
  }

  // The column at channel v, of which `there` lanes are channels.
  HWY_INLINE void run_column(const Stretch& stretch, std::int64_t v, std::int64_t there) {
    begin(stretch, v, there);
    const Gate gate(*this, stretch, v, there);
    std::int64_t n = 0;
    for (; n + kStates < p_.states; n += kStates) scan<kStates, false>(stretch, n, v, gate);
    if (n + kStates == p_.states) {
      scan<kStates, true>(stretch, n, v, gate);
      return;
    }
    for (; n + 1 < p_.states; ++n) scan<1, false>(stretch, n, v, gate);
    scan<1, true>(stretch, n, v, gate);
  }

  // Log2 steps and steps times u of a column.
  HWY_INLINE void begin(const Stretch& stretch, std::int64_t v, std::int64_t there) {
    const auto bias = load_row(d_, rows_.parameter(p_.delta_bias), v, v + there);
    const T *u = rows_.token(p_.u, stretch.begin) + v,
            *delta = rows_.token(p_.delta, stretch.begin) + v;
    const std::int64_t u_stride = p_.u.length, delta_stride = p_.delta.length;
    T *to_step = step_, *to_input = input_;
    double* elapsed = row_of<double>(p_.elapsed, block_.sequence, 0, 0, block_.channel);
    for (std::int64_t i = 0; i < stretch.count; ++i) {
      const auto step = put_step(hn::Add(load_some(d_, delta, there), bias),
                                 load_some(d_, u, there), to_step, to_input);
      if (elapsed != nullptr) add_elapsed(step, there, elapsed + v);
      u += u_stride;
      delta += delta_stride;
      to_step += lanes();
      to_input += lanes();
    }
  }

  // The step of time that delta makes.
  HWY_INLINE V put_step(V delta, V u, T* to_step, T* to_input) const {
    const auto step = p_.softplus ? softplus(d_, delta) : delta;
    hn::Store(hn::Mul(step, hn::Set(d_, static_cast<T>(1.4426950408889634074))), d_, to_step);
    hn::Store(hn::Mul(step, u), d_, to_input);
    return step;
  }

  HWY_NOINLINE void add_elapsed(V step, std::int64_t count, double* elapsed) const {
    HWY_ALIGN T steps[hn::MaxLanes(D())];
    hn::Store(step, d_, steps);
    for (std::int64_t i = 0; i < count; ++i) elapsed[i] += static_cast<double>(steps[i]);
  }

  // What a column's sums over states become, token by token.
  struct Gate {
    V skip;
    const T *u, *z;
    T* out;
    std::int64_t u_stride, z_stride, out_stride, there;

    HWY_INLINE Gate(const SelectiveScan& scan, const Stretch& stretch, std::int64_t v,
                    std::int64_t count)
        : skip(load_row(d_, scan.rows_.parameter(scan.p_.d), v, v + count)),
          u(scan.rows_.token(scan.p_.u, stretch.begin) + v),
          z(scan.p_.z.data == nullptr ? nullptr : scan.rows_.token(scan.p_.z, stretch.begin) + v),
          out(scan.rows_.token(scan.p_.out, stretch.begin) + v),
          u_stride(scan.p_.u.length),
          z_stride(scan.p_.z.length),
          out_stride(scan.p_.out.length),
          there(count) {}

    HWY_INLINE void put(V sum, std::int64_t i) const {
      auto y = hn::MulAdd(skip, load_some(d_, u + i * u_stride, there), sum);
      if (z != nullptr) y = gated(y, load_some(d_, z + i * z_stride, there));
      store_some(d_, y, out + i * out_stride, there);
    }
  };

  static HWY_INLINE V gated(V y, V gate) { return hn::Mul(y, hn::Mul(gate, sigmoid(d_, gate))); }

  // A vector of each row of the next stretch at a time, row by row: that is how memory gives most.
  HWY_INLINE void fetch() {
    if (fetched_ >= to_fetch_) return;
    __builtin_prefetch(ahead_[0] + fetched_, 0, 2);
    __builtin_prefetch(ahead_[1] + fetched_, 0, 2);
    __builtin_prefetch(ahead_[2] + fetched_, 1, 2);
    __builtin_prefetch(ahead_[3] + fetched_, 0, 2);
    fetched_ += lanes();
    if (fetched_ >= width_) fetch_from(next_ + 1);
  }
  void fetch_from(std::int64_t t) {
    next_ = t;
    fetched_ = 0;
    to_fetch_ = t < fetch_end_ ? width_ : 0;
    if (to_fetch_ == 0) return;
    ahead_[0] = rows_.token(p_.u, t);
    ahead_[1] = rows_.token(p_.delta, t);
    ahead_[2] = rows_.token(p_.out, t);
    ahead_[3] = p_.z.data == nullptr ? ahead_[0] : rows_.token(p_.z, t);
  }

  // h = 2^(step a) h + input b, y += c h.
  HWY_INLINE void advance(V step, V input, V a, T b, T c, V& h, V& y) const {
    const auto decay = exp2_any(d_, hn::Mul(step, a));
    h = hn::MulAdd(decay, h, hn::Mul(input, hn::Set(d_, b)));
    y = hn::MulAdd(hn::Set(d_, c), h, y);
  }

  // kN states of a column; the last ones complete the sums.
  template <int kN, bool kLast>
  HWY_INLINE void scan(const Stretch& stretch, std::int64_t n, std::int64_t v, const Gate& gate) {
    V h[kN];
    T* states = h_ + place(n, v);
    const T* a = a_ + place(n, v);
#pragma GCC unroll 16
    for (int k = 0; k < kN; ++k) h[k] = hn::Load(d_, states + k * lanes());
    const T *b = mixed(p_.b, stretch.begin, n), *c = mixed(p_.c, stretch.begin, n);
    const std::int64_t b_stride = p_.b.length, c_stride = p_.c.length;
    const bool first = n == 0;
    for (std::int64_t i = 0; i < stretch.count; ++i) {
      if (first) fetch();
      const auto step = hn::Load(d_, step_ + i * lanes()), x = hn::Load(d_, input_ + i * lanes());
      auto y = first ? hn::Zero(d_) : hn::Load(d_, out_ + i * lanes());
#pragma GCC unroll 16
      for (int k = 0; k < kN; ++k)
        advance(step, x, hn::Load(d_, a + k * lanes()), b[k], c[k], h[k], y);
      if constexpr (kLast)
        gate.put(y, i);
      else
        hn::Store(y, d_, out_ + i * lanes());
      b += b_stride;
      c += c_stride;
    }
#pragma GCC unroll 16
    for (int k = 0; k < kN; ++k) hn::Store(h[k], d_, states + k * lanes());
  }

  // One token: states are read and written where they lie, in their order in memory.
  void run_token() {
    const T *u = rows_.token(p_.u, 0), *delta = rows_.token(p_.delta, 0),
            *bias = rows_.parameter(p_.delta_bias), *skip = rows_.parameter(p_.d),
            *z = rows_.token(p_.z, 0);
    T* out = rows_.token(p_.out, 0);
    double* elapsed = row_of<double>(p_.elapsed, block_.sequence, 0, 0, block_.channel);
    const std::int64_t end = block_.channels;
    for (std::int64_t v = 0; v < width_; v += lanes()) {
      const auto sum = hn::Add(load_row(d_, delta, v, end), load_row(d_, bias, v, end));
      const auto step = put_step(sum, load_row(d_, u, v, end), step_ + v, input_ + v);
      if (elapsed != nullptr) add_elapsed(step, std::min(lanes(), end - v), elapsed + v);
    }
    std::int64_t n = 0;
    for (; n + kStates <= p_.states; n += kStates) pass<kStates>(n);
    for (; n < p_.states; ++n) pass<1>(n);
    for (std::int64_t v = 0; v < width_; v += lanes()) {
      auto y =
          hn::MulAdd(load_row(d_, skip, v, end), load_row(d_, u, v, end), hn::Load(d_, out_ + v));
      if (z != nullptr) y = gated(y, load_row(d_, z, v, end));
      store_row(d_, y, out, v, end);
    }
  }

  // Where some states of the token lie, and what they meet.
  template <int kN>
  struct Pass {
    const T *h[kN], *a[kN];
    T* to[kN];
    T b[kN], c[kN];
    std::int64_t next;  // from a state to the one that the next pass reads; in a batch, the next's
    Pass(const SelectiveScan& scan, std::int64_t n) : next(kN * scan.p_.state.length) {
      for (int k = 0; k < kN; ++k) {
        h[k] = scan.rows_.state(scan.p_.state, n + k);
        a[k] = scan.rows_.parameter(scan.p_.a, n + k);
        to[k] = scan.rows_.state(scan.p_.state_out, n + k);
        b[k] = *scan.mixed(scan.p_.b, 0, n + k);
        c[k] = *scan.mixed(scan.p_.c, 0, n + k);
      }
    }
  };

  template <int kN>
  void pass(std::int64_t n) {
    const Pass<kN> p(*this, n);
    std::int64_t v = 0;
    if (p_.state.data != nullptr && p_.state_out.data != nullptr) {
      for (; v < whole_; v += lanes()) pass_column<kN, true>(p, n, v, lanes());
    }
    for (; v < width_; v += lanes())
      pass_column<kN, false>(p, n, v, std::min(lanes(), block_.channels - v));
  }

  // kWhole: a vector of channels, whose states are given and wanted.
  template <int kN, bool kWhole>
  HWY_INLINE void pass_column(const Pass<kN>& p, std::int64_t n, std::int64_t v,
                              std::int64_t count) {
    const auto load = [&](const T* row) HWY_ATTR {
      return kWhole ? hn::LoadU(d_, row + v) : load_some(d_, row + v, count);
    };
    const auto step = hn::Load(d_, step_ + v), input = hn::Load(d_, input_ + v);
    auto y = n == 0 ? hn::Zero(d_) : hn::Load(d_, out_ + v);
    // All are loaded before any is stored: their addresses may differ by multiples of 4 KiB,
    // which a CPU takes for the same until it has looked closer.
    V h[kN];
#pragma GCC unroll 8
    for (int k = 0; k < kN; ++k) {
      h[k] = hn::Zero(d_);
      if (!kWhole && p.h[k] == nullptr) continue;
      h[k] = load(p.h[k]);
      __builtin_prefetch(p.h[k] + p.next + v, 1);
    }
#pragma GCC unroll 8
    for (int k = 0; k < kN; ++k) advance(step, input, load(p.a[k]), p.b[k], p.c[k], h[k], y);
#pragma GCC unroll 8
    for (int k = 0; k < kN; ++k) {
      if constexpr (kWhole)
        hn::StoreU(h[k], d_, p.to[k] + v);
      else if (p.to[k] != nullptr)
        store_some(d_, h[k], p.to[k] + v, count);
    }
    hn::Store(y, d_, out_ + v);
  }

  static constexpr D d_{};
  const ScanParams& p_;
  const ChannelBlock& block_;
  const BlockChannels<T> rows_;
  const std::int64_t width_, whole_;  // channels rounded up and down to vectors
  const bool one_token_;
  // Of a column [tokens][lanes], or of one token [width]: log2 steps, steps times u, sums.
  T *step_, *input_, *out_;
  T *h_ = nullptr, *a_ = nullptr;  // [states][width]
  // What is fetched: number `fetched_` and on of the rows of token `next_`.
  const T* ahead_[4];
  std::int64_t next_ = 0, fetch_end_ = 0, fetched_ = 0, to_fetch_ = 0;
  std::size_t bytes_;
};

template <class T>
std::size_t scan_workspace_bytes(const ScanParams& params, std::int64_t length,
                                 std::int64_t channels) {
  ChannelBlock block;
  block.length = length;
  block.channels = channels;
  return SelectiveScan<T>(params, block, Arena(nullptr)).bytes();
}

template <class T>
void run_scan(const ScanParams& params, const ChannelBlock& block, void* workspace) {
  SelectiveScan<T>(params, block, Arena(workspace)).run();
}

template <class T>
const ScanKernel& scan_kernel_for() {
  static const ScanKernel kKernel{SelectiveScan<T>::lanes(), &SelectiveScan<T>::channels,
                                  &scan_workspace_bytes<T>, &run_scan<T>};
  return kKernel;
}

const ScanKernel& scan_kernel_of(DType dtype) {
  return dtype == DType::f64 ? scan_kernel_for<double>() : scan_kernel_for<float>();
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {

const ScanKernel& scan_kernel(Isa isa, DType dtype) {
  ATTN_RETURN_BY_ISA(isa, scan_kernel_of(dtype));
}

}  // namespace attn::kernels
#endif

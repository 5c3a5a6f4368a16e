// Gradients of the selective scan, with g the gradient of a state after its token:
//
//   g_t = dy_t c_t + decay_(t+1) g_(t+1),   dc_t += dy_t h_t,   db_t += g_t D_t u_t
//   dD_t = sum over states of g_t (a decay_t h_(t-1) + b_t u_t),   du_t = D_t sum of g_t b_t + dy_t
//   d da += g_t D_t decay_t h_(t-1)
//
// A first pass keeps a state every so many tokens; then the pieces between, the last first, compute
// theirs again.
#include "kernels/selective_scan.h"

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/selective_scan_backward.cpp"
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

template <class T>
class ScanBackward {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;

 public:
  static std::int64_t lanes() { return static_cast<std::int64_t>(hn::Lanes(D())); }

  ScanBackward(const ScanBackwardParams& params, const ChannelBlock& block,
               const ScanBlockSums& sums, Arena arena)
      : q_(params),
        p_(params.forward),
        block_(block),
        to_(sums),
        rows_{block},
        width_(round_up(block.channels, lanes())),
        end_(block.channels),
        states_(p_.states) {
    const std::int64_t tokens = q_.tokens_kept, column = states_ * lanes();
    kept_ = arena.take<T>(pieces() * states_ * width_);
    for (T** x : {&g_, &da_}) *x = arena.take<T>(states_ * width_);
    for (T** x : {&dd_, &d_bias_}) *x = arena.take<T>(width_);
    h_ = arena.take<T>((tokens + 1) * column);
    for (T** x : {&decay_, &db_, &dc_}) *x = arena.take<T>(tokens * column);
    for (T** x : {&step_, &input_, &dy_, &of_b_, &of_a_}) *x = arena.take<T>(tokens * lanes());
    bytes_ = arena.used();
  }
  std::size_t bytes() const { return bytes_; }

  void run() {
    keep_states();
    begin();
    for (std::int64_t piece = pieces() - 1; piece >= 0; --piece) run_piece(piece);
    end();
  }

 private:
  std::int64_t pieces() const { return (block_.length + q_.tokens_kept - 1) / q_.tokens_kept; }
  // Of a column in arrays of states [width / lanes][states][lanes].
  std::int64_t place(std::int64_t n, std::int64_t v) const { return v * states_ + n * lanes(); }
  // Of state n at token i of a piece.
  std::int64_t place_in_piece(std::int64_t i, std::int64_t n) const {
    return (i * states_ + n) * lanes();
  }
  V load_token(const Matrix& m, std::int64_t t, std::int64_t v) const {
    return load_row(d_, rows_.token(m, t), v, end_);
  }
  V mixed(const Matrix& m, std::int64_t t, std::int64_t n) const {
    return hn::Set(d_, *row_of<T>(m, block_.batch, block_.group, block_.begin + t, n));
  }
  // delta + delta_bias of token t.
  V raw_step(std::int64_t t, std::int64_t v) const {
    return hn::Add(load_token(p_.delta, t, v),
                   load_row(d_, rows_.parameter(p_.delta_bias), v, end_));
  }
  V step_at(std::int64_t t, std::int64_t v) const {
    const auto raw = raw_step(t, v);
    return p_.softplus ? softplus(d_, raw) : raw;
  }
  // As the forward kernel computes it, to the bit.
  V decay_of(V step, V a) const {
    const auto log2e = hn::Set(d_, static_cast<T>(1.4426950408889634074));
    return exp2_any(d_, hn::Mul(hn::Mul(step, log2e), a));
  }

  void keep_states() const {
    T* h = g_;  // not needed yet
    for (std::int64_t n = 0; n < states_; ++n) {
      for (std::int64_t v = 0; v < width_; v += lanes())
        hn::Store(load_row(d_, rows_.state(p_.state, n), v, end_), d_, h + place(n, v));
    }
    for (std::int64_t t = 0; t < block_.length; ++t) {
      if (t % q_.tokens_kept == 0)
        std::copy_n(h, states_ * width_, kept_ + t / q_.tokens_kept * states_ * width_);
      for (std::int64_t v = 0; v < width_; v += lanes()) {
        const auto step = step_at(t, v), input = hn::Mul(step, load_token(p_.u, t, v));
        for (std::int64_t n = 0; n < states_; ++n) {
          T* state = h + place(n, v);
          const auto decay = decay_of(step, load_row(d_, rows_.parameter(p_.a, n), v, end_));
          hn::Store(hn::MulAdd(decay, hn::Load(d_, state), hn::Mul(input, mixed(p_.b, t, n))), d_,
                    state);
        }
      }
    }
  }

  void begin() const {
    for (std::int64_t n = 0; n < states_; ++n) {
      for (std::int64_t v = 0; v < width_; v += lanes())
        hn::Store(load_row(d_, rows_.state(q_.d_state_out, n), v, end_), d_, g_ + place(n, v));
    }
    std::fill_n(da_, states_ * width_, T(0));
    std::fill_n(dd_, width_, T(0));
    std::fill_n(d_bias_, width_, T(0));
  }

  void run_piece(std::int64_t piece) const {
    const std::int64_t first = piece * q_.tokens_kept;
    const std::int64_t count = std::min(q_.tokens_kept, block_.length - first);
    std::fill_n(db_, count * states_ * lanes(), T(0));
    std::fill_n(dc_, count * states_ * lanes(), T(0));
    for (std::int64_t v = 0; v < width_; v += lanes()) {
      std::copy_n(kept_ + piece * states_ * width_ + place(0, v), states_ * lanes(), h_);
      for (std::int64_t i = 0; i < count; ++i) again(first + i, i, v);
      for (std::int64_t n = 0; n < states_; ++n) back(first, count, n, v);
      for (std::int64_t i = count - 1; i >= 0; --i) finish(first + i, i, v);
    }
    sum_lanes(first, count, db_, static_cast<T*>(to_.db));
    sum_lanes(first, count, dc_, static_cast<T*>(to_.dc));
  }

  // The states of token i of the piece, and the gradient of its sum over states.
  void again(std::int64_t t, std::int64_t i, std::int64_t v) const {
    const auto step = step_at(t, v), u = load_token(p_.u, t, v), input = hn::Mul(step, u);
    auto y = hn::Zero(d_);
    for (std::int64_t n = 0; n < states_; ++n) {
      const auto decay = decay_of(step, load_row(d_, rows_.parameter(p_.a, n), v, end_));
      const auto h = hn::MulAdd(decay, hn::Load(d_, h_ + place_in_piece(i, n)),
                                hn::Mul(input, mixed(p_.b, t, n)));
      hn::Store(decay, d_, decay_ + place_in_piece(i, n));
      hn::Store(h, d_, h_ + place_in_piece(i + 1, n));
      y = hn::MulAdd(mixed(p_.c, t, n), h, y);
    }
    auto dy = load_token(q_.d_out, t, v);
    if (p_.z.data != nullptr) {
      y = hn::MulAdd(load_row(d_, rows_.parameter(p_.d), v, end_), u, y);
      const auto z = load_token(p_.z, t, v), s = sigmoid(d_, z), one = hn::Set(d_, T(1));
      const auto slope = hn::Mul(s, hn::MulAdd(z, hn::Sub(one, s), one));
      store_row(d_, hn::Mul(hn::Mul(dy, y), slope), rows_.token(q_.dz, t), v, end_);
      dy = hn::Mul(dy, hn::Mul(z, s));
    }
    hn::Store(step, d_, step_ + i * lanes());
    hn::Store(input, d_, input_ + i * lanes());
    hn::Store(dy, d_, dy_ + i * lanes());
    hn::Store(hn::Zero(d_), d_, of_b_ + i * lanes());
    hn::Store(hn::Zero(d_), d_, of_a_ + i * lanes());
  }

  // State n through the piece.
  void back(std::int64_t first, std::int64_t count, std::int64_t n, std::int64_t v) const {
    const auto a = load_row(d_, rows_.parameter(p_.a, n), v, end_);
    auto g = hn::Load(d_, g_ + place(n, v)), da = hn::Load(d_, da_ + place(n, v));
    const auto add = [&](T* to, V x, V y)
                         HWY_ATTR { hn::Store(hn::MulAdd(x, y, hn::Load(d_, to)), d_, to); };
    for (std::int64_t i = count - 1; i >= 0; --i) {
      const auto dy = hn::Load(d_, dy_ + i * lanes());
      g = hn::MulAdd(dy, mixed(p_.c, first + i, n), g);
      add(dc_ + place_in_piece(i, n), dy, hn::Load(d_, h_ + place_in_piece(i + 1, n)));
      add(db_ + place_in_piece(i, n), g, hn::Load(d_, input_ + i * lanes()));
      add(of_b_ + i * lanes(), g, mixed(p_.b, first + i, n));
      g = hn::Mul(g, hn::Load(d_, decay_ + place_in_piece(i, n)));
      const auto past = hn::Mul(g, hn::Load(d_, h_ + place_in_piece(i, n)));
      add(of_a_ + i * lanes(), past, a);
      da = hn::MulAdd(past, hn::Load(d_, step_ + i * lanes()), da);
    }
    hn::Store(g, d_, g_ + place(n, v));
    hn::Store(da, d_, da_ + place(n, v));
  }

  void finish(std::int64_t t, std::int64_t i, std::int64_t v) const {
    const auto step = hn::Load(d_, step_ + i * lanes()), dy = hn::Load(d_, dy_ + i * lanes());
    const auto of_b = hn::Load(d_, of_b_ + i * lanes()), u = load_token(p_.u, t, v);
    const auto skip = load_row(d_, rows_.parameter(p_.d), v, end_);
    store_row(d_, hn::MulAdd(step, of_b, hn::Mul(dy, skip)), rows_.token(q_.du, t), v, end_);
    auto d_step = hn::MulAdd(u, of_b, hn::Load(d_, of_a_ + i * lanes()));
    if (p_.softplus) d_step = hn::Mul(d_step, sigmoid(d_, raw_step(t, v)));
    store_row(d_, d_step, rows_.token(q_.d_delta, t), v, end_);
    hn::Store(hn::Add(d_step, hn::Load(d_, d_bias_ + v)), d_, d_bias_ + v);
    hn::Store(hn::MulAdd(dy, u, hn::Load(d_, dd_ + v)), d_, dd_ + v);
  }

  void sum_lanes(std::int64_t first, std::int64_t count, const T* from, T* to) const {
    if (to == nullptr) return;
    for (std::int64_t i = 0; i < count * states_; ++i) {
      T sum = 0;
      for (std::int64_t j = 0; j < lanes(); ++j) sum += from[i * lanes() + j];
      to[first * states_ + i] = sum;
    }
  }

  void end() const {
    for (std::int64_t v = 0; v < end_; v += lanes()) {
      for (std::int64_t n = 0; n < states_; ++n) {
        store_row(d_, hn::Load(d_, g_ + place(n, v)), rows_.state(q_.d_state, n), v, end_);
        store_row(d_, hn::Load(d_, da_ + place(n, v)), rows_.state(q_.da, n), v, end_);
      }
      store_row(d_, hn::Load(d_, dd_ + v), rows_.state(q_.dd, 0), v, end_);
      store_row(d_, hn::Load(d_, d_bias_ + v), rows_.state(q_.d_delta_bias, 0), v, end_);
    }
  }

  static constexpr D d_{};
  const ScanBackwardParams& q_;
  const ScanParams& p_;
  const ChannelBlock& block_;
  const ScanBlockSums& to_;
  const BlockChannels<T> rows_;
  const std::int64_t width_, end_, states_;
  T* kept_;                    // [pieces][width / lanes][states][lanes]
  T *g_, *da_;                 // [width / lanes][states][lanes]
  T *dd_, *d_bias_;            // [width]
  T *h_, *decay_, *db_, *dc_;  // of a column: [tokens (+ 1)][states][lanes]
  T *step_, *input_, *dy_;     // [tokens][lanes]
  T *of_b_, *of_a_;            // [tokens][lanes]: sums over states
  std::size_t bytes_;
};

template <class T>
std::size_t scan_backward_bytes(const ScanBackwardParams& params, std::int64_t length,
                                std::int64_t channels) {
  ChannelBlock block;
  block.length = length;
  block.channels = channels;
  return ScanBackward<T>(params, block, {}, Arena(nullptr)).bytes();
}

template <class T>
void run_scan_backward(const ScanBackwardParams& params, const ChannelBlock& block,
                       const ScanBlockSums& sums, void* workspace) {
  ScanBackward<T>(params, block, sums, Arena(workspace)).run();
}

template <class T>
const ScanBackwardKernel& scan_backward_kernel_for() {
  static const ScanBackwardKernel kKernel{ScanBackward<T>::lanes(), &scan_backward_bytes<T>,
                                          &run_scan_backward<T>};
  return kKernel;
}

const ScanBackwardKernel& scan_backward_kernel_of(DType dtype) {
  return dtype == DType::f64 ? scan_backward_kernel_for<double>()
                             : scan_backward_kernel_for<float>();
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {

const ScanBackwardKernel& scan_backward_kernel(Isa isa, DType dtype) {
  ATTN_RETURN_BY_ISA(isa, scan_backward_kernel_of(dtype));
}

}  // namespace attn::kernels
#endif

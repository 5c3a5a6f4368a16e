// What will be needed soon, fetched into the second cache from within the products. Included once a
// target.
#if defined(ATTN_KERNELS_AHEAD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTN_KERNELS_AHEAD_INL_H_
#undef ATTN_KERNELS_AHEAD_INL_H_
#else
#define ATTN_KERNELS_AHEAD_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

// Matrices, one after the other, four lines a step: one from each quarter of the rows, because
// memory gives a core more when it reads several pages at once.
class Ahead {
 public:
  static constexpr std::int64_t kStepBytes = 256;

  Ahead() { clear(); }

  void clear() {
    count_ = next_ = 0;
    start(Quarters{{this, this, this, this}, 1, 0, kLine});
  }

  // `rows` rows of `bytes` bytes, `stride` bytes apart.
  void add(const void* data, std::int64_t stride, std::int64_t rows, std::int64_t bytes) {
    if (rows <= 0 || count_ == kMost) return;
    const auto* base = static_cast<const char*>(data);
    Quarters& q = list_[count_];
    if (stride == bytes) {  // one long row, cut at lines
      const std::int64_t quarter = (rows * bytes / kStreams + kLine - 1) / kLine * kLine;
      for (std::int64_t i = 0; i < kStreams; ++i) q.begin[i] = base + i * quarter;
      q.rows = 1;
      q.stride = 0;
      q.bytes = quarter;
    } else {
      const std::int64_t quarter = (rows + kStreams - 1) / kStreams;
      for (std::int64_t i = 0; i < kStreams; ++i)
        q.begin[i] = base + std::min(i * quarter, rows - quarter) * stride;
      q.rows = quarter;
      q.stride = stride;
      q.bytes = bytes;
    }
    if (count_++ == 0) start(list_[next_++]);
  }

  // After so many all is fetched; further ones only repeat the last.
  std::int64_t steps() const {
    std::int64_t steps = 0;
    for (int i = 0; i < count_; ++i)
      steps += list_[i].rows * ((list_[i].bytes + kLine - 1) / kLine);
    return steps;
  }

  HWY_INLINE void fetch_step() {
#pragma GCC unroll 4
    for (int i = 0; i < kStreams; ++i)
      __builtin_prefetch(static_cast<const char*>(now_.begin[i]) + at_, 0, 2);
    at_ += kLine;
    if (at_ >= row_end_) next_row();
  }

 private:
  static constexpr int kMost = 32, kStreams = 4;
  static constexpr std::int64_t kLine = kStepBytes / kStreams;

  struct Quarters {
    const void* begin[kStreams];
    std::int64_t rows, stride, bytes;
  };

  void start(const Quarters& quarters) {
    now_ = quarters;
    row_ = at_ = 0;
    row_end_ = now_.bytes;
  }

  HWY_NOINLINE void next_row() {
    if (++row_ < now_.rows) {
      at_ = row_ * now_.stride;
      row_end_ = at_ + now_.bytes;
    } else if (next_ < count_) {
      start(list_[next_++]);
    } else {
      row_ = now_.rows - 1;
      at_ = row_end_ - kLine;
    }
  }

  Quarters now_;
  std::int64_t row_, at_, row_end_;
  Quarters list_[kMost];
  int count_, next_;
};

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

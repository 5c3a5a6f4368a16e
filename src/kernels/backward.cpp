#include "kernels/backward.h"

// clang-format off: the order matters to Highway
#include "base/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on
#include <hwy/cache_control.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <thread>
#include <utility>

#include "kernels/ahead-inl.h"
#include "kernels/arena.h"
#include "kernels/backward_keys-inl.h"
#include "kernels/backward_micro-inl.h"
#include "kernels/backward_terms-inl.h"
#include "kernels/by_isa.h"
#include "kernels/micro-inl.h"
#include "kernels/score_gradient-inl.h"
#include "kernels/scores-inl.h"
#include "kernels/softmax_gradient-inl.h"
#include "kernels/visible-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attn::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Rows that are worked on together: their probabilities and gradients by tile stay in L2.
template <class T>
constexpr std::int64_t kBackwardRows =
    Blocking<T>::kRows* std::int64_t{Blocking<T>::kRows < 8 ? 16 : 8};

template <class T>
class Backward {
  using B = Blocking<T>;
  using D = typename B::D;
  static constexpr std::int64_t kWords = B::kTile / 64;
  static constexpr std::int64_t kMostRows = kBackwardRows<T>;
  static constexpr std::int64_t kMostStrips = kMostRows / B::kRows;

 public:
  Backward(const BackwardParams& params, const BackwardBlock& block, std::int64_t tiles,
           Arena arena)
      : p_(params),
        block_(block),
        sequence_(block.sequence),
        gradients_(params.score, params.custom_gradient, params.d_bias, block.slopes, block.t5),
        modified_(params.score.modified()),
        derived_(gradients_.any()),
        keys_(params, block, tiles, arena),
        softmax_(params, block.sequence, derived_, arena),
        q_(arena.take<T>(tiles_of(params.width) * kMostRows * B::kStride)),
        d_out_(arena.take<T>(tiles_of(params.v_width) * kMostRows * B::kStride)),
        q_rows_(arena.take<T>(B::kTile * keys_.width)),
        d_out_rows_(arena.take<T>(B::kTile * keys_.v_width)),
        p_rows_(arena.take<T>(kMostRows * B::kStride)),
        ds_rows_(arena.take<T>(kMostRows * B::kStride)),
        capped_(arena.take<T>(params.score.soft_cap > 0 ? B::kRows * B::kStride : 0)),
        given_(arena.take<T>(params.score.custom != nullptr ? B::kRows * B::kStride : 0)),
        dq_(arena.take<T>(B::kRows * keys_.width)),
        terms_(arena.take<T>(kMostRows * Term::kCount)),
        visible_words_(arena.take<std::uint64_t>(kMostRows * kWords)),
        token_(arena.take<std::int64_t>(kMostRows)),
        head_(arena.take<std::int32_t>(kMostRows)),
        bytes_(arena.used()) {}

  std::size_t bytes() const { return bytes_; }

  void run() {
    keys_.load();
    BackwardRows rows;
    while (block_.rows->next(rows)) {
      const std::int64_t count = rows.token_count * p_.group;
      for (std::int64_t first = 0; first < count; first += kMostRows) {
        if (!run_rows(rows, first, std::min(kMostRows, count - first))) return;
      }
    }
    keys_.store();
  }

 private:
  static std::int64_t tiles_of(std::int64_t width) { return (width + B::kTile - 1) / B::kTile; }
  // Strips are as even as they come.
  std::int64_t strip_begin(std::int64_t strip) const { return rows_ * strip / strips_; }
  // Rows [first, first + count) of a block. False when another thread gave up.
  bool run_rows(const BackwardRows& rows, std::int64_t first, std::int64_t count) {
    rows_ = count;
    strips_ = (count + B::kRows - 1) / B::kRows;
    token_begin_ = rows.token_begin;
    for (std::int64_t r = 0; r < count; ++r) {
      token_[r] = rows.token_begin + (first + r) / p_.group;
      head_[r] = static_cast<std::int32_t>(block_.kv_head * p_.group + (first + r) % p_.group);
    }
    std::atomic<std::int32_t>& turn = rows.turns[first / kMostRows];
    if (!find_spans(rows.schedule)) return skip_rows(turn, rows.turn);
    look_ahead(rows, first + count);
    for (std::int64_t r = 0; r < count; ++r)
      std::copy_n(row_at(p_.terms, r), Term::kCount, terms_ + r * Term::kCount);
    q_finite_ = load_rows(p_.q, p_.width, static_cast<T>(p_.score.scale * kLog2e), q_, q_rows_);
    d_out_finite_ =
        p_.d_out.data == nullptr || load_rows(p_.d_out, p_.v_width, T(1), d_out_, d_out_rows_);

    bool waited = false, first_tile = true;
    visible_.schedule = &rows.schedule;
    for (std::int64_t i = 0; i < rows.schedule.run_count; ++i) {
      const TileRun& tiles = rows.schedule.runs[i];
      for (std::int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
        visible_.partial = tiles.partial;
        if (tiles.partial && rows.schedule.bits != nullptr) {
          visible_.bits =
              rows.schedule.bits + tiles.bits_offset +
              (tile - tiles.begin) * rows.schedule.slots * rows.schedule.block_tokens * kWords;
        }
        // A custom derivative has its turn too: it may sum gradients of its own.
        if (p_.custom_gradient != nullptr && !waited) {
          if (!wait(turn, rows.turn)) return false;
          waited = true;
        }
        score_tile(tile);
        add_to_keys(tile);
        if (p_.dq.data == nullptr) continue;
        if (!waited && !wait(turn, rows.turn)) return false;
        waited = true;
        // The first keys of all find nothing there yet.
        add_to_queries(tile, !p_.accumulate && rows.turn == 0 && first_tile);
        first_tile = false;
      }
    }
    if (takes_turns()) turn.store(rows.turn + 1, std::memory_order_release);
    return true;
  }

  // What each strip sees at all; returns whether some strip sees some of these keys.
  bool find_spans(const Schedule& schedule) {
    const std::int64_t begin = block_.tile_begin * B::kTile, end = block_.tile_end * B::kTile;
    bool any = false;
    for (std::int64_t strip = 0; strip < strips_; ++strip) {
      Span& span = spans_[strip] =
          span_of_rows(schedule, sequence_.k_len, token_, token_begin_, head_,
                       block_.kv_head * p_.group, strip_begin(strip), strip_begin(strip + 1));
      any = any || (span.begin < end && span.end > begin);
    }
    return any;
  }

  bool takes_turns() const { return p_.dq.data != nullptr || p_.custom_gradient != nullptr; }

  // These keys' turn at rows that see none of them.
  bool skip_rows(std::atomic<std::int32_t>& turn, std::int32_t mine) {
    if (!takes_turns()) return true;
    if (!wait(turn, mine)) return false;
    for (std::int64_t r = 0; p_.dq.data != nullptr && mine == 0 && !p_.accumulate && r < rows_; ++r)
      std::fill_n(row_at(p_.dq, r), p_.width, T(0));
    turn.store(mine + 1, std::memory_order_release);
    return true;
  }

  // The rows that follow, to be fetched while these are worked on.
  void look_ahead(const BackwardRows& rows, std::int64_t next) {
    const std::int64_t from = rows.token_begin + next / p_.group,
                       count = std::min(kMostRows / p_.group, sequence_.q_len - from);
    ahead_.clear();
    for (const auto& [matrix, width] :
         {std::pair{&p_.q, p_.width}, std::pair{&p_.d_out, p_.v_width}, std::pair{&p_.dq, p_.width},
          std::pair{&p_.terms, std::int64_t{Term::kCount}}}) {
      for (std::int64_t h = 0; matrix->data != nullptr && h < p_.group; ++h) {
        ahead_.add(
            row_of<T>(*matrix, sequence_, block_.kv_head * p_.group + h, sequence_.q_begin + from),
            matrix->length * static_cast<std::int64_t>(sizeof(T)), count,
            width * static_cast<std::int64_t>(sizeof(T)));
      }
    }
  }

  // Some of it, once a product.
  void fetch() {
    constexpr int kSteps = 2;
    for (int i = 0; i < kSteps; ++i) ahead_.fetch_step();
  }

  bool wait(const std::atomic<std::int32_t>& turn, std::int32_t mine) const {
    for (int i = 0; turn.load(std::memory_order_acquire) != mine; ++i) {
      if (block_.rows->failed()) return false;
      if (i < 64)
        hwy::Pause();
      else
        std::this_thread::yield();
    }
    return true;
  }

  T* row_at(const Matrix& m, std::int64_t r) const {
    return row_of<T>(m, sequence_, head_[r], sequence_.q_begin + token_[r]);
  }

  // Rows of a tensor of queries, times `factor` in `scaled`, as they are in panels of rows; are all
  // finite?
  bool load_rows(const Matrix& m, std::int64_t width, T factor, T* scaled, T* panels) {
    const D d;
    const auto f = hn::Set(d, factor), zero = hn::Zero(d);
    auto poison = zero;  // 0 * x sums to NaN when any x is not finite
    for (std::int64_t r = 0; r < rows_; ++r) {
      const T* from = row_at(m, r);
      for (std::int64_t c = 0; c < width; c += B::kPanel) {
        T* panel = panels + c * B::kTile + r * B::kPanel;
        load_panel(from + c, width - c, panel);
        T* to = scaled + c / B::kTile * kMostRows * B::kStride + r * B::kStride + c % B::kTile;
        for (std::int64_t lane = 0; lane < B::kPanel; lane += B::kLanes) {
          const auto x = hn::Load(d, panel + lane);
          poison = hn::MulAdd(zero, x, poison);
          hn::Store(hn::Mul(x, f), d, to + lane);
        }
      }
    }
    return hn::AllTrue(d, hn::Eq(poison, poison));
  }

  // s and dO . v of all strips, then p and ds.
  void score_tile(std::int64_t tile) {
    k_begin_ = tile * B::kTile;
    k_count_ = keys_.count(tile);
    visible_.k_begin = k_begin_;
    visible_.k_count = k_count_;
    softmax_.begin_tile(k_begin_, k_count_, token_[0]);
    for (std::int64_t strip = 0; strip < strips_; ++strip) score_strip(tile, strip);
  }

  SeenColumns see(std::int64_t strip, std::int64_t first, int height) {
    bool masked = visible_.partial || modified_ || k_count_ % B::kLanes != 0;
    if (visible_.partial && visible_.schedule->interval_begin != nullptr) {
      const Span& span = spans_[strip];
      if (span.begin >= k_begin_ + k_count_ || span.end <= k_begin_) return {};
      const bool all = span.open <= k_begin_ && span.close >= k_begin_ + k_count_;
      if (all && !modified_ && k_count_ % B::kLanes == 0) masked = false;
    }
    SeenColumns c{0, k_count_, 0, round_up(k_count_, B::kLanes), masked};
    if (!masked) {
      std::fill_n(visible_words_ + first * kWords, height * kWords, ~std::uint64_t{0});
      return c;
    }
    std::uint64_t any[kWords] = {}, all[kWords];
    std::fill_n(all, kWords, ~std::uint64_t{0});
    for (std::int64_t r = first; r < first + height; ++r) {
      std::uint64_t* words = visible_words_ + r * kWords;
      visible_.read(token_[r] - token_begin_, head_[r] - block_.kv_head * p_.group, words);
      for (int w = 0; w < kWords; ++w) {
        any[w] |= words[w];
        all[w] &= words[w];
      }
    }
    if (!VisibleTile<T>::span_of(any, c.begin, c.end)) c.begin = c.end = 0;
    c.from = c.begin / B::kLanes * B::kLanes;
    c.to = round_up(c.end, B::kLanes);
    std::int64_t open, close;
    VisibleTile<T>::first_run(all, open, close);
    c.masked = modified_ || open > c.from || close < c.to;
    return c;
  }

  void score_strip(std::int64_t tile, std::int64_t strip) {
    const std::int64_t first = strip_begin(strip);
    const int height = static_cast<int>(strip_begin(strip + 1) - first);
    const SeenColumns c = columns_[strip] = see(strip, first, height);
    T *p = p_rows_ + first * B::kStride, *ds = ds_rows_ + first * B::kStride;
    if (c.begin >= c.end) return;
    clear_edges(p, height, c);
    clear_edges(ds, height, c);
    products(q_ + first * B::kStride, keys_.k(tile), p_.width, height, c, p);
    if (p_.d_out.data != nullptr) {
      products(d_out_ + first * B::kStride, keys_.v(tile), p_.v_width, height, c, ds);
    } else {
      for (int r = 0; r < height; ++r)
        std::fill(ds + r * B::kStride + c.from, ds + r * B::kStride + c.to, T(0));
    }
    const Strip<T> scores{p,
                          visible_words_ + first * kWords,
                          height,
                          token_ + first,
                          head_ + first,
                          &sequence_,
                          p_.group,
                          k_begin_,
                          c.from,
                          std::min(c.to, k_count_),
                          capped_,
                          given_};
    if (modified_) modify_scores(scores, p_.score);
    for (int r = 0; r < height; ++r) {
      const std::int64_t at = first + r;
      softmax_.run(
          {p_rows_ + at * B::kStride, ds_rows_ + at * B::kStride, terms_ + at * Term::kCount,
           visible_words_ + at * kWords, token_[at], head_[at]},
          c);
    }
    if (!derived_) return;
    gradients_.run(scores, tile - block_.tile_begin, ds);
    const D d;
    for (int r = 0; r < height; ++r) {
      for (std::int64_t j = c.from; j < c.to; j += B::kLanes) {
        T* at = ds + r * B::kStride + j;
        hn::Store(hn::Mul(hn::Load(d, at), hn::Set(d, static_cast<T>(p_.score.scale))), d, at);
      }
    }
  }

  // Products over rows take kRows keys at once, of which a strip may see some.
  void clear_edges(T* rows, int height, const SeenColumns& c) const {
    constexpr std::int64_t kEdge = (B::kRows + B::kLanes - 1) / B::kLanes * B::kLanes;
    const D d;
    const std::int64_t begin = std::max<std::int64_t>(0, c.from - kEdge),
                       end = std::min(B::kTile, c.to + kEdge);
    for (int r = 0; r < height; ++r, rows += B::kStride) {
      for (std::int64_t j = begin; j < c.from; j += B::kLanes) hn::Store(hn::Zero(d), d, rows + j);
      for (std::int64_t j = c.to; j < end; j += B::kLanes) hn::Store(hn::Zero(d), d, rows + j);
    }
  }

  // out[r][j] = sum over i of rows[r][i] * keys[i][j] for the columns of c.
  void products(const T* rows, const T* keys, std::int64_t width, int height, const SeenColumns& c,
                T* out) {
    const auto& kernel = kScore[static_cast<std::size_t>(height - 1)];
    for (std::int64_t j = c.from / B::kPanel * B::kPanel; j < c.to; j += B::kPanel) {
      const std::int64_t skip = j < c.from ? B::kLanes : 0;
      const bool one = skip > 0 || c.to < j + B::kPanel;
      const T* from = rows;
      fetch();
      for (std::int64_t i = 0; i < width; i += B::kTile, from += kMostRows * B::kStride) {
        (one ? kernel.one : kernel.both)(from, keys + j * width + i * B::kPanel + skip,
                                         std::min(B::kTile, width - i), i > 0, out + j + skip);
      }
    }
  }

  // dV += p^T dO, dK += ds^T q.
  void add_to_keys(std::int64_t tile) {
    if (p_.dv.data != nullptr && p_.d_out.data != nullptr) {
      add_rows(p_rows_, d_out_rows_, d_out_finite_, p_.v_width, keys_.dv(tile));
    }
    if (p_.dk.data != nullptr) add_rows(ds_rows_, q_rows_, q_finite_, p_.width, keys_.dk(tile));
  }

  void add_rows(const T* weights, const T* x, bool finite, std::int64_t width, T* sums) {
    const std::int64_t strips = BlockKeys<T>::strip_count(k_count_),
                       padded = round_up(width, B::kPanel);
    for (std::int64_t c = 0; c < width; c += B::kPanel) {
      for (std::int64_t strip = 0; strip < strips; ++strip) {
        const std::int64_t begin = k_count_ * strip / strips;
        const std::int64_t height = k_count_ * (strip + 1) / strips - begin;
        T* out = sums + begin * padded + c * height;
        for (std::int64_t first = 0, last; first < strips_; first = last + 1) {
          // Neighbouring strips of rows that see some of these keys; do all rows see all of them?
          bool masked = false;
          for (last = first; last < strips_ && sees(last, begin, height); ++last) {
            const SeenColumns& seen = columns_[last];
            masked = masked || seen.masked || seen.begin > begin || seen.end < begin + height;
          }
          if (first == last) continue;
          const std::int64_t row = strip_begin(first), rows = strip_begin(last) - row;
          const T* from = x + c * B::kTile;
          fetch();
          if (masked && !finite) {
            add_visible_rows(weights, from, row, rows, begin, height, out);
            continue;
          }
          const auto& kernel = kKeys[static_cast<std::size_t>(height - 1)];
          (width - c <= B::kLanes ? kernel.one : kernel.both)(weights + row * B::kStride + begin,
                                                              from + row * B::kPanel, rows, out);
        }
      }
    }
  }

  bool sees(std::int64_t strip, std::int64_t begin, std::int64_t count) const {
    return columns_[strip].begin < begin + count && columns_[strip].end > begin;
  }

  // The same chains without the terms 0 * x of hidden pairs, which a non-finite x would turn into
  // NaN.
  void add_visible_rows(const T* weights, const T* x, std::int64_t row, std::int64_t rows,
                        std::int64_t key, std::int64_t keys, T* out) const {
    const D d;
    for (std::int64_t j = key; j < key + keys; ++j, out += B::kPanel) {
      auto low = hn::Load(d, out), high = hn::Load(d, out + B::kLanes);
      for (std::int64_t r = row; r < row + rows; ++r) {
        if ((visible_words_[r * kWords + j / 64] >> (j % 64) & 1) == 0) continue;
        const auto weight = hn::Set(d, weights[r * B::kStride + j]);
        low = hn::MulAdd(weight, hn::Load(d, x + r * B::kPanel), low);
        high = hn::MulAdd(weight, hn::Load(d, x + r * B::kPanel + B::kLanes), high);
      }
      hn::Store(low, d, out);
      hn::Store(high, d, out + B::kLanes);
    }
  }

  // dQ += ds k, in the tensor; or dQ = ds k.
  void add_to_queries(std::int64_t tile, bool starts) {
    const T* keys = keys_.k_rows(tile);
    for (std::int64_t strip = 0; strip < strips_; ++strip) {
      const SeenColumns& c = columns_[strip];
      const std::int64_t first = strip_begin(strip), height = strip_begin(strip + 1) - first;
      if (c.begin >= c.end) {
        for (std::int64_t r = 0; starts && r < height; ++r)
          std::fill_n(row_at(p_.dq, first + r), p_.width, T(0));
        continue;
      }
      const T* ds = ds_rows_ + first * B::kStride;
      const auto& kernel = kValue[static_cast<std::size_t>(height - 1)];
      if (starts)
        std::fill_n(dq_, height * keys_.width, T(0));
      else
        for (std::int64_t r = 0; r < height; ++r) move_row<true>(first + r, r, height);
      for (std::int64_t column = 0; column < p_.width; column += B::kPanel) {
        T* out = dq_ + column * height;
        const T* from = keys + column * B::kTile;
        if (c.masked && !keys_.k_finite) {
          for (std::int64_t r = 0; r < height; ++r, out += B::kPanel) {
            value_row(ds + r * B::kStride, from, visible_words_ + (first + r) * kWords, c.begin,
                      c.end, T(1), out);
          }
          continue;
        }
        (p_.width - column <= B::kLanes ? kernel.one : kernel.both)(
            ds + c.begin, from + c.begin * B::kPanel, B::kPanel, c.end - c.begin, nullptr, out);
      }
      for (std::int64_t r = 0; r < height; ++r) move_row<false>(first + r, r, height);
    }
  }

  // Row r of a strip of dQ from the tensor to the panels of the strip, or back.
  template <bool kLoad>
  HWY_INLINE void move_row(std::int64_t at, std::int64_t r, std::int64_t height) {
    T* row = row_at(p_.dq, at);
    for (std::int64_t c = 0; c < p_.width; c += B::kPanel) {
      T* panel = dq_ + c * height + r * B::kPanel;
      if constexpr (kLoad)
        load_panel(row + c, p_.width - c, panel);
      else
        store_panel(panel, p_.width - c, row + c);
    }
  }

  // Micro-kernels by height, for two vectors of columns or one.
  template <class F>
  struct Pair {
    F *both, *one;
  };
  template <class F>
  using ByHeight = std::array<Pair<F>, static_cast<std::size_t>(B::kRows)>;
  using ScoreKernel = void(const T*, const T*, std::int64_t, bool, T*);
  using KeyKernel = void(const T*, const T*, std::int64_t, T*);
  using ValueKernel = void(const T*, const T*, std::int64_t, std::int64_t, const T*, T*);
  template <std::size_t... kI>
  static constexpr ByHeight<ScoreKernel> score_kernels(std::index_sequence<kI...>) {
    return {{{&row_panel<static_cast<int>(kI) + 1, 2, T>,
              &row_panel<static_cast<int>(kI) + 1, 1, T>}...}};
  }
  template <std::size_t... kI>
  static constexpr ByHeight<KeyKernel> key_kernels(std::index_sequence<kI...>) {
    return {{{&key_panel<static_cast<int>(kI) + 1, 2, T>,
              &key_panel<static_cast<int>(kI) + 1, 1, T>}...}};
  }
  template <std::size_t... kI>
  static constexpr ByHeight<ValueKernel> value_kernels(std::index_sequence<kI...>) {
    return {{{&value_panel<static_cast<int>(kI) + 1, 2, T, T>,
              &value_panel<static_cast<int>(kI) + 1, 1, T, T>}...}};
  }
  static constexpr auto kHeights = std::make_index_sequence<static_cast<std::size_t>(B::kRows)>();
  static constexpr ByHeight<ScoreKernel> kScore = score_kernels(kHeights);
  static constexpr ByHeight<KeyKernel> kKeys = key_kernels(kHeights);
  static constexpr ByHeight<ValueKernel> kValue = value_kernels(kHeights);

  const BackwardParams& p_;
  const BackwardBlock& block_;
  const Sequence& sequence_;
  const ScoreGradients<T> gradients_;
  const bool modified_;  // something beside ALiBi alone changes raw scores
  const bool derived_;   // the score has gradients of its own
  BlockKeys<T> keys_;
  SoftmaxGradient<T> softmax_;
  // Of some rows: [width / kTile][rows][kStride] for the products over the width, panels of rows
  // for the products over rows.
  T *q_, *d_out_, *q_rows_, *d_out_rows_;
  T *p_rows_, *ds_rows_;          // [rows][kStride] scores, then p; dO . v, then ds
  T *capped_, *given_, *dq_;      // of one strip
  T* terms_;                      // [rows][Term::kCount]
  std::uint64_t* visible_words_;  // [rows][kTile / 64]
  std::int64_t* token_;
  std::int32_t* head_;
  const std::size_t bytes_;
  VisibleTile<T> visible_;
  // These rows.
  std::int64_t rows_ = 0, strips_ = 0, token_begin_ = 0;
  bool q_finite_ = true, d_out_finite_ = true;
  // This tile.
  std::int64_t k_begin_ = 0, k_count_ = 0;
  SeenColumns columns_[kMostStrips];
  Span spans_[kMostStrips];
  Ahead ahead_;
};

template <class T>
void run_backward(const BackwardParams& params, const BackwardBlock& block, std::int64_t tiles,
                  void* workspace) {
  Backward<T>(params, block, tiles, Arena(workspace)).run();
}

template <class T>
std::size_t backward_bytes(const BackwardParams& params, std::int64_t tiles) {
  const BackwardBlock block;
  return Backward<T>(params, block, tiles, Arena(nullptr)).bytes();
}

template <class T>
const BackwardKernel& backward_kernel_for() {
  static constexpr BackwardKernel kKernel{kBackwardRows<T>, &backward_bytes<T>, &prepare_rows<T>,
                                          &run_backward<T>};
  return kKernel;
}

const BackwardKernel& backward_kernel_of(DType dtype) {
  return dtype == DType::f64 ? backward_kernel_for<double>() : backward_kernel_for<float>();
}

}  // namespace attn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attn::kernels {

const BackwardKernel& backward_kernel(Isa isa, DType dtype) {
  ATTN_RETURN_BY_ISA(isa, backward_kernel_of(dtype));
}

}  // namespace attn::kernels
#endif

// A mask of bytes, read once, as the structure that it shows.
//
// Rows that are single runs of keys are compared with a band (causal, window) cut by the columns
// that a batch entry shows at all (padding). The guess is made from the rows that determine it and
// then checked against every row, so that what is returned shows exactly the pairs of the bytes.
#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "attn/mask.h"
#include "mask/node.h"

namespace attn {

namespace {

struct Run {
  std::int64_t begin = 0, end = 0;
  bool empty() const { return begin >= end; }
};

// The first nonzero byte of [from, to), or `to`.
std::int64_t first_visible(const std::uint8_t* row, std::int64_t from, std::int64_t to) {
  while (to - from >= 8) {
    std::uint64_t eight = 0;
    std::memcpy(&eight, row + from, 8);
    if (eight != 0) break;
    from += 8;
  }
  while (from < to && row[from] == 0) ++from;
  return from;
}

std::int64_t first_hidden(const std::uint8_t* row, std::int64_t from, std::int64_t to) {
  if (from >= to) return to;
  const void* hidden = std::memchr(row + from, 0, static_cast<std::size_t>(to - from));
  return hidden == nullptr ? to : static_cast<const std::uint8_t*>(hidden) - row;
}

// The row as one run; nothing if it has several.
std::optional<Run> run_of(const std::uint8_t* row, std::int64_t k_len) {
  const std::int64_t begin = first_visible(row, 0, k_len);
  const std::int64_t end = first_hidden(row, begin, k_len);
  if (first_visible(row, end, k_len) != k_len) return std::nullopt;
  return Run{begin, end};
}

// Keys q + first ... q + last, as far as they are given.
struct Band {
  std::optional<std::int64_t> first, last;

  Run of(std::int64_t q, Run columns) const {
    return {first ? std::max(columns.begin, q + *first) : columns.begin,
            last ? std::min(columns.end, q + *last + 1) : columns.end};
  }
};

class Runs {
 public:
  Runs(std::int64_t batch, std::int64_t q_len, std::int64_t k_len)
      : batch_(batch), q_len_(q_len), k_len_(k_len) {
    rows_.reserve(static_cast<std::size_t>(batch * q_len));
  }

  void add(Run row) { rows_.push_back(row); }

  std::optional<RecognizedMask> structure() const {
    std::vector<Run> columns;
    for (std::int64_t b = 0; b < batch_; ++b) columns.push_back(columns_of(b));
    const Band band = q_len_ > 1 ? band_of(columns) : Band{};
    for (std::int64_t b = 0; b < batch_; ++b) widen(b, band, columns[static_cast<std::size_t>(b)]);
    for (std::int64_t b = 0; b < batch_; ++b) {
      for (std::int64_t q = 0; q < q_len_; ++q) {
        const Run is = row(b, q), would_be = band.of(q, columns[static_cast<std::size_t>(b)]);
        const bool same =
            is.empty() ? would_be.empty() : is.begin == would_be.begin && is.end == would_be.end;
        if (!same) return std::nullopt;
      }
    }
    const std::optional<Mask> padding = padding_of(columns);
    if (!padding) return std::nullopt;
    return with_band(*padding, band);
  }

 private:
  const Run& row(std::int64_t b, std::int64_t q) const {
    return rows_[static_cast<std::size_t>(b * q_len_ + q)];
  }

  // What the rows of a batch entry show together.
  Run columns_of(std::int64_t b) const {
    Run columns{k_len_, 0};
    for (std::int64_t q = 0; q < q_len_; ++q) {
      if (row(b, q).empty()) continue;
      columns.begin = std::min(columns.begin, row(b, q).begin);
      columns.end = std::max(columns.end, row(b, q).end);
    }
    return columns.empty() ? Run{0, 0} : columns;
  }

  // A row that begins after, or ends before, its neighbours is cut by the band.
  Band band_of(const std::vector<Run>& columns) const {
    Band band;
    for (std::int64_t b = 0; b < batch_; ++b) {
      const Run& all = columns[static_cast<std::size_t>(b)];
      for (std::int64_t q = 0; q < q_len_; ++q) {
        const Run& r = row(b, q);
        if (r.empty()) continue;
        if (!band.first && r.begin > all.begin) band.first = r.begin - q;
        if (!band.last && r.end < all.end) band.last = r.end - 1 - q;
      }
    }
    return band;
  }

  // Columns that the band alone hides need no padding.
  void widen(std::int64_t b, const Band& band, Run& columns) const {
    bool left = false, right = false;
    const Run whole{0, k_len_};
    for (std::int64_t q = 0; q < q_len_; ++q) {
      if (row(b, q).empty()) {
        // Empty for its padding, unless the band alone leaves it nothing.
        if (!band.of(q, whole).empty()) left = right = true;
        continue;
      }
      left = left || row(b, q).begin > band.of(q, whole).begin;
      right = right || row(b, q).end < band.of(q, whole).end;
    }
    if (!left) columns.begin = 0;
    if (!right) columns.end = k_len_;
  }

  std::optional<Mask> padding_of(const std::vector<Run>& columns) const {
    bool right = true, left = true;
    std::vector<std::int64_t> lengths;
    for (const Run& c : columns) {
      lengths.push_back(c.end - c.begin);
      right = right && (c.empty() || c.begin == 0);
      left = left && (c.empty() || c.end == k_len_);
    }
    if (!right && !left) return std::nullopt;
    const auto whole = [&](std::int64_t n) { return n == k_len_; };
    if (std::all_of(lengths.begin(), lengths.end(), whole)) return Mask::full();
    return Mask::padding(lengths, right ? PaddingSide::right : PaddingSide::left);
  }

  // The band's upper end becomes the position of the query.
  RecognizedMask with_band(const Mask& padding, const Band& band) const {
    if (!band.first && !band.last) return {padding, 0};
    const bool padded = !std::holds_alternative<Mask::Node::Full>(padding.node().data);
    const std::int64_t start = band.last ? *band.last : std::max<std::int64_t>(0, *band.first);
    Mask mask = band.last ? Mask::causal() : Mask::window(start - *band.first, -1);
    if (band.first && band.last) mask = Mask::window(start - *band.first, 0);
    return {padded ? mask & padding : mask, start};
  }

  std::int64_t batch_, q_len_, k_len_;
  std::vector<Run> rows_;
};

}  // namespace

RecognizedMask recognize(const std::uint8_t* visible, const std::int64_t (&shape)[4],
                         const std::int64_t (&strides)[4]) {
  // An axis that repeats itself broadcasts.
  std::int64_t extents[4];
  for (int i = 0; i < 4; ++i) extents[i] = shape[i] > 1 && strides[i] == 0 ? 1 : shape[i];
  const auto [batch, heads, q_len, k_len] = extents;
  const auto dense = [&] { return RecognizedMask{Mask::dense(visible, extents, strides), 0}; };
  if (visible == nullptr || batch < 1 || heads != 1 || q_len < 1 || k_len < 2 || strides[3] != 1) {
    return dense();
  }
  Runs runs(batch, q_len, k_len);
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t q = 0; q < q_len; ++q) {
      const std::optional<Run> run = run_of(visible + b * strides[0] + q * strides[2], k_len);
      if (!run) return dense();
      runs.add(*run);
    }
  }
  if (const std::optional<RecognizedMask> found = runs.structure()) return *found;
  return dense();
}

}  // namespace attn

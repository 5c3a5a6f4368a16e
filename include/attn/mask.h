// Masks: which keys a query may see.
//
// A mask is an immutable value that knows no lengths. For every query row it is an ordered set of
// disjoint key intervals; `&` and `|` are set operations on them. Evaluated against a Geometry
// (lengths and positions) it answers exact questions without an Lq x Lk matrix, and a plan turns it
// into a schedule of tiles. Copies are cheap and share structure; all members are thread-safe.
//
// Positions, not indices, place queries and keys: by default key j stands at position j and query i
// at query_start + i. causal, window, dilated_window, global_tokens, blocks, documents and prefix
// read positions; padding, dense and predicate read indices.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace attn {

// Lengths and positions that a mask is evaluated against.
struct Geometry {
  std::int64_t batch = 1;
  std::int64_t heads = 1;  // query heads
  std::int64_t q_len = 0;
  std::int64_t k_len = 0;
  std::int64_t query_start = 0;                // position of query 0 when q_positions is empty
  std::vector<std::int64_t> q_positions = {};  // [q_len]; empty: query_start + i
  std::vector<std::int64_t> k_positions = {};  // [k_len]; empty: j

  std::int64_t q_position(std::int64_t i) const {
    return q_positions.empty() ? query_start + i : q_positions[static_cast<std::size_t>(i)];
  }
  std::int64_t k_position(std::int64_t j) const {
    return k_positions.empty() ? j : k_positions[static_cast<std::size_t>(j)];
  }
};

// Key indices begin, begin + step, ... below end.
struct Interval {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t step = 1;
  bool operator==(const Interval&) const = default;
};

enum class PaddingSide : std::uint8_t { right, left };

class Mask {
 public:
  // Called once a row; sets visible[j] to nonzero where query q of (batch, head) may see key j.
  // `visible` arrives zeroed. It must be a pure function; it may be called from several threads.
  using Predicate = std::function<void(std::int64_t batch, std::int64_t head, std::int64_t q,
                                       std::span<std::uint8_t> visible)>;

  Mask();  // full()

  static Mask full();
  // k_pos <= q_pos.
  static Mask causal();
  // q_pos - left <= k_pos <= q_pos + right, both ends inclusive; a negative side is unlimited.
  // Mistral's sliding_window W is window(W - 1, 0); Longformer's one-sided w is window(w, w).
  static Mask window(std::int64_t left, std::int64_t right);
  // Offsets -left*step, ..., -step, 0, step, ..., right*step: left and right count keys; a negative
  // side is unlimited. Step >= 1.
  static Mask dilated_window(std::int64_t left, std::int64_t right, std::int64_t step);
  // Pairs whose query or key stands at one of these positions.
  static Mask global_tokens(std::vector<std::int64_t> positions);
  // Pairs in the listed (query block, key block) squares of `size` positions.
  static Mask blocks(std::int64_t size,
                     std::vector<std::pair<std::int64_t, std::int64_t>> visible_blocks);
  // Packed documents of these lengths, from position 0: a query sees its own document only.
  // Positions past the last document see nothing.
  static Mask documents(std::vector<std::int64_t> lengths);
  // Keys at positions below n, from everywhere (prefix-LM: causal() | prefix(n)).
  static Mask prefix(std::int64_t n);
  // Sequence b has lengths[b] real keys, first (right padding) or last (left padding); padded
  // keys are hidden. One length serves every batch entry.
  static Mask padding(std::vector<std::int64_t> lengths, PaddingSide side = PaddingSide::right);
  // Nonzero = may see. `shape` [B|1, H|1, Lq|1, Lk|1] broadcasts; `strides` in bytes. Copied, as
  // bits.
  static Mask dense(const std::uint8_t* visible, const std::int64_t (&shape)[4],
                    const std::int64_t (&strides)[4]);
  // Contiguous.
  static Mask dense(const std::uint8_t* visible, const std::int64_t (&shape)[4]);
  // Asked for every row of every (batch, head) when a plan is made; the plan keeps the bits of
  // tiles that are neither empty nor full, so it costs memory where structured masks do not.
  static Mask predicate(Predicate f);
  // One mask a query head (or a batch entry). The list must be as long as the heads (the batch)
  // that it meets, and its masks must not be per-head (per-batch) themselves.
  static Mask per_head(std::vector<Mask> masks);
  static Mask per_batch(std::vector<Mask> masks);

  friend Mask operator&(const Mask& a, const Mask& b);
  friend Mask operator|(const Mask& a, const Mask& b);

  // Exact answers. All throw std::invalid_argument when the mask does not fit the geometry
  // (lists of other lengths, positions not increasing under causal or window).
  //
  // Visible pairs, summed over batch and heads.
  std::int64_t pairs(const Geometry& geometry) const;
  // Indices of the queries of (batch, head) that see no key.
  std::vector<std::int64_t> empty_rows(const Geometry& geometry, std::int64_t batch = 0,
                                       std::int64_t head = 0) const;
  // Does any query, in any batch entry and head, see a key at a later position?
  bool sees_future(const Geometry& geometry) const;
  bool visible(const Geometry& geometry, std::int64_t batch, std::int64_t head, std::int64_t q,
               std::int64_t k) const;
  // Sorted, disjoint, merged intervals of one row.
  std::vector<Interval> row(const Geometry& geometry, std::int64_t batch, std::int64_t head,
                            std::int64_t q) const;

  // Pictures of one (batch, head), rows are queries; lengths above `cells` are pooled and a cell
  // shows how full it is. ASCII for terminals, SVG for documents.
  std::string ascii(const Geometry& geometry, std::int64_t cells = 32, std::int64_t batch = 0,
                    std::int64_t head = 0) const;
  std::string svg(const Geometry& geometry, std::int64_t cells = 64, std::int64_t batch = 0,
                  std::int64_t head = 0) const;

  // "causal & window(255, 0)". dense and predicate are named only.
  std::string to_string() const;
  // The inverse, for command lines: "causal & (window(255, 0) | global(0))", or "window:255,0".
  //   mask  = all { "|" all }              all  = one { "&" one }
  //   one   = "(" mask ")" | name | name "(" list ")" | name ":" list
  //   names = full, causal, window(left, right), dilated(left, right, step), global(positions),
  //           blocks(size; q-k, q-k, ...), documents(lengths), prefix(n), padding(lengths),
  //           padding-left(lengths), per_head(mask; mask; ...), per_batch(mask; mask; ...)
  // Spaces are free, _ and - the same in names; blocks(size;) lists no pair. Throws
  // std::invalid_argument with the column of what it does not understand and what is known.
  static Mask parse(const std::string& text);

  struct Node;
  const Node& node() const { return *node_; }  // for the library's own rooms
  explicit Mask(std::shared_ptr<const Node> node) : node_(std::move(node)) {}

 private:
  std::shared_ptr<const Node> node_;
};

// Bytes as in Mask::dense, read once: the structure that they show, when it is causal, a window,
// padding or those together, else dense. Shows exactly the same pairs, at this query_start, to
// shape[2] queries and shape[3] keys.
struct RecognizedMask {
  Mask mask;
  std::int64_t query_start = 0;
};
RecognizedMask recognize(const std::uint8_t* visible, const std::int64_t (&shape)[4],
                         const std::int64_t (&strides)[4]);

}  // namespace attn

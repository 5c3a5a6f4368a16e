// Masks: which keys a query may see.
//
// A mask is an immutable value that knows no lengths. For every query row it is an ordered set of
// disjoint key intervals; `&` and `|` are set operations on them. Evaluated against a Geometry
// (lengths and positions) it answers exact questions without an Lq x Lk matrix, and a plan turns it
// into a schedule of tiles. Copies are cheap and share structure; all members are thread-safe.
//
// Positions, not indices, place queries and keys: by default key j stands at position j and query i
// at query_start + i. causal, window, dilated_window, global_tokens, documents, prefix and masks of
// blocks read positions; padding, dense and predicate read indices.
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

// Blocks drawn at random (BigBird, arXiv 2007.14062). Blocks of `size` positions are counted from
// position 0; n of them reach to the last key. A query in block i, first <= i < n - last, sees
// `count` blocks c of those with first <= c < n - last and |c - i| > band, each set of so many
// blocks being equally likely; all of them when they are no more than `count`. Other queries see
// nothing: the blocks at both ends, and those near i, are left to global_blocks and block_window,
// so that nothing is drawn that they hold.
//
// Heads draw for themselves, batch entries alike. What a row of blocks draws depends on the seed,
// the head, i and n alone. Of m blocks in ascending order, draw d = 0 ... count - 1 takes (Floyd's
// sampling) the one at floor(x (j + 1) / 2^64), j = m - count + d, or the one at j if that is
// taken; x is words 0 (low) and 1 of Philox4x32-10 with key `seed` and counter (d, i, head, 2^32 -
// 1).
struct RandomBlocks {
  std::int64_t size = 64;  // at least 1
  std::int64_t count = 3;  // 0...65,536
  std::uint64_t seed = 0;
  std::int64_t band = 1, first = 1, last = 1;  // not negative
};

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
  // Keys from `left` blocks of `size` positions before the query's own to `right` blocks after it,
  // all of each; a negative side is unlimited.
  static Mask block_window(std::int64_t size, std::int64_t left, std::int64_t right);
  // Pairs whose query or key stands in the first `first` blocks of `size` positions, or in the last
  // `last` of those that reach from position 0 to the last key.
  static Mask global_blocks(std::int64_t size, std::int64_t first, std::int64_t last);
  static Mask random_blocks(const RandomBlocks& blocks);
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

  // Patterns of whole models, composed of the masks above.
  //
  // Longformer (arXiv 2004.05150): w keys on each side, `dilation` apart, and global tokens.
  // Hugging Face's attention_window is 2 w. For another dilation in each head: per_head.
  static Mask longformer(std::int64_t w, std::vector<std::int64_t> global_positions,
                         std::int64_t dilation = 1);
  // BigBird (arXiv 2007.14062), internal: the first and the last block are global, a block sees its
  // neighbours, and `random` more.
  static Mask bigbird(std::int64_t size = 64, std::int64_t random = 3, std::uint64_t seed = 0);
  // BigBird, extended: the first `global_tokens` positions are global in place of whole blocks.
  static Mask bigbird_extended(std::int64_t global_tokens, std::int64_t size = 64,
                               std::int64_t random = 3, std::uint64_t seed = 0);

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
  //           blocks(size; q-k, q-k, ...), block_window(size, left, right),
  //           global_blocks(size, first, last), random_blocks(size, count, seed) or
  //           random_blocks(size, count, seed, band, first, last) with a seed of 2^63 or more less
  //           2^64, bigbird(size, random, seed), documents(lengths), prefix(n), padding(lengths),
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

// The factories of Mask: validation and normal form of a mask's own data.
#include "attn/mask.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "mask/intervals.h"
#include "mask/node.h"

namespace attn {
namespace {

using Node = Mask::Node;

template <typename T>
Mask make(T data) {
  return Mask(std::make_shared<const Node>(Node{std::move(data)}));
}

// The bits of eight bytes: bit i is set where byte i is nonzero. `bytes` little-endian.
std::uint64_t pack8(std::uint64_t bytes) {
  constexpr std::uint64_t low = 0x7f7f7f7f7f7f7f7f;
  const std::uint64_t nonzero = ((((bytes & low) + low) | bytes) & ~low) >> 7;
  return (nonzero * 0x0102040810204080) >> 56;
}

void pack_row(const std::uint8_t* visible, std::int64_t length, std::int64_t stride,
              std::uint64_t* words) {
  std::int64_t j = 0;
  if (stride == 1) {
    for (; j + 8 <= length; j += 8) {
      std::uint64_t bytes = 0;
      for (int i = 7; i >= 0; --i) bytes = bytes << 8 | visible[j + i];
      words[j / 64] |= pack8(bytes) << (j % 64);
    }
  }
  for (; j < length; ++j) {
    if (visible[j * stride] != 0) words[j / 64] |= std::uint64_t{1} << (j % 64);
  }
}

// True when `T` occurs in the mask, at any depth.
template <typename T>
bool holds(const Mask& mask) {
  const auto any = [](const std::vector<Mask>& masks) {
    return std::any_of(masks.begin(), masks.end(), [](const Mask& part) { return holds<T>(part); });
  };
  const auto& data = mask.node().data;
  if (std::holds_alternative<T>(data)) return true;
  if (const auto* all = std::get_if<Node::All>(&data)) return any(all->masks);
  if (const auto* some = std::get_if<Node::Any>(&data)) return any(some->masks);
  if (const auto* heads = std::get_if<Node::PerHead>(&data)) return any(heads->masks);
  if (const auto* batch = std::get_if<Node::PerBatch>(&data)) return any(batch->masks);
  return false;
}

template <typename T>
Mask list_of(std::vector<Mask> masks, const std::string& name) {
  if (masks.empty()) throw std::invalid_argument("[mask] " + name + " needs at least one mask");
  for (std::size_t i = 0; i < masks.size(); ++i) {
    if (holds<T>(masks[i])) {
      throw std::invalid_argument("[mask] mask " + std::to_string(i) + " of " + name +
                                  " contains a " + name + " itself");
    }
  }
  return make(T{std::move(masks)});
}

// Lists of the same operation join, so that long chains do not nest.
template <typename T>
Mask join(const Mask& a, const Mask& b) {
  T joined;
  for (const Mask* mask : {&a, &b}) {
    if (const auto* same = std::get_if<T>(&mask->node().data)) {
      joined.masks.insert(joined.masks.end(), same->masks.begin(), same->masks.end());
    } else {
      joined.masks.push_back(*mask);
    }
  }
  return make(std::move(joined));
}

void need_least(const char* name, const char* what, std::int64_t value, std::int64_t least) {
  if (value >= least) return;
  throw std::invalid_argument("[mask] " + std::string(name) + " has " + what + " " +
                              std::to_string(value) + ", which must be at least " +
                              std::to_string(least));
}

template <typename T>
void sort_unique(std::vector<T>& list) {
  std::sort(list.begin(), list.end());
  list.erase(std::unique(list.begin(), list.end()), list.end());
}

}  // namespace

Mask::Mask() : Mask(full()) {}

Mask Mask::full() {
  static const Mask mask = make(Node::Full{});
  return mask;
}

Mask Mask::causal() {
  static const Mask mask = make(Node::Causal{});
  return mask;
}

Mask Mask::window(std::int64_t left, std::int64_t right) { return make(Node::Window{left, right}); }

Mask Mask::dilated_window(std::int64_t left, std::int64_t right, std::int64_t step) {
  need_least("dilated_window", "step", step, 1);
  return make(Node::DilatedWindow{left, right, step});
}

Mask Mask::global_tokens(std::vector<std::int64_t> positions) {
  sort_unique(positions);
  return make(Node::GlobalTokens{std::move(positions)});
}

Mask Mask::blocks(std::int64_t size,
                  std::vector<std::pair<std::int64_t, std::int64_t>> visible_blocks) {
  need_least("blocks", "size", size, 1);
  sort_unique(visible_blocks);
  return make(Node::Blocks{size, std::move(visible_blocks)});
}

Mask Mask::block_window(std::int64_t size, std::int64_t left, std::int64_t right) {
  need_least("block_window", "size", size, 1);
  return make(Node::BlockWindow{size, left, right});
}

Mask Mask::global_blocks(std::int64_t size, std::int64_t first, std::int64_t last) {
  need_least("global_blocks", "size", size, 1);
  need_least("global_blocks", "first", first, 0);
  need_least("global_blocks", "last", last, 0);
  return make(Node::GlobalBlocks{size, first, last});
}

Mask Mask::random_blocks(const RandomBlocks& blocks) {
  constexpr const char* kName = "random_blocks";
  constexpr std::int64_t kMost = 65536;
  need_least(kName, "size", blocks.size, 1);
  need_least(kName, "count", blocks.count, 0);
  need_least(kName, "band", blocks.band, 0);
  need_least(kName, "first", blocks.first, 0);
  need_least(kName, "last", blocks.last, 0);
  if (blocks.count > kMost) {
    throw std::invalid_argument("[mask] random_blocks has count " + std::to_string(blocks.count) +
                                ", which must be at most " + std::to_string(kMost));
  }
  return make(Node::DrawnBlocks{blocks});
}

Mask Mask::longformer(std::int64_t w, std::vector<std::int64_t> global_positions,
                      std::int64_t dilation) {
  need_least("longformer", "w", w, 0);
  const Mask near = dilation == 1 ? window(w, w) : dilated_window(w, w, dilation);
  return global_positions.empty() ? near : near | global_tokens(std::move(global_positions));
}

Mask Mask::bigbird(std::int64_t size, std::int64_t random, std::uint64_t seed) {
  return block_window(size, 1, 1) | global_blocks(size, 1, 1) |
         random_blocks({.size = size, .count = random, .seed = seed});
}

Mask Mask::bigbird_extended(std::int64_t tokens, std::int64_t size, std::int64_t random,
                            std::uint64_t seed) {
  need_least("bigbird_extended", "global_tokens", tokens, 0);
  need_least("bigbird_extended", "size", size, 1);
  // A block that holds global tokens and others may be drawn.
  const RandomBlocks drawn{
      .size = size, .count = random, .seed = seed, .first = tokens / size, .last = 0};
  return block_window(size, 1, 1) | global_blocks(1, tokens, 0) | random_blocks(drawn);
}

Mask Mask::documents(std::vector<std::int64_t> lengths) {
  std::int64_t end = 0;
  for (std::size_t d = 0; d < lengths.size(); ++d) {
    if (lengths[d] < 0 || lengths[d] > std::numeric_limits<std::int64_t>::max() - end) {
      throw std::invalid_argument("[mask] document " + std::to_string(d) + " has length " +
                                  std::to_string(lengths[d]));
    }
    end += lengths[d];
    lengths[d] = end;
  }
  return make(Node::Documents{std::move(lengths)});
}

Mask Mask::prefix(std::int64_t n) { return make(Node::Prefix{n}); }

Mask Mask::padding(std::vector<std::int64_t> lengths, PaddingSide side) {
  if (lengths.empty()) throw std::invalid_argument("[mask] padding needs at least one length");
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    if (lengths[b] < 0) {
      throw std::invalid_argument("[mask] padding length " + std::to_string(b) + " is " +
                                  std::to_string(lengths[b]));
    }
  }
  return make(Node::Padding{std::move(lengths), side});
}

Mask Mask::dense(const std::uint8_t* visible, const std::int64_t (&shape)[4],
                 const std::int64_t (&strides)[4]) {
  Node::Dense dense;
  std::copy(std::begin(shape), std::end(shape), dense.shape.begin());
  std::int64_t cells = 1;
  bool fits = true;
  for (const std::int64_t extent : shape) fits = fits && extent >= 0;
  if (fits && std::find(std::begin(shape), std::end(shape), 0) != std::end(shape)) cells = 0;
  for (const std::int64_t extent : shape) {
    fits = fits && !__builtin_mul_overflow(cells, cells == 0 ? 1 : extent, &cells);
  }
  if (!fits || (cells > 0 && visible == nullptr)) {
    std::string text;
    for (const std::int64_t extent : shape) {
      text += (text.empty() ? "" : ", ") + std::to_string(extent);
    }
    throw std::invalid_argument("[mask] dense has shape [" + text + "]" +
                                (fits ? " and no data" : ""));
  }
  dense.row_words = words_for(shape[3]);
  if (cells == 0) return make(std::move(dense));
  dense.words.assign(static_cast<std::size_t>(cells / shape[3] * dense.row_words), 0);
  std::uint64_t* row = dense.words.data();
  for (std::int64_t b = 0; b < shape[0]; ++b) {
    for (std::int64_t h = 0; h < shape[1]; ++h) {
      for (std::int64_t q = 0; q < shape[2]; ++q, row += dense.row_words) {
        pack_row(visible + b * strides[0] + h * strides[1] + q * strides[2], shape[3], strides[3],
                 row);
      }
    }
  }
  return make(std::move(dense));
}

Mask Mask::dense(const std::uint8_t* visible, const std::int64_t (&shape)[4]) {
  std::int64_t strides[4] = {0, 0, 0, 1};
  for (int axis = 2; axis >= 0; --axis) {  // a product that overflows is an error below
    if (__builtin_mul_overflow(strides[axis + 1], shape[axis + 1], &strides[axis])) {
      strides[axis] = 0;
    }
  }
  return dense(visible, shape, strides);
}

Mask Mask::predicate(Predicate f) {
  if (!f) throw std::invalid_argument("[mask] predicate is an empty function");
  return make(Node::Custom{std::move(f)});
}

Mask Mask::per_head(std::vector<Mask> masks) {
  return list_of<Node::PerHead>(std::move(masks), "per_head");
}

Mask Mask::per_batch(std::vector<Mask> masks) {
  return list_of<Node::PerBatch>(std::move(masks), "per_batch");
}

Mask operator&(const Mask& a, const Mask& b) { return join<Node::All>(a, b); }

Mask operator|(const Mask& a, const Mask& b) { return join<Node::Any>(a, b); }

}  // namespace attn

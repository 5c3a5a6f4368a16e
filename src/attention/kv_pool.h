// Memory of a key/value cache: pages of token rows, the same page numbers in every layer, and how
// many sequences hold each.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "attn/kv_cache.h"

namespace attn {

class KvPool {
 public:
  // `panel`: keys of a packed panel, 0 for rows. Options are checked already, v_width filled in.
  KvPool(const KvCacheOptions& options, std::int64_t panel);

  std::int64_t free_pages() const { return static_cast<std::int64_t>(free_.size()); }
  std::int64_t shared_pages() const;
  std::int64_t page_bytes() const;
  std::int64_t panel() const { return panel_; }

  // A page that nobody else holds; there must be a free one.
  std::int64_t take() noexcept;
  void hold(std::int64_t page) noexcept { ++holders_[static_cast<std::size_t>(page)]; }
  void release(std::int64_t page) noexcept;
  std::int64_t holders(std::int64_t page) const { return holders_[static_cast<std::size_t>(page)]; }

  // Tokens [first, first + count) of k and v to consecutive rows of the pool, in the kept type.
  void write(std::int64_t layer, std::int64_t row, const ConstTensor& k, const ConstTensor& v,
             std::int64_t first, std::int64_t count);
  // Rows [from, from + count) of all layers to rows from `to`, ascending.
  void move(std::int64_t from, std::int64_t to, std::int64_t count);

  // A layer, [1, Hkv, rows, width]; of scales the width is 1, and empty without them.
  ConstTensor keys(std::int64_t layer) const { return k_.view(layer); }
  ConstTensor values(std::int64_t layer) const { return v_.view(layer); }
  ConstTensor key_scales(std::int64_t layer) const { return k_scale_.view(layer); }
  ConstTensor value_scales(std::int64_t layer) const { return v_scale_.view(layer); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(std::byte* p) const { ::operator delete(p, kAlignment); }
  };
  // [layers][heads][rows][width], with a panel [layers][heads][rows / panel][width][panel].
  struct Store {
    std::unique_ptr<std::byte[], Free> memory;
    DType dtype = DType::f32;
    std::int64_t heads = 0, rows = 0, width = 0, panel = 0;

    void allocate(std::int64_t layers);
    std::int64_t element_bytes() const { return static_cast<std::int64_t>(size_of(dtype)); }
    std::byte* at(std::int64_t layer, std::int64_t head, std::int64_t row) const;
    ConstTensor view(std::int64_t layer) const;
    void move(std::int64_t layer, std::int64_t from, std::int64_t to, std::int64_t count) const;
  };

  static void write_rows(const Store& store, const Store& scales, std::int64_t layer,
                         std::int64_t row, const ConstTensor& x, std::int64_t first,
                         std::int64_t count);

  std::int64_t layers_, page_tokens_, panel_;
  Store k_, v_, k_scale_, v_scale_;
  std::vector<std::int32_t> holders_;
  std::vector<std::int64_t> free_;  // the last one is taken next, so that used memory is used again
};

}  // namespace attn

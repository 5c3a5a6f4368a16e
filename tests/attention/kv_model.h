// A plain model of a key/value cache: each sequence is a list of tokens, and what a token holds
// follows from its number.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "attention/cases.h"
#include "attn/kv_cache.h"

namespace attn::test {

// Everything that a cache has not written is NaN: no result may depend on it.
inline void poison_pool(KvCache& cache) {
  const KvBatch nobody = cache.batch({});
  for (std::int64_t layer = 0; layer < cache.options().layers; ++layer) {
    const KeyValue kv = cache.view(layer, nobody);
    for (const ConstTensor* t : {&kv.k, &kv.v, &kv.k_scale, &kv.v_scale}) {
      if (t->empty()) continue;
      std::memset(const_cast<void*>(t->data), 0xff,
                  static_cast<std::size_t>(t->size()) * size_of(t->dtype));
    }
  }
}

// Elements of token `number`; in one of 16 tokens they are large, in one all zero.
inline void token_row(std::uint64_t number, std::int64_t layer, std::int64_t head, bool value,
                      std::int64_t width, float* out) {
  Random random(number * 977 + static_cast<std::uint64_t>((layer * 31 + head) * 2 + value));
  const double size = number % 16 == 7 ? 8 : number % 16 == 11 ? 0 : 1;
  for (std::int64_t i = 0; i < width; ++i)
    out[i] = static_cast<float>(size * (2 * random.uniform() - 1));
}

// Rows [1, heads, tokens, width] of tokens, in [B, L, H, D] memory.
struct TokenRows {
  std::vector<float> values;
  ConstTensor view;

  TokenRows(const std::vector<std::uint64_t>& tokens, std::int64_t layer, std::int64_t heads,
            std::int64_t width, bool value) {
    const auto n = static_cast<std::int64_t>(tokens.size());
    values.resize(static_cast<std::size_t>(n * heads * width + 1));  // an address for none, too
    view = ConstTensor::blhd(values.data(), {1, heads, n, width});
    for (std::int64_t l = 0; l < n; ++l) {
      for (std::int64_t h = 0; h < heads; ++h) {
        token_row(tokens[static_cast<std::size_t>(l)], layer, h, value, width,
                  const_cast<float*>(view.row<float>(0, h, l)));
      }
    }
  }
};

// What the cache should hold of a row.
inline void as_kept(DType dtype, std::vector<float>& row) {
  if (dtype == DType::bf16) {
    for (float& x : row) x = to_float(to_bfloat16(x));
  } else if (dtype == DType::f16) {
    for (float& x : row) x = to_float(to_float16(x));
  } else if (dtype == DType::i8) {
    float largest = 0;
    for (float x : row) largest = std::max(largest, std::abs(x));
    const float scale = largest / 127;
    for (float& x : row) x = scale > 0 ? std::nearbyint(x / scale) * scale : 0;
  }
}

// Where an element of a pool's row is.
inline std::int64_t pool_offset(const ConstTensor& pool, std::int64_t panel, std::int64_t head,
                                std::int64_t row, std::int64_t i) {
  return head * pool.strides[1] +
         (panel == 0 ? row * pool.strides[2] + i
                     : row / panel * panel * pool.width() + i * panel + row % panel);
}

// The element as a float.
inline float kept_element(const ConstTensor& pool, const ConstTensor& scale, std::int64_t panel,
                          std::int64_t head, std::int64_t row, std::int64_t i) {
  const std::int64_t at = pool_offset(pool, panel, head, row, i);
  switch (pool.dtype) {
    case DType::f32: return static_cast<const float*>(pool.data)[at];
    case DType::f64: return static_cast<float>(static_cast<const double*>(pool.data)[at]);
    case DType::bf16: return to_float(static_cast<const BFloat16*>(pool.data)[at]);
    case DType::f16: return to_float(static_cast<const Float16*>(pool.data)[at]);
    case DType::i8:
      return static_cast<float>(static_cast<const std::int8_t*>(pool.data)[at]) *
             *scale.row<float>(0, head, row);
  }
  return 0;
}

// Keys (or values) of a batch's sequence as the cache holds them, [heads][length][width].
inline std::vector<float> gather(const KeyValue& kv, const KvBatch& batch, std::size_t sequence,
                                 bool value) {
  const ConstTensor& pool = value ? kv.v : kv.k;
  const ConstTensor& scale = value ? kv.v_scale : kv.k_scale;
  const Pages& pages = *kv.pages;
  const std::int64_t length =
      batch.ragged().k_offsets[sequence + 1] - batch.ragged().k_offsets[sequence];
  std::vector<float> rows;
  for (std::int64_t head = 0; head < pool.heads(); ++head) {
    std::int64_t run = pages.run_begin[sequence];
    for (std::int64_t key = 0; key < length; ++key) {
      const std::int64_t end = pages.run_begin[sequence + 1];
      while (run + 1 < end && pages.runs[static_cast<std::size_t>(run) + 1].begin <= key) ++run;
      const PageRun& at = pages.runs[static_cast<std::size_t>(run)];
      for (std::int64_t i = 0; i < pool.width(); ++i) {
        rows.push_back(
            kept_element(pool, scale, value ? 0 : kv.k_panel, head, at.row + key - at.begin, i));
      }
    }
  }
  return rows;
}

struct ModelSequence {
  std::vector<std::uint64_t> tokens;
  std::vector<std::int64_t> positions;
  std::int64_t next = 0;
};

// A cache and its model, changed together.
struct ModelledCache {
  KvCache cache;
  std::map<SequenceId, ModelSequence> model;
  std::uint64_t last_token = 0;

  explicit ModelledCache(const KvCacheOptions& options, const Context& context = Context())
      : cache(options, context) {
    poison_pool(cache);
  }

  SequenceId create() {
    const SequenceId id = cache.create();
    model[id];
    return id;
  }
  SequenceId fork(SequenceId id) {
    const SequenceId copy = cache.fork(id);
    model[copy] = model.at(id);
    return copy;
  }
  // Appends and writes new tokens, a layer in chunks of at most `chunk`; throws with nothing
  // changed.
  void append(SequenceId id, std::int64_t count, std::int64_t chunk = 1 << 20) {
    cache.append(id, count);
    ModelSequence& s = model.at(id);
    std::vector<std::uint64_t> added;
    for (std::int64_t i = 0; i < count; ++i) {
      added.push_back(++last_token);
      s.tokens.push_back(last_token);
      s.positions.push_back(s.next++);
    }
    const KvCacheOptions& o = cache.options();
    for (std::int64_t layer = 0; layer < o.layers; ++layer) {
      for (std::int64_t begin = 0; begin < count; begin += chunk) {
        const std::vector<std::uint64_t> part(added.begin() + begin,
                                              added.begin() + std::min(begin + chunk, count));
        const TokenRows k(part, layer, o.kv_heads, o.width, false);
        const TokenRows v(part, layer, o.kv_heads, o.v_width, true);
        cache.write(layer, id, k.view, v.view);
      }
    }
  }
  void truncate(SequenceId id, std::int64_t length) {
    cache.truncate(id, length);
    ModelSequence& s = model.at(id);
    const auto n = static_cast<std::size_t>(length);
    if (n == s.tokens.size()) return;
    s.next = s.positions[n];
    s.tokens.resize(n);
    s.positions.resize(n);
  }
  void evict(SequenceId id, std::int64_t sinks, std::int64_t window) {
    ModelSequence& s = model.at(id);
    const auto length = static_cast<std::int64_t>(s.tokens.size());
    const std::int64_t expected = std::max<std::int64_t>(length - sinks - window, 0);
    const std::int64_t dropped = cache.evict(id, sinks, window);
    if (dropped != expected) throw std::logic_error("evicted " + std::to_string(dropped));
    if (dropped == 0) return;
    s.tokens.erase(s.tokens.begin() + sinks, s.tokens.begin() + sinks + dropped);
    s.positions.erase(s.positions.begin() + sinks, s.positions.begin() + sinks + dropped);
  }
  void drop(SequenceId id) {
    cache.drop(id);
    model.erase(id);
  }

  // Empty when the cache holds what the model does and no page is lost or held twice; otherwise
  // what is wrong.
  std::string difference() {
    const KvCacheOptions& o = cache.options();
    std::vector<SequenceId> ids;
    std::int64_t tokens = 0;
    for (const auto& [id, s] : model) {
      ids.push_back(id);
      const auto length = static_cast<std::int64_t>(s.tokens.size());
      tokens += length;
      const std::string who = "sequence " + std::to_string(id);
      if (cache.length(id) != length) return who + ": length";
      if (cache.seen(id) != s.next) return who + ": seen";
      if (cache.original_positions(id) != s.positions) return who + ": positions";
    }
    const KvBatch batch = cache.batch(ids);
    for (std::int64_t layer = 0; layer < o.layers; ++layer) {
      const KeyValue kv = cache.view(layer, batch);
      for (std::size_t i = 0; i < ids.size(); ++i) {
        for (const bool value : {false, true}) {
          std::vector<float> expected;
          const std::int64_t width = value ? o.v_width : o.width;
          std::vector<float> row(static_cast<std::size_t>(width));
          for (std::int64_t head = 0; head < o.kv_heads; ++head) {
            for (const std::uint64_t token : model.at(ids[i]).tokens) {
              token_row(token, layer, head, value, width, row.data());
              as_kept(o.dtype, row);
              expected.insert(expected.end(), row.begin(), row.end());
            }
          }
          if (gather(kv, batch, i, value) != expected)
            return "sequence " + std::to_string(ids[i]) + ": contents";
        }
      }
    }
    // Pages that runs touch, by how many sequences.
    std::map<std::int64_t, std::set<std::size_t>> holders;
    const KeyValue kv = cache.view(0, batch);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      for (std::int64_t r = kv.pages->run_begin[i]; r < kv.pages->run_begin[i + 1]; ++r) {
        const PageRun& run = kv.pages->runs[static_cast<std::size_t>(r)];
        const std::int64_t end = r + 1 < kv.pages->run_begin[i + 1]
                                     ? kv.pages->runs[static_cast<std::size_t>(r) + 1].begin
                                     : static_cast<std::int64_t>(model.at(ids[i]).tokens.size());
        if (kv.k_panel > 0 && (run.row - run.begin) % kv.k_panel != 0) return "run off its panel";
        for (std::int64_t row = run.row; row < run.row + end - run.begin; ++row)
          holders[row / o.page_tokens].insert(i);
      }
    }
    std::int64_t shared = 0;
    for (const auto& [page, by] : holders) shared += by.size() > 1 ? 1 : 0;
    const KvCacheUse use = cache.use();
    if (use.sequences != static_cast<std::int64_t>(ids.size())) return "use: sequences";
    if (use.tokens != tokens) return "use: tokens";
    if (use.shared_pages != shared) return "use: shared pages";
    if (use.pages - use.free_pages != static_cast<std::int64_t>(holders.size()))
      return "use: " + std::to_string(use.pages - use.free_pages) + " pages held, " +
             std::to_string(holders.size()) + " needed";
    return "";
  }
};

}  // namespace attn::test

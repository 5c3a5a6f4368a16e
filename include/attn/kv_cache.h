// The keys and values of sequences that grow: decoding, chats with a shared prompt, endless
// streams.
//
//   attn::KvCache cache({.kv_heads = 8, .width = 128, .dtype = attn::DType::bf16, .pages = 512});
//   const attn::SequenceId id = cache.create();
//   cache.append(id, n);                        // room for n tokens, in all layers
//   const attn::KvBatch batch = cache.batch({id}, {n});      // n queries, at the last n tokens
//   auto plan = attn::plan(batch.shape(32),
//                          batch.options({.mask = attn::Mask::causal()}), context);
//   for (layer ...) {
//     cache.write(layer, batch, k, v);          // [1, 8, n, 128]
//     plan.run(q, cache.view(layer, batch), out);
//   }
//
// Memory is one pool of pages, made once and committed by the system when first written. A page
// holds `page_tokens` consecutive tokens, in every layer; a sequence is a list of pages, and pages
// of a common prefix are shared until somebody appends to one (copy on write). With page_tokens the
// longest length and one page a sequence, sequences are contiguous. Evicted sequences keep their
// keys where they are, so that eviction moves nothing (but see packed_keys).
//
// Wrong arguments throw std::invalid_argument, a full pool throws attn::Error; either leaves the
// cache as it was. One thread at a time may change a cache; views may be read by many.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "attn/attention.h"
#include "attn/context.h"
#include "attn/position.h"
#include "attn/tensor.h"

namespace attn {

// Names a sequence of one cache; never used twice.
using SequenceId = std::int64_t;

// What the position of a token is once others were evicted.
enum class CachePositions : std::uint8_t {
  in_cache,  // its index among the kept ones, as StreamingLLM (arXiv 2309.17453, 3.2) counts
  original   // its index in the whole text
};

struct KvCacheOptions {
  std::int64_t layers = 1;
  std::int64_t kv_heads = 1;
  std::int64_t width = 0;         // of a key, 1...1024
  std::int64_t v_width = 0;       // of a value; 0: as width
  DType dtype = DType::f32;       // of keys and values as they are kept
  std::int64_t pages = 0;         // of the pool, for all sequences
  std::int64_t page_tokens = 64;  // tokens a page
  // Keep keys in the panels that the kernel of the cache's context reads (its plans must use the
  // same instruction set), which spares decoding the packing. page_tokens must be a multiple of the
  // panel (16 with AVX2, 32 with AVX-512). Eviction then moves the kept keys and values, unless
  // both `sinks` and the number of evicted tokens are multiples of the panel.
  bool packed_keys = false;
  // Keys are kept as they were before this rotation, and rotated when they are read: needed when
  // the base moves (dynamic NTK) or positions do (eviction, positions in the cache). Not with
  // float64. Without it, write keys that are rotated already, or need no rotation.
  std::optional<RopeOptions> rotation = {};
  // For rotation, and for masks and ALiBi by KvBatch::options.
  CachePositions positions = CachePositions::in_cache;
};

// What a cache holds now.
struct KvCacheUse {
  std::int64_t sequences = 0;
  std::int64_t tokens = 0;  // over all sequences, shared ones counted for each
  std::int64_t pages = 0, free_pages = 0;
  std::int64_t shared_pages = 0;  // held by two sequences or more
  std::int64_t page_bytes = 0;    // of one page: all layers and heads, keys, values and scales
  std::int64_t pool_bytes = 0;    // pages * page_bytes: address space, not all of it committed
};

struct KvAngles;  // cosines and sines of a rotation

// Some sequences of a cache and their newest queries, for one step of all layers: where keys lie,
// lengths, rotation. A snapshot: after append, truncate, evict or drop make a new one.
class KvBatch {
 public:
  const std::vector<SequenceId>& sequences() const { return sequences_; }
  const Ragged& ragged() const { return ragged_; }
  // Positions of queries and of keys, one sequence after the other.
  const std::vector<std::int64_t>& q_positions() const { return q_positions_; }
  const std::vector<std::int64_t>& k_positions() const { return k_positions_; }

  // Of the plan for these sequences: batch 1, q_len the queries of all, k_len the keys of all.
  AttentionShape shape(std::int64_t q_heads, DType q_dtype = DType::f32) const;
  // `given` with the sequences in `ragged`; masks and scores count sequence i as batch entry i.
  // With CachePositions::original and after an eviction, the positions instead, for one sequence a
  // batch (more throw). Throws when `given` has lengths or positions of its own.
  AttentionOptions options(AttentionOptions given = {}) const;

 private:
  friend class KvCache;
  std::uint64_t version_ = 0;  // of the cache that it describes
  std::int64_t kv_heads_ = 1, width_ = 0, v_width_ = 0;
  DType dtype_ = DType::f32;
  std::vector<SequenceId> sequences_;
  Ragged ragged_;
  Pages pages_;
  std::vector<std::int64_t> q_positions_, k_positions_;
  bool moved_ = false;  // some position is not the index in the cache, and counts
  std::shared_ptr<const KvAngles> angles_;
  std::vector<std::int64_t> angle_row_;  // [sequences]: of key 0
  KeyRotation rotation_;
};

class KvCache {
 public:
  // Throws std::invalid_argument for a wrong option, attn::Error when there is no such memory.
  explicit KvCache(const KvCacheOptions& options, const Context& context = Context());
  ~KvCache();
  KvCache(KvCache&&) noexcept;
  KvCache& operator=(KvCache&&) noexcept;

  const KvCacheOptions& options() const;
  KvCacheUse use() const;

  // A sequence without tokens; takes no page.
  SequenceId create();
  // A sequence with the same tokens, which shares their pages.
  SequenceId fork(SequenceId id);
  void drop(SequenceId id);

  std::int64_t length(SequenceId id) const;
  // Tokens ever appended, less truncated ones: the original position of the next token.
  std::int64_t seen(SequenceId id) const;
  // Original positions of the kept tokens.
  std::vector<std::int64_t> original_positions(SequenceId id) const;

  // Makes the sequence `tokens` longer; each layer is to be written then. Throws attn::Error when
  // the pool has too few free pages, with the numbers.
  void append(SequenceId id, std::int64_t tokens);
  // Writes the next tokens of a layer, up to the length: k [1, Hkv, n, width], v [1, Hkv, n,
  // v_width], float32, bfloat16 or float16 (float64 caches take and keep float64). bfloat16 and
  // float16 round to nearest, ties to even; int8 is symmetric, scale = max |x| / 127 a token and
  // head. A row that holds NaN or infinity becomes one in int8.
  void write(std::int64_t layer, SequenceId id, const ConstTensor& k, const ConstTensor& v);
  // The same for the last tokens of all sequences of a batch, as many as each has queries, one
  // sequence after the other: k [1, Hkv, queries, width].
  void write(std::int64_t layer, const KvBatch& batch, const ConstTensor& k, const ConstTensor& v);

  // Keeps the first `length` tokens.
  void truncate(SequenceId id, std::int64_t length);
  // Keeps the first `sinks` and the last `window` tokens (StreamingLLM, arXiv 2309.17453); returns
  // how many went. Later calls of attention give what a cache gives that only ever held the kept
  // ones, to the bit. Throws when a layer has tokens left to write, and with packed keys
  // attn::Error when shared pages would have to be copied and there are too few.
  std::int64_t evict(SequenceId id, std::int64_t sinks, std::int64_t window);

  // `queries[i]` queries of ids[i], standing at its last tokens; empty: one each.
  KvBatch batch(std::vector<SequenceId> ids, const std::vector<std::int64_t>& queries = {});
  // A layer's keys and values, for Plan::run; refers to the batch, which must live longer. Throws
  // when the cache has changed since the batch was made, or when the layer is not fully written.
  KeyValue view(std::int64_t layer, const KvBatch& batch) const;
  // Rotates the batch's queries [1, Hq, queries, width], float32, bfloat16 or float16, in place, as
  // keys at their positions are when read. Throws when a sequence has more queries than keys.
  void rotate(const Tensor& q, const KvBatch& batch) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace attn

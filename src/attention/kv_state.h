// What a key/value cache holds: sequences, their pages, and the version that batches are checked
// against. kv_cache.cpp changes it, kv_batch.cpp reads it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "attention/kv_angles.h"
#include "attention/kv_pool.h"
#include "attn/kv_cache.h"

namespace attn {

namespace kv {

// Throws std::invalid_argument.
[[noreturn]] void fail(const std::string& what);
void require_least(const char* field, std::int64_t value, std::int64_t least);
inline std::string text(std::int64_t value) { return std::to_string(value); }

// Tokens in consecutive rows of one page, at consecutive original positions.
struct Span {
  std::int64_t page = 0, first = 0, count = 0, position = 0;
};
using Spans = std::vector<Span>;

struct Sequence {
  // In key order; spans of one page stand side by side, in the order of its rows.
  Spans spans;
  std::int64_t length = 0;
  std::int64_t next = 0;              // original position of the next token
  std::vector<std::int64_t> written;  // tokens, by layer

  bool complete() const {
    return std::all_of(written.begin(), written.end(), [&](std::int64_t n) { return n == length; });
  }
};

}  // namespace kv

struct KvCache::Impl {
  KvCacheOptions options;  // checked
  KvPool pool;
  std::optional<KvAngleTables> angles;
  std::map<SequenceId, kv::Sequence> sequences;
  SequenceId next_id = 0;
  std::uint64_t version = 0;  // of this state among those of all caches

  Impl(const KvCacheOptions& o, const Context& context);

  kv::Sequence& find(SequenceId id);
  std::int64_t row(const kv::Span& span) const {
    return span.page * options.page_tokens + span.first;
  }
  void changed();  // from here on older batches are refused

  void check_layer(std::int64_t layer) const;
  void check_batch(const KvBatch& batch) const;
  void check_tensor(const char* what, const ConstTensor& x, std::int64_t width) const;
  void require_free(SequenceId id, std::int64_t pages) const;

  // Holds the pages of `next` instead of those that the sequence has.
  void replace(kv::Sequence& s, kv::Spans next) noexcept;
  void close_gap(SequenceId id, kv::Sequence& s, std::int64_t sinks, std::int64_t dropped);
  void write(std::int64_t layer, kv::Sequence& s, const ConstTensor& k, const ConstTensor& v,
             std::int64_t first, std::int64_t count);
  // Tables of a batch's sequences, one after the other.
  std::shared_ptr<const KvAngles> own_angles(
      const KvBatch& batch, const std::vector<const kv::Sequence*>& sequences_of) const;
};

}  // namespace attn

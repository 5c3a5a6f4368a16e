// Batches of a cache: where the keys of some sequences lie, for a plan to read.
#include <algorithm>
#include <string>
#include <utility>

#include "attention/kv_state.h"
#include "attn/kv_cache.h"

namespace attn {

using kv::fail;
using kv::require_least;
using kv::Sequence;
using kv::Span;
using kv::text;

namespace {

float as_float(float x) { return x; }
float as_float(BFloat16 x) { return to_float(x); }
float as_float(Float16 x) { return to_float(x); }
void store(float x, float& to) { to = x; }
void store(float x, BFloat16& to) { to = to_bfloat16(x); }
void store(float x, Float16& to) { to = to_float16(x); }

// Rotates one query by a row of angles.
template <class T>
void rotate_row(const KeyRotation& r, std::int64_t row, T* x) {
  const std::int64_t pairs = r.width / 2;
  const float *cosine = r.cosines + row * pairs, *sine = r.sines + row * pairs;
  for (std::int64_t i = 0; i < pairs; ++i) {
    T &a = x[r.interleaved ? 2 * i : i], &b = x[r.interleaved ? 2 * i + 1 : i + pairs];
    const float first = as_float(a), second = as_float(b);
    store(first * cosine[i] - second * sine[i], a);
    store(first * sine[i] + second * cosine[i], b);
  }
}

}  // namespace

KvBatch KvCache::batch(std::vector<SequenceId> ids, const std::vector<std::int64_t>& queries) {
  Impl& cache = *impl_;
  if (!queries.empty() && queries.size() != ids.size()) {
    fail("queries has " + std::to_string(queries.size()) + " entries, must have " +
         std::to_string(ids.size()) + ", one a sequence");
  }
  std::vector<SequenceId> sorted = ids;
  std::sort(sorted.begin(), sorted.end());
  if (const auto twice = std::adjacent_find(sorted.begin(), sorted.end()); twice != sorted.end()) {
    fail("sequence " + text(*twice) + " is in the batch twice: fork it");
  }
  KvBatch batch;
  batch.version_ = cache.version;
  batch.kv_heads_ = cache.options.kv_heads;
  batch.width_ = cache.options.width;
  batch.v_width_ = cache.options.v_width;
  batch.dtype_ = cache.options.dtype;
  batch.ragged_.q_offsets.push_back(0);
  batch.ragged_.k_offsets.push_back(0);
  batch.pages_.run_begin.push_back(0);
  const bool original = cache.options.positions == CachePositions::original;
  std::vector<const Sequence*> sequences;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const Sequence& s = cache.find(ids[i]);
    sequences.push_back(&s);
    const std::int64_t count = queries.empty() ? 1 : queries[i];
    require_least("a number of queries", count, 0);
    const auto first_key = static_cast<std::size_t>(batch.ragged_.k_offsets.back());
    batch.ragged_.q_offsets.push_back(batch.ragged_.q_offsets.back() + count);
    batch.ragged_.k_offsets.push_back(batch.ragged_.k_offsets.back() + s.length);
    batch.ragged_.query_starts.push_back(s.length - count);
    // Where keys lie, neighbours joined, and where they stand.
    std::int64_t key = 0, end = -1;
    for (const Span& span : s.spans) {
      if (cache.row(span) != end) batch.pages_.runs.push_back({key, cache.row(span)});
      end = cache.row(span) + span.count;
      for (std::int64_t j = 0; j < span.count; ++j, ++key)
        batch.k_positions_.push_back(original ? span.position + j : key);
      batch.moved_ = batch.moved_ || (original && span.position + span.count != key);
    }
    batch.pages_.run_begin.push_back(static_cast<std::int64_t>(batch.pages_.runs.size()));
    const std::int64_t next = original ? s.next : s.length;
    batch.moved_ = batch.moved_ || next != s.length;
    for (std::int64_t j = s.length - count; j < s.length; ++j) {
      batch.q_positions_.push_back(j >= 0
                                       ? batch.k_positions_[first_key + static_cast<std::size_t>(j)]
                                       : next - s.length + j);
    }
  }
  batch.sequences_ = std::move(ids);
  if (cache.angles) {
    std::int64_t longest = 0;
    bool own = batch.moved_;
    for (const Sequence* s : sequences) {
      longest = std::max(longest, s->length);
      own = own || cache.angles->moves(original ? s->next : s->length);
    }
    batch.angles_ = own ? cache.own_angles(batch, sequences) : cache.angles->fixed(longest);
    batch.rotation_ = {.cosines = batch.angles_->cosines.data(),
                       .sines = batch.angles_->sines.data(),
                       .width = 2 * cache.angles->pairs(),
                       .interleaved = cache.angles->interleaved(),
                       .first_row = own ? batch.angles_->first_row.data() : nullptr};
  }
  return batch;
}

std::shared_ptr<const KvAngles> KvCache::Impl::own_angles(
    const KvBatch& batch, const std::vector<const Sequence*>& sequences_of) const {
  const auto to = std::make_shared<KvAngles>();
  const bool original = options.positions == CachePositions::original;
  for (std::size_t i = 0; i < sequences_of.size(); ++i) {
    const Sequence& s = *sequences_of[i];
    const auto begin = batch.k_positions_.begin() + batch.ragged_.k_offsets[i];
    to->first_row.push_back(batch.ragged_.k_offsets[i]);
    angles->add(original ? s.next : s.length, {begin, begin + s.length}, *to);
  }
  return to;
}

KeyValue KvCache::view(std::int64_t layer, const KvBatch& batch) const {
  const Impl& cache = *impl_;
  cache.check_batch(batch);
  cache.check_layer(layer);
  for (const SequenceId id : batch.sequences_) {
    const Sequence& s = impl_->find(id);
    const std::int64_t written = s.written[static_cast<std::size_t>(layer)];
    if (written != s.length) {
      fail("layer " + text(layer) + " of sequence " + text(id) + " has " + text(written) + " of " +
           text(s.length) + " tokens written");
    }
  }
  return {.k = cache.pool.keys(layer),
          .v = cache.pool.values(layer),
          .k_scale = cache.pool.key_scales(layer),
          .v_scale = cache.pool.value_scales(layer),
          .pages = &batch.pages_,
          .k_panel = cache.pool.panel(),
          .rotation = cache.angles ? &batch.rotation_ : nullptr};
}

void KvCache::rotate(const Tensor& q, const KvBatch& batch) const {
  impl_->check_batch(batch);
  if (!impl_->angles) fail("this cache rotates nothing: rotation is not set");
  const std::vector<std::int64_t>& begin = batch.ragged_.q_offsets;
  if (q.batch() != 1 || q.length() != begin.back() || q.width() != impl_->options.width) {
    fail("q has shape " + to_string(q.shape) + ", must be [1, heads, " + text(begin.back()) + ", " +
         text(impl_->options.width) + "]");
  }
  if (q.dtype == DType::f64 || q.dtype == DType::i8) {
    fail(std::string("q is ") + name(q.dtype) + ", must be float32, bfloat16 or float16");
  }
  if (q.width() > 1 && q.strides[3] != 1) {
    fail("q has stride " + text(q.strides[3]) + " along its width, must be 1");
  }
  for (std::size_t s = 0; s < batch.sequences_.size(); ++s) {
    const std::int64_t queries = begin[s + 1] - begin[s], first = batch.ragged_.query_starts[s];
    if (first < 0) {
      fail("sequence " + text(batch.sequences_[s]) + " has " + text(queries) + " queries and " +
           text(first + queries) + " keys");
    }
  }
  const KeyRotation& r = batch.rotation_;
  for (std::size_t s = 0; s < batch.sequences_.size(); ++s) {
    std::int64_t row =
        batch.ragged_.query_starts[s] + (r.first_row != nullptr ? r.first_row[s] : 0);
    for (std::int64_t l = begin[s]; l < begin[s + 1]; ++l, ++row) {
      for (std::int64_t h = 0; h < q.heads(); ++h) {
        if (q.dtype == DType::f32)
          rotate_row(r, row, q.row<float>(0, h, l));
        else if (q.dtype == DType::bf16)
          rotate_row(r, row, q.row<BFloat16>(0, h, l));
        else
          rotate_row(r, row, q.row<Float16>(0, h, l));
      }
    }
  }
}

AttentionShape KvBatch::shape(std::int64_t q_heads, DType q_dtype) const {
  return {.batch = 1,
          .q_heads = q_heads,
          .kv_heads = kv_heads_,
          .q_len = ragged_.q_offsets.back(),
          .k_len = ragged_.k_offsets.back(),
          .width = width_,
          .v_width = v_width_,
          .dtype = q_dtype,
          .kv_dtype = dtype_};
}

AttentionOptions KvBatch::options(AttentionOptions given) const {
  if (given.query_start != 0 || !given.q_positions.empty() || !given.k_positions.empty() ||
      !given.ragged.q_offsets.empty()) {
    fail(
        "the options have query_start, positions or ragged lengths of their own: the batch sets "
        "them");
  }
  if (!moved_) {
    given.ragged = ragged_;
  } else if (sequences_.size() == 1) {
    given.q_positions = q_positions_;
    given.k_positions = k_positions_;
  } else {
    fail("evicted sequences with original positions: make a batch of each");
  }
  return given;
}

}  // namespace attn

// Sequences as lists of pages: growth, sharing, eviction, and the batch that a plan reads.
#include "attn/kv_cache.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "attention/kv_angles.h"
#include "attention/kv_pool.h"
#include "attn/error.h"
#include "base/check.h"
#include "kernels/forward.h"

namespace attn {

namespace {

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

[[noreturn]] void fail(const std::string& what) {
  throw std::invalid_argument("[kv_cache] " + what);
}

std::string text(std::int64_t value) { return std::to_string(value); }

void require_least(const char* field, std::int64_t value, std::int64_t least) {
  if (value < least) {
    fail(std::string(field) + " is " + text(value) + ", must be " + text(least) + " or more");
  }
}

void append(Spans& spans, const Span& span) {
  if (!spans.empty()) {
    Span& last = spans.back();
    if (last.page == span.page && last.first + last.count == span.first &&
        last.position + last.count == span.position) {
      last.count += span.count;
      return;
    }
  }
  spans.push_back(span);
}

// Tokens [begin, end).
Spans slice(const Spans& spans, std::int64_t begin, std::int64_t end) {
  Spans part;
  std::int64_t at = 0;
  for (const Span& span : spans) {
    const std::int64_t from = std::max(begin - at, std::int64_t{0});
    const std::int64_t to = std::min(end - at, span.count);
    if (from < to) part.push_back({span.page, span.first + from, to - from, span.position + from});
    at += span.count;
  }
  return part;
}

// f(page) for each page of a sequence, in order.
template <class F>
void for_pages(const Spans& spans, const F& f) {
  for (std::size_t i = 0; i < spans.size(); ++i) {
    if (i == 0 || spans[i].page != spans[i - 1].page) f(spans[i].page);
  }
}

KvCacheOptions checked(KvCacheOptions o) {
  if (o.v_width == 0) o.v_width = o.width;
  require_least("layers", o.layers, 1);
  require_least("kv_heads", o.kv_heads, 1);
  require_least("pages", o.pages, 1);
  require_least("page_tokens", o.page_tokens, 1);
  for (const auto& [field, width] :
       {std::pair("width", o.width), std::pair("v_width", o.v_width)}) {
    if (width < 1 || width > kMaxWidth) {
      fail(std::string(field) + " is " + text(width) + ", must be 1 to " + text(kMaxWidth));
    }
  }
  // Bytes, and the rows of a layer, must be numbers.
  std::int64_t bytes = static_cast<std::int64_t>(sizeof(double)) * (o.width + o.v_width + 2);
  for (const std::int64_t n : {o.layers, o.kv_heads, o.pages, o.page_tokens}) {
    if (__builtin_mul_overflow(bytes, n, &bytes)) {
      fail(text(o.layers) + " layers x " + text(o.pages) + " pages x " + text(o.page_tokens) +
           " tokens x " + text(o.kv_heads) + " heads is too much");
    }
  }
  if (o.rotation && o.dtype == DType::f64) {
    fail("float64 keys cannot be rotated when they are read: write them rotated");
  }
  if (o.rotation && o.packed_keys) {
    fail("packed keys cannot be rotated when they are read: rotation or packed_keys");
  }
  return o;
}

std::int64_t panel_of(const KvCacheOptions& o, const Context& context) {
  if (!o.packed_keys) return 0;
  const DType arithmetic = o.dtype == DType::f64 ? DType::f64 : DType::f32;
  const std::int64_t panel = kernels::forward_kernel(context.isa(), arithmetic).panel;
  if (o.page_tokens % panel != 0) {
    fail("page_tokens is " + text(o.page_tokens) + ", must be a multiple of " + text(panel) +
         " for packed keys with " + name(context.isa()));
  }
  return panel;
}

// What tells states of all caches apart, so that an old batch is known as such.
std::uint64_t new_version() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

}  // namespace

struct KvCache::Impl {
  KvCacheOptions options;
  KvPool pool;
  std::optional<KvAngleTables> angles;
  std::map<SequenceId, Sequence> sequences;
  SequenceId next_id = 0;
  std::uint64_t version = new_version();

  Impl(const KvCacheOptions& o, const Context& context)
      : options(checked(o)), pool(options, panel_of(options, context)) {
    if (options.rotation) angles.emplace(*options.rotation, options.width);
  }

  Sequence& find(SequenceId id) {
    const auto found = sequences.find(id);
    if (found == sequences.end()) fail("there is no sequence " + text(id));
    return found->second;
  }
  void check_layer(std::int64_t layer) const {
    if (layer < 0 || layer >= options.layers) {
      fail("layer is " + text(layer) + ", must be 0 to " + text(options.layers - 1));
    }
  }
  void check_batch(const KvBatch& batch) const {
    if (batch.version_ != version) {
      fail(
          "the batch is not of this cache as it is now: make one after append, truncate, evict "
          "and drop");
    }
  }
  void require_free(SequenceId id, std::int64_t pages) const {
    if (pages > pool.free_pages()) {
      throw Error("[kv_cache] the pool is full: sequence " + text(id) + " needs " + text(pages) +
                  " more pages of " + text(options.page_tokens) + " tokens, " +
                  text(pool.free_pages()) + " of " + text(options.pages) + " are free");
    }
  }
  void check_tensor(const char* what, const ConstTensor& x, std::int64_t width) const;
  std::int64_t row(const Span& span) const { return span.page * options.page_tokens + span.first; }

  // Holds the pages of `next` instead of those that the sequence has.
  void replace(Sequence& s, Spans next) noexcept {
    for_pages(next, [&](std::int64_t page) { pool.hold(page); });
    for_pages(s.spans, [&](std::int64_t page) { pool.release(page); });
    s.spans = std::move(next);
  }
  void close_gap(SequenceId id, Sequence& s, std::int64_t sinks, std::int64_t dropped);
  void write(std::int64_t layer, Sequence& s, const ConstTensor& k, const ConstTensor& v,
             std::int64_t first, std::int64_t count);
  void add_angles(const KvBatch& batch, const std::vector<const Sequence*>& sequences_of,
                  KvAngles& to) const;
};

void KvCache::Impl::check_tensor(const char* what, const ConstTensor& x, std::int64_t width) const {
  const std::string named = what;
  if (x.batch() != 1) fail(named + " has batch " + text(x.batch()) + ", must have 1");
  if (x.heads() != options.kv_heads) {
    fail(named + " has heads " + text(x.heads()) + ", the cache has " + text(options.kv_heads));
  }
  if (x.width() != width) {
    fail(named + " has width " + text(x.width()) + ", the cache has " + text(width));
  }
  const bool wide = options.dtype == DType::f64;
  if (wide != (x.dtype == DType::f64) || x.dtype == DType::i8) {
    fail(named + " is " + name(x.dtype) + ", must be " +
         (wide ? "float64" : "float32, bfloat16 or float16"));
  }
  if (x.length() < 0 || (x.empty() && x.size() > 0)) fail(named + " has no data");
  if (x.width() > 1 && x.strides[3] != 1) {
    fail(named + " has stride " + text(x.strides[3]) +
         " along its width, must be 1 (its rows contiguous)");
  }
}

KvCache::KvCache(const KvCacheOptions& options, const Context& context)
    : impl_(std::make_unique<Impl>(options, context)) {}
KvCache::~KvCache() = default;
KvCache::KvCache(KvCache&&) noexcept = default;
KvCache& KvCache::operator=(KvCache&&) noexcept = default;

const KvCacheOptions& KvCache::options() const { return impl_->options; }

KvCacheUse KvCache::use() const {
  KvCacheUse use;
  use.sequences = static_cast<std::int64_t>(impl_->sequences.size());
  for (const auto& [id, s] : impl_->sequences) use.tokens += s.length;
  use.pages = impl_->options.pages;
  use.free_pages = impl_->pool.free_pages();
  use.shared_pages = impl_->pool.shared_pages();
  use.page_bytes = impl_->pool.page_bytes();
  use.pool_bytes = use.pages * use.page_bytes;
  return use;
}

SequenceId KvCache::create() {
  Sequence s;
  s.written.resize(static_cast<std::size_t>(impl_->options.layers));
  impl_->sequences.emplace(impl_->next_id, std::move(s));
  return impl_->next_id++;
}

SequenceId KvCache::fork(SequenceId id) {
  const Sequence& from = impl_->find(id);
  if (!from.complete()) fail("sequence " + text(id) + " has tokens left to write: fork it after");
  impl_->sequences.emplace(impl_->next_id, from);
  for_pages(from.spans, [&](std::int64_t page) { impl_->pool.hold(page); });
  return impl_->next_id++;
}

void KvCache::drop(SequenceId id) {
  impl_->replace(impl_->find(id), {});
  impl_->sequences.erase(id);
  impl_->version = new_version();
}

std::int64_t KvCache::length(SequenceId id) const { return impl_->find(id).length; }

std::int64_t KvCache::seen(SequenceId id) const { return impl_->find(id).next; }

std::vector<std::int64_t> KvCache::original_positions(SequenceId id) const {
  std::vector<std::int64_t> positions;
  for (const Span& span : impl_->find(id).spans) {
    for (std::int64_t i = 0; i < span.count; ++i) positions.push_back(span.position + i);
  }
  return positions;
}

void KvCache::append(SequenceId id, std::int64_t tokens) {
  Impl& cache = *impl_;
  Sequence& s = cache.find(id);
  require_least("tokens", tokens, 0);
  if (tokens == 0) return;
  const std::int64_t size = cache.options.page_tokens;
  // 1. What fits into the last page, and whether others hold that page too.
  std::int64_t room = 0;
  bool copied = false;
  if (!s.spans.empty()) {
    room = size - s.spans.back().first - s.spans.back().count;
    copied = room > 0 && cache.pool.holders(s.spans.back().page) > 1;
  }
  // 2. All that can fail, before anything changes.
  const std::int64_t beyond = std::max(tokens - room, std::int64_t{0});
  const std::int64_t pages = beyond / size + (beyond % size != 0 ? 1 : 0);
  cache.require_free(id, pages + (copied ? 1 : 0));
  s.spans.reserve(s.spans.size() + static_cast<std::size_t>(pages) + 1);
  // 3. A page of its own for what it has in the last one.
  if (copied) {
    const std::int64_t old = s.spans.back().page, own = cache.pool.take();
    for (auto span = s.spans.rbegin(); span != s.spans.rend() && span->page == old; ++span) {
      const std::int64_t from = cache.row(*span);
      span->page = own;
      cache.pool.move(from, cache.row(*span), span->count);
    }
    cache.pool.release(old);
  }
  // 4. The tokens.
  for (std::int64_t left = tokens; left > 0;) {
    const Span* last = s.spans.empty() ? nullptr : &s.spans.back();
    Span span{0, 0, 0, s.next};
    if (last != nullptr && last->first + last->count < size) {
      span.page = last->page;
      span.first = last->first + last->count;
    } else {
      span.page = cache.pool.take();
    }
    span.count = std::min(left, size - span.first);
    attn::append(s.spans, span);
    s.next += span.count;
    left -= span.count;
  }
  s.length += tokens;
  cache.version = new_version();
}

void KvCache::Impl::write(std::int64_t layer, Sequence& s, const ConstTensor& k,
                          const ConstTensor& v, std::int64_t first, std::int64_t count) {
  std::int64_t& written = s.written[static_cast<std::size_t>(layer)];
  // Tokens to write are the last ones: spans are looked for from the end.
  std::size_t i = s.spans.size();
  std::int64_t at = s.length;
  while (at > written) at -= s.spans[--i].count;
  for (std::int64_t done = 0; done < count; ++i) {
    const Span& span = s.spans[i];
    const std::int64_t skip = std::max(written + done - at, std::int64_t{0});
    const std::int64_t n = std::min(count - done, span.count - skip);
    pool.write(layer, row(span) + skip, k, v, first + done, n);
    done += n;
    at += span.count;
  }
  written += count;
}

void KvCache::write(std::int64_t layer, SequenceId id, const ConstTensor& k, const ConstTensor& v) {
  Impl& cache = *impl_;
  Sequence& s = cache.find(id);
  cache.check_layer(layer);
  cache.check_tensor("k", k, cache.options.width);
  cache.check_tensor("v", v, cache.options.v_width);
  if (k.length() != v.length()) {
    fail("v has length " + text(v.length()) + ", k has " + text(k.length()));
  }
  const std::int64_t left = s.length - s.written[static_cast<std::size_t>(layer)];
  if (k.length() > left) {
    fail("k has length " + text(k.length()) + ", layer " + text(layer) + " of sequence " +
         text(id) + " has " + text(left) + " tokens left to write");
  }
  cache.write(layer, s, k, v, 0, k.length());
}

void KvCache::write(std::int64_t layer, const KvBatch& batch, const ConstTensor& k,
                    const ConstTensor& v) {
  Impl& cache = *impl_;
  cache.check_batch(batch);
  cache.check_layer(layer);
  cache.check_tensor("k", k, cache.options.width);
  cache.check_tensor("v", v, cache.options.v_width);
  const std::vector<std::int64_t>& begin = batch.ragged_.q_offsets;
  for (const auto& [what, x] : {std::pair("k", &k), std::pair("v", &v)}) {
    if (x->length() != begin.back()) {
      fail(std::string(what) + " has length " + text(x->length()) + ", the batch has " +
           text(begin.back()) + " queries");
    }
  }
  std::vector<Sequence*> sequences;
  for (std::size_t i = 0; i < batch.sequences_.size(); ++i) {
    Sequence& s = cache.find(batch.sequences_[i]);
    const std::int64_t left = s.length - s.written[static_cast<std::size_t>(layer)];
    const std::int64_t count = begin[i + 1] - begin[i];
    if (count != left) {
      fail("sequence " + text(batch.sequences_[i]) + " has " + text(count) +
           " queries in the batch, layer " + text(layer) + " has " + text(left) +
           " tokens left to write");
    }
    sequences.push_back(&s);
  }
  for (std::size_t i = 0; i < sequences.size(); ++i)
    cache.write(layer, *sequences[i], k, v, begin[i], begin[i + 1] - begin[i]);
}

void KvCache::truncate(SequenceId id, std::int64_t length) {
  Impl& cache = *impl_;
  Sequence& s = cache.find(id);
  if (length < 0 || length > s.length) {
    fail("length is " + text(length) + ", must be 0 to " + text(s.length) + ", what sequence " +
         text(id) + " has");
  }
  if (length == s.length) return;
  const std::int64_t next = slice(s.spans, length, s.length).front().position;
  cache.replace(s, slice(s.spans, 0, length));
  s.next = next;
  s.length = length;
  for (std::int64_t& n : s.written) n = std::min(n, length);
  cache.version = new_version();
}

std::int64_t KvCache::evict(SequenceId id, std::int64_t sinks, std::int64_t window) {
  Impl& cache = *impl_;
  Sequence& s = cache.find(id);
  require_least("sinks", sinks, 0);
  require_least("window", window, 0);
  if (!s.complete()) fail("sequence " + text(id) + " has tokens left to write: evict after");
  if (sinks >= s.length || window >= s.length - sinks) return 0;
  const std::int64_t dropped = s.length - sinks - window;
  const std::int64_t panel = cache.pool.panel();
  if (panel == 0 || window == 0 || (sinks % panel == 0 && dropped % panel == 0)) {
    Spans kept = slice(s.spans, 0, sinks);
    for (const Span& span : slice(s.spans, sinks + dropped, s.length)) kept.push_back(span);
    cache.replace(s, std::move(kept));
  } else {
    cache.close_gap(id, s, sinks, dropped);
  }
  s.length -= dropped;
  s.written.assign(s.written.size(), s.length);
  cache.version = new_version();
  return dropped;
}

// Packed keys: token t lies in a row that is t modulo the panel, so the window moves down to stand
// right behind the sinks, page by page in the order that the sequence has them. A row's new place
// is never behind its old one, so ascending copies are safe; pages that others hold are left alone,
// a new one comes in their place.
void KvCache::Impl::close_gap(SequenceId id, Sequence& s, std::int64_t sinks,
                              std::int64_t dropped) {
  const std::int64_t size = options.page_tokens;
  Spans result = slice(s.spans, 0, sinks);
  const Spans moved = slice(s.spans, sinks + dropped, s.length);
  // 1. The pages to fill, from the one where the sinks end.
  std::vector<std::int64_t> pages;
  for_pages(s.spans, [&](std::int64_t page) { pages.push_back(page); });
  std::size_t slot = 0;
  if (!result.empty()) {
    slot = static_cast<std::size_t>(std::find(pages.begin(), pages.end(), result.back().page) -
                                    pages.begin());
  }
  std::int64_t offset = result.empty() ? 0 : result.back().first + result.back().count;
  if (offset == size) {
    ++slot;
    offset = 0;
  }
  const auto slots = static_cast<std::size_t>((offset + s.length - sinks - dropped - 1) / size) + 1;
  std::vector<std::int64_t> fresh;
  for (std::size_t i = slot; i < slot + slots; ++i) {
    if (pool.holders(pages[i]) > 1) fresh.push_back(static_cast<std::int64_t>(i));
  }
  require_free(id, static_cast<std::int64_t>(fresh.size()));
  result.reserve(result.size() + moved.size() + slots);
  // 2. Pages of its own; the sinks' part of the first one comes along.
  const std::int64_t sink_page = pages[slot];
  for (std::int64_t& i : fresh) {
    const std::int64_t page = pool.take();
    pages[static_cast<std::size_t>(i)] = page;
    i = page;
  }
  if (offset > 0 && pages[slot] != sink_page) {
    for (auto span = result.rbegin(); span != result.rend() && span->page == sink_page; ++span) {
      const std::int64_t from = row(*span);
      span->page = pages[slot];
      pool.move(from, row(*span), span->count);
    }
  }
  // 3. The window.
  for (const Span& span : moved) {
    for (std::int64_t done = 0; done < span.count;) {
      const Span to{pages[slot], offset, std::min(span.count - done, size - offset),
                    span.position + done};
      pool.move(row(span) + done, row(to), to.count);
      attn::append(result, to);
      done += to.count;
      offset += to.count;
      if (offset == size) {
        ++slot;
        offset = 0;
      }
    }
  }
  replace(s, std::move(result));
  for (const std::int64_t page : fresh) pool.release(page);  // held since it was taken
}

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
    if (own) {
      const auto angles = std::make_shared<KvAngles>();
      cache.add_angles(batch, sequences, *angles);
      batch.angles_ = angles;
    } else {
      batch.angles_ = cache.angles->fixed(longest);
    }
    batch.rotation_ = {.cosines = batch.angles_->cosines.data(),
                       .sines = batch.angles_->sines.data(),
                       .width = 2 * cache.angles->pairs(),
                       .interleaved = cache.angles->interleaved(),
                       .first_row = own ? batch.angles_->first_row.data() : nullptr};
  }
  return batch;
}

// A table for each sequence of a batch, one after the other.
void KvCache::Impl::add_angles(const KvBatch& batch,
                               const std::vector<const Sequence*>& sequences_of,
                               KvAngles& to) const {
  const bool original = options.positions == CachePositions::original;
  for (std::size_t i = 0; i < sequences_of.size(); ++i) {
    const Sequence& s = *sequences_of[i];
    const auto begin = batch.k_positions_.begin() + batch.ragged_.k_offsets[i];
    to.first_row.push_back(batch.ragged_.k_offsets[i]);
    angles->add(original ? s.next : s.length, {begin, begin + s.length}, to);
  }
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
  if (q.dtype != DType::f32) fail(std::string("q is ") + name(q.dtype) + ", must be float32");
  if (q.batch() != 1 || q.length() != begin.back() || q.width() != impl_->options.width) {
    fail("q has shape " + to_string(q.shape) + ", must be [1, heads, " + text(begin.back()) + ", " +
         text(impl_->options.width) + "]");
  }
  if (q.width() > 1 && q.strides[3] != 1) fail("q's rows must be contiguous");
  const KeyRotation& r = batch.rotation_;
  const std::int64_t pairs = r.width / 2;
  for (std::size_t s = 0; s < batch.sequences_.size(); ++s) {
    const std::int64_t start = batch.ragged_.query_starts[s];
    if (start < 0) {
      fail("sequence " + text(batch.sequences_[s]) + " has " + text(begin[s + 1] - begin[s]) +
           " queries and " + text(start + begin[s + 1] - begin[s]) + " keys");
    }
  }
  for (std::size_t s = 0; s < batch.sequences_.size(); ++s) {
    for (std::int64_t l = begin[s]; l < begin[s + 1]; ++l) {
      const std::int64_t key = batch.ragged_.query_starts[s] + l - begin[s];
      const std::int64_t row = key + (r.first_row != nullptr ? r.first_row[s] : 0);
      const float *cosine = r.cosines + row * pairs, *sine = r.sines + row * pairs;
      for (std::int64_t h = 0; h < q.heads(); ++h) {
        float* x = q.row<float>(0, h, l);
        for (std::int64_t i = 0; i < pairs; ++i) {
          float &a = x[r.interleaved ? 2 * i : i], &b = x[r.interleaved ? 2 * i + 1 : i + pairs];
          const float before = a;
          a = before * cosine[i] - b * sine[i];
          b = before * sine[i] + b * cosine[i];
        }
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

// Sequences as lists of pages: growth, sharing, eviction, writing.
#include "attn/kv_cache.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>
#include <utility>

#include "attention/kv_state.h"
#include "attn/error.h"
#include "base/check.h"
#include "kernels/forward.h"

namespace attn {

void kv::fail(const std::string& what) { throw std::invalid_argument("[kv_cache] " + what); }

void kv::require_least(const char* field, std::int64_t value, std::int64_t least) {
  if (value < least) {
    fail(std::string(field) + " is " + text(value) + ", must be " + text(least) + " or more");
  }
}

using kv::fail;
using kv::require_least;
using kv::Sequence;
using kv::Span;
using kv::Spans;
using kv::text;

namespace {

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

}  // namespace

KvCache::Impl::Impl(const KvCacheOptions& o, const Context& context)
    : options(checked(o)), pool(options, panel_of(options, context)) {
  if (options.rotation) angles.emplace(*options.rotation, options.width);
  changed();
}

void KvCache::Impl::changed() {
  static std::atomic<std::uint64_t> last{0};
  version = ++last;
}

Sequence& KvCache::Impl::find(SequenceId id) {
  const auto found = sequences.find(id);
  if (found == sequences.end()) fail("there is no sequence " + text(id));
  return found->second;
}

void KvCache::Impl::check_layer(std::int64_t layer) const {
  if (layer < 0 || layer >= options.layers) {
    fail("layer is " + text(layer) + ", must be 0 to " + text(options.layers - 1));
  }
}

void KvCache::Impl::check_batch(const KvBatch& batch) const {
  if (batch.version_ != version) {
    fail(
        "the batch is not of this cache as it is now: make one after append, truncate, evict and "
        "drop");
  }
}

void KvCache::Impl::require_free(SequenceId id, std::int64_t pages) const {
  if (pages > pool.free_pages()) {
    throw Error("[kv_cache] the pool is full: sequence " + text(id) + " needs " + text(pages) +
                " more pages of " + text(options.page_tokens) + " tokens, " +
                text(pool.free_pages()) + " of " + text(options.pages) + " are free");
  }
}

void KvCache::Impl::replace(Sequence& s, Spans next) noexcept {
  for_pages(next, [&](std::int64_t page) { pool.hold(page); });
  for_pages(s.spans, [&](std::int64_t page) { pool.release(page); });
  s.spans = std::move(next);
}

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
  impl_->changed();
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
  cache.changed();
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
  cache.changed();
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
  cache.changed();
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

}  // namespace attn

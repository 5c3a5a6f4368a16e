#include "inspect/rows.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <span>
#include <stdexcept>

#include "attn/position.h"

namespace attn::inspect {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

[[noreturn]] void refuse(const char* function, const std::string& what) {
  throw std::invalid_argument("[" + std::string(function) + "] " + what);
}

void check_size(const char* function, std::size_t layer, const char* name, std::size_t have,
                std::int64_t want) {
  if (have == static_cast<std::size_t>(want)) return;
  refuse(function, "layer " + std::to_string(layer) + " has " + std::to_string(have) +
                       " values in " + name + ", needs " + std::to_string(want));
}

void check_score(const char* function, std::size_t layer, const AttentionRecord& record,
                 const Score& score) {
  const std::string where = "layer " + std::to_string(layer) + ": ";
  const Geometry g = geometry(record);
  const auto heads = static_cast<std::size_t>(record.heads);
  if (!score.sinks.empty() && score.sinks.size() != heads) {
    refuse(function, where + std::to_string(score.sinks.size()) + " sinks for " +
                         std::to_string(heads) + " heads");
  }
  if (score.alibi_slopes && !score.alibi_slopes->empty() && score.alibi_slopes->size() != heads) {
    refuse(function, where + std::to_string(score.alibi_slopes->size()) + " ALiBi slopes for " +
                         std::to_string(heads) + " heads");
  }
  if (score.t5 && score.t5->table.size() != static_cast<std::size_t>(score.t5->buckets) * heads) {
    refuse(function, where + "T5 table has " + std::to_string(score.t5->table.size()) +
                         " values, needs " + std::to_string(score.t5->buckets) + " x " +
                         std::to_string(heads));
  }
  if (!score.bias.empty()) {
    const Shape& s = score.bias.shape;
    const bool fits = s[0] == 1 && (s[1] == 1 || s[1] == record.heads) &&
                      (s[2] == 1 || s[2] == g.q_len) && (s[3] == 1 || s[3] == g.k_len);
    const bool floats = score.bias.dtype == DType::f32 || score.bias.dtype == DType::f64;
    if (!fits || !floats) {
      refuse(function, where + "bias is " + name(score.bias.dtype) + " " + to_string(s) +
                           ", needs float32 or float64 [1, 1 or " + std::to_string(record.heads) +
                           ", 1 or " + std::to_string(g.q_len) + ", 1 or " +
                           std::to_string(g.k_len) + "]");
    }
  }
}

void check_implied(const char* function, std::size_t layer, const AttentionRecord& record,
                   const ImpliedAttention& implied) {
  const Geometry g = geometry(record);
  if (implied.heads() == g.heads && implied.tokens() == g.q_len && !record.is_cross()) return;
  refuse(function,
         "layer " + std::to_string(layer) + " has states of " + std::to_string(implied.heads()) +
             " heads and " + std::to_string(implied.tokens()) + " tokens, needs " +
             std::to_string(g.heads) + " and " + std::to_string(g.q_len) + " of one text");
}

}  // namespace

Geometry geometry(const AttentionRecord& record) {
  return {.batch = 1,
          .heads = record.heads,
          .q_len = static_cast<std::int64_t>(record.tokens.size()),
          .k_len = static_cast<std::int64_t>(record.key_tokens().size())};
}

void check_record(const AttentionRecord& record, const char* function) {
  const Geometry g = geometry(record);
  if (g.q_len == 0) refuse(function, "the record has no tokens");
  if (record.layers.empty()) refuse(function, "the record has no layers");
  const bool states = std::all_of(record.layers.begin(), record.layers.end(),
                                  [](const LayerRecord& l) { return l.implied.has_value(); });
  if (record.width < 1 && !states)
    refuse(function, "head width is " + std::to_string(record.width));
  if (record.heads < 1 || record.kv_heads < 1 || record.heads % record.kv_heads != 0) {
    refuse(function, std::to_string(record.heads) + " heads is not a multiple of " +
                         std::to_string(record.kv_heads) + " key/value heads");
  }
  if (!record.layer_numbers.empty()) {
    const std::vector<std::int64_t>& numbers = record.layer_numbers;
    if (numbers.size() != record.layers.size() || numbers.front() < 0 ||
        std::adjacent_find(numbers.begin(), numbers.end(), std::greater_equal<>()) !=
            numbers.end()) {
      refuse(function, "layer_numbers must be " + std::to_string(record.layers.size()) +
                           " ascending numbers");
    }
  }
  for (std::size_t l = 0; l < record.layers.size(); ++l) {
    const LayerRecord& layer = record.layers[l];
    if (layer.implied) {
      check_implied(function, l, record, *layer.implied);
      continue;
    }
    check_size(function, l, "q", layer.q.size(), record.heads * g.q_len * record.width);
    check_size(function, l, "k", layer.k.size(), record.kv_heads * g.k_len * record.width);
    if (!layer.value_norm.empty()) {
      check_size(function, l, "value_norm", layer.value_norm.size(), record.heads * g.k_len);
    }
    check_score(function, l, record, layer.score);
    layer.mask.row(g, 0, record.heads - 1, 0);  // throws when the mask does not fit
  }
}

double scale_of(const Score& score, std::int64_t width) {
  return score.scale ? *score.scale : 1.0 / std::sqrt(static_cast<double>(width));
}

std::vector<double> relative_bias(const Score& score, std::int64_t head, const Geometry& geometry) {
  if (!score.alibi_slopes && !score.t5) return {};
  const std::int64_t heads = geometry.heads, queries = geometry.q_len, keys = geometry.k_len;
  std::vector<double> bias(static_cast<std::size_t>(queries + keys - 1));
  double slope = 0;
  if (score.alibi_slopes) {
    const std::vector<float> slopes =
        score.alibi_slopes->empty() ? alibi_slopes(heads) : *score.alibi_slopes;
    slope = slopes[static_cast<std::size_t>(head)];
  }
  for (std::int64_t r = 1 - queries; r < keys; ++r) {
    double& b = bias[static_cast<std::size_t>(r + queries - 1)];
    b = -slope * static_cast<double>(std::abs(r));
    if (score.t5) {
      const T5Bias& t5 = *score.t5;
      const int bucket = t5_bucket(r, t5.bidirectional, t5.buckets, t5.max_distance);
      b += t5.table[static_cast<std::size_t>(bucket * heads + head)];
    }
  }
  return bias;
}

double bias_at(const ConstTensor& bias, std::int64_t head, std::int64_t q, std::int64_t k) {
  if (bias.empty()) return 0;
  const std::int64_t h = bias.shape[1] > 1 ? head : 0, i = bias.shape[2] > 1 ? q : 0;
  const std::int64_t j = bias.shape[3] > 1 ? k : 0;
  const std::int64_t at = j * bias.strides[3];
  return bias.dtype == DType::f64 ? bias.row<double>(0, h, i)[at] : bias.row<float>(0, h, i)[at];
}

HeadRows::HeadRows(const AttentionRecord& record, int layer, int head)
    : layer_(record.layers[static_cast<std::size_t>(layer)]),
      head_(head),
      width_(record.width),
      geometry_(geometry(record)),
      scale_(scale_of(layer_.score, record.width)),
      keys_(static_cast<std::size_t>(geometry_.k_len * width_)),
      relative_(relative_bias(layer_.score, head, geometry_)),
      scores_(static_cast<std::size_t>(geometry_.k_len)) {
  if (layer_.implied) return;
  const std::int64_t kv_head = head / (record.heads / record.kv_heads);
  const std::int64_t count = geometry_.k_len;
  const float* k = layer_.k.data() + kv_head * count * width_;
  for (std::int64_t j = 0; j < count; ++j) {
    for (std::int64_t d = 0; d < width_; ++d) {
      keys_[static_cast<std::size_t>(d * count + j)] = k[j * width_ + d];
    }
  }
}

void HeadRows::row(std::int64_t q, double* out) {
  if (layer_.implied) return layer_.implied->row(head_, q, out);
  const Score& score = layer_.score;
  std::fill(out, out + geometry_.k_len, 0.0);
  const std::vector<Interval> intervals = layer_.mask.row(geometry_, 0, head_, q);
  if (intervals.empty()) return;

  // Products with all keys from the first visible one to the last; hidden ones between are not read
  // afterwards.
  const std::int64_t begin = intervals.front().begin;
  std::int64_t end = begin;
  for (const Interval& i : intervals) end = std::max(end, i.end);
  double* s = scores_.data();
  std::fill(s + begin, s + end, 0.0);
  const float* query = layer_.q.data() + (head_ * geometry_.q_len + q) * width_;
  for (std::int64_t d = 0; d < width_; ++d) {
    const double x = query[d];
    const double* k = keys_.data() + d * geometry_.k_len;
    for (std::int64_t j = begin; j < end; ++j) s[j] += x * k[j];
  }
  for (std::int64_t j = begin; j < end; ++j) s[j] *= scale_;
  if (score.soft_cap > 0) {
    for (std::int64_t j = begin; j < end; ++j) {
      s[j] = score.soft_cap * std::tanh(s[j] / score.soft_cap);
    }
  }
  if (!score.bias.empty()) {
    for (std::int64_t j = begin; j < end; ++j) s[j] += bias_at(score.bias, head_, q, j);
  }
  if (!relative_.empty()) {
    for (std::int64_t j = begin; j < end; ++j) {
      s[j] += relative_[static_cast<std::size_t>(j - q + geometry_.q_len - 1)];
    }
  }
  if (score.custom) {
    score.custom({.batch = 0,
                  .head = head_,
                  .q = std::span(&q, 1),
                  .k_begin = begin,
                  .k_count = end - begin,
                  .stride = end - begin,
                  .s64 = s + begin});
  }

  const bool sinks = !score.sinks.empty();
  const double sink = sinks ? score.sinks[static_cast<std::size_t>(head_)] : -kInfinity;
  double most = sink;
  bool any = false;
  for (const Interval& i : intervals) {
    for (std::int64_t j = i.begin; j < i.end; j += i.step) {
      any = any || s[j] != -kInfinity;
      most = std::max(most, s[j]);
      if (std::isnan(s[j])) most = s[j];  // a NaN that is seen is shown
    }
  }
  if (!any) return;
  double sum = sinks ? std::exp(sink - most) : 0;
  for (const Interval& i : intervals) {
    for (std::int64_t j = i.begin; j < i.end; j += i.step) sum += out[j] = std::exp(s[j] - most);
  }
  for (const Interval& i : intervals) {
    for (std::int64_t j = i.begin; j < i.end; j += i.step) out[j] /= sum;
  }
}

}  // namespace attn::inspect

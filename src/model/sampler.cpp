#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "base/random.h"

namespace attn {

Sampler::Sampler(const SamplerOptions& options) : options_(options) {
  const auto check = [](bool fine, const char* name, double value, const char* must) {
    if (!fine) {
      throw std::invalid_argument(std::string("[sampler] ") + name + " is " +
                                  std::to_string(value) + ", must be " + must);
    }
  };
  const SamplerOptions& o = options;
  check(o.temperature >= 0 && std::isfinite(o.temperature), "temperature", o.temperature,
        "0 or more");
  check(o.top_k >= 0, "top_k", static_cast<double>(o.top_k), "0 or more");
  check(o.top_p > 0 && o.top_p <= 1, "top_p", o.top_p, "in (0, 1]");
  check(o.min_p >= 0 && o.min_p <= 1, "min_p", o.min_p, "in [0, 1]");
  check(o.repetition_penalty > 0 && std::isfinite(o.repetition_penalty), "repetition_penalty",
        o.repetition_penalty, "above 0");
}

double Sampler::draw() {
  const auto words = philox4x32(
      {static_cast<std::uint32_t>(draws_), static_cast<std::uint32_t>(draws_ >> 32), 0, 0},
      {static_cast<std::uint32_t>(options_.seed), static_cast<std::uint32_t>(options_.seed >> 32)});
  ++draws_;
  const std::uint64_t bits = std::uint64_t{words[1]} << 32 | words[0];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

std::int32_t Sampler::next(std::span<const float> logits, std::span<const std::int32_t> before) {
  candidates_.clear();
  for (std::size_t i = 0; i < logits.size(); ++i)
    candidates_.emplace_back(logits[i], static_cast<std::int32_t>(i));
  if (options_.repetition_penalty != 1) {
    const auto penalty = static_cast<float>(options_.repetition_penalty);
    for (const std::int32_t token : before) {
      if (token < 0 || static_cast<std::size_t>(token) >= logits.size()) continue;
      const float logit = logits[static_cast<std::size_t>(token)];
      candidates_[static_cast<std::size_t>(token)].first =
          logit > 0 ? logit / penalty : logit * penalty;
    }
  }
  // NaN and -infinity are never chosen.
  std::erase_if(candidates_,
                [](const auto& c) { return !(c.first > -std::numeric_limits<float>::infinity()); });
  if (candidates_.empty()) throw std::invalid_argument("[sampler] no logit is above -infinity");
  // Most probable first, the lower token among equals.
  const auto before_other = [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  if (options_.temperature == 0)
    return std::min_element(candidates_.begin(), candidates_.end(), before_other)->second;

  std::size_t kept = candidates_.size();
  if (options_.top_k > 0) kept = std::min(kept, static_cast<std::size_t>(options_.top_k));
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(kept),
                    candidates_.end(), before_other);
  std::vector<double> weights(kept);
  const double top = candidates_[0].first;
  double all = 0;
  for (std::size_t i = 0; i < kept; ++i) {
    // Infinite logits share everything.
    const double difference = candidates_[i].first == top ? 0 : candidates_[i].first - top;
    weights[i] = std::exp(difference / options_.temperature);
    all += weights[i];
  }
  if (options_.top_p < 1) {
    double sum = 0;
    std::size_t n = 0;
    while (n < kept && sum < options_.top_p * all) sum += weights[n++];
    kept = n;
    all = sum;
  }
  if (options_.min_p > 0) {
    std::size_t n = 0;
    double sum = 0;
    while (n < kept && weights[n] >= options_.min_p) sum += weights[n++];
    kept = n;
    all = sum;
  }
  double left = draw() * all;
  for (std::size_t i = 0; i + 1 < kept; ++i) {
    left -= weights[i];
    if (left < 0) return candidates_[i].second;
  }
  return candidates_[kept - 1].second;
}

}  // namespace attn

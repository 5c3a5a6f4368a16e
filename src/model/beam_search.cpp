#include "model/beam_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace attn {

namespace {

constexpr float kHidden = -std::numeric_limits<float>::infinity();

void log_softmax(std::vector<float>& x) {
  const float largest = *std::max_element(x.begin(), x.end());
  if (!(largest > kHidden)) return;  // all are hidden
  double sum = 0;
  for (const float value : x) sum += std::exp(static_cast<double>(value - largest));
  const double log_sum = static_cast<double>(largest) + std::log(sum);
  for (float& value : x) value = static_cast<float>(static_cast<double>(value) - log_sum);
}

void hide_all_but(const std::vector<std::int32_t>& tokens, std::vector<float>& x) {
  std::fill(x.begin(), x.end(), kHidden);
  for (const std::int32_t token : tokens) x.at(static_cast<std::size_t>(token)) = 0;
}

// Tokens that would end a run of `size` which is there already.
void hide_repeats(const std::vector<std::int32_t>& ids, std::size_t size, std::vector<float>& x) {
  if (ids.size() + 1 < size) return;
  const auto tail = ids.end() - static_cast<std::ptrdiff_t>(size - 1);
  for (std::size_t i = 0; i + size <= ids.size(); ++i) {
    if (std::equal(tail, ids.end(), ids.begin() + static_cast<std::ptrdiff_t>(i)))
      x[static_cast<std::size_t>(ids[i + size - 1])] = kHidden;
  }
}

struct Candidate {
  double log_probability = 0;
  std::size_t beam = 0;
  std::int32_t token = 0;
};

// The more probable first, of equal ones the earlier beam's lower token.
bool before(const Candidate& a, const Candidate& b) {
  if (a.log_probability != b.log_probability) return a.log_probability > b.log_probability;
  return a.beam != b.beam ? a.beam < b.beam : a.token < b.token;
}

}  // namespace

BeamSearch::BeamSearch(SearchSettings settings, std::int32_t start)
    : settings_(std::move(settings)), running_{Beam{0, {start}, 0}} {
  constexpr std::int64_t kMostBeams = 1024;
  if (settings_.beams < 1 || settings_.beams > kMostBeams || settings_.max_tokens < 1 ||
      !std::isfinite(settings_.length_penalty)) {
    throw std::invalid_argument("[beam search] " + std::to_string(settings_.beams) +
                                " beams (1 to " + std::to_string(kMostBeams) + "), " +
                                std::to_string(settings_.max_tokens) +
                                " tokens (at least 1), length penalty " +
                                std::to_string(settings_.length_penalty) + " (any number)");
  }
  // One beam ends where its most probable token does: it has no other to wait for.
  if (settings_.beams == 1) settings_.early_stopping = EarlyStopping::yes;
}

bool BeamSearch::is_end(std::int32_t token) const {
  return std::find(settings_.ends.begin(), settings_.ends.end(), token) != settings_.ends.end();
}

void BeamSearch::apply_rules(const Beam& beam, std::vector<float>& x) const {
  const auto generated = static_cast<std::int64_t>(beam.ids.size()) - 1;
  if (settings_.no_repeat_ngram > 0)
    hide_repeats(beam.ids, static_cast<std::size_t>(settings_.no_repeat_ngram), x);
  for (const std::int32_t token : settings_.banned) x.at(static_cast<std::size_t>(token)) = kHidden;
  if (generated < settings_.min_tokens) {
    for (const std::int32_t token : settings_.ends) x.at(static_cast<std::size_t>(token)) = kHidden;
  }
  if (settings_.first && generated == 0) hide_all_but({*settings_.first}, x);
  if (!settings_.last.empty() && generated + 1 == settings_.max_tokens)
    hide_all_but(settings_.last, x);
  if (settings_.renormalize) log_softmax(x);
}

void BeamSearch::keep(FoundText text) {
  const auto worse = std::find_if(found_.begin(), found_.end(),
                                  [&](const FoundText& other) { return other.score < text.score; });
  found_.insert(worse, std::move(text));
  if (found_.size() > static_cast<std::size_t>(settings_.beams)) found_.pop_back();
}

void BeamSearch::advance(std::span<const float> logits) {
  if (done_) throw std::logic_error("[beam search] advance() after the end");
  const auto beams = static_cast<std::size_t>(settings_.beams);
  const std::size_t vocabulary = logits.size() / running_.size();
  // Enough that `beams` are left to run on where others end.
  const std::size_t most = std::max<std::size_t>(2, 1 + settings_.ends.size()) * beams;
  std::vector<Candidate> best;  // a heap, the least probable first, until it is sorted
  std::vector<float> row;
  for (std::size_t b = 0; b < running_.size(); ++b) {
    const auto of_beam = logits.subspan(b * vocabulary, vocabulary);
    row.assign(of_beam.begin(), of_beam.end());
    log_softmax(row);
    apply_rules(running_[b], row);
    for (std::size_t t = 0; t < vocabulary; ++t) {
      if (!(row[t] > kHidden)) continue;
      const Candidate candidate{running_[b].log_probability + static_cast<double>(row[t]), b,
                                static_cast<std::int32_t>(t)};
      if (best.size() == most) {
        if (!before(candidate, best.front())) continue;
        std::pop_heap(best.begin(), best.end(), before);
        best.pop_back();
      }
      best.push_back(candidate);
      std::push_heap(best.begin(), best.end(), before);
    }
  }
  std::sort_heap(best.begin(), best.end(), before);

  const auto tokens = static_cast<std::int64_t>(running_.front().ids.size());  // with the new one
  const auto scored = [&](double log_probability, std::int64_t length) {
    return log_probability / std::pow(static_cast<double>(length), settings_.length_penalty);
  };
  std::vector<Beam> next;
  for (std::size_t i = 0; i < best.size(); ++i) {
    const Candidate& c = best[i];
    const bool ends = is_end(c.token);
    if (!ends && tokens < settings_.max_tokens) {
      if (next.size() == beams) continue;
      Beam& beam = next.emplace_back(Beam{c.beam, running_[c.beam].ids, c.log_probability});
      beam.ids.push_back(c.token);
    } else if (i < beams) {
      FoundText text;
      text.ids.assign(running_[c.beam].ids.begin() + 1, running_[c.beam].ids.end());
      if (!ends) text.ids.push_back(c.token);
      text.ended = ends;
      text.log_probability = c.log_probability;
      text.score = scored(c.log_probability, tokens);
      keep(std::move(text));
    }
  }
  running_ = std::move(next);
  done_ = running_.empty();
  if (done_ || found_.size() < beams) return;
  const bool may_grow =
      settings_.early_stopping == EarlyStopping::never && settings_.length_penalty > 0;
  const double hope =
      scored(running_.front().log_probability, may_grow ? settings_.max_tokens : tokens);
  done_ = settings_.early_stopping == EarlyStopping::yes || !(hope > found_.back().score);
}

}  // namespace attn

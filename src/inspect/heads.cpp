#include "attn/heads.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "inspect/documents.h"
#include "inspect/head_sums.h"

namespace attn {

namespace {

using inspect::HeadAnswers;
using inspect::Ids;
using inspect::kinds_of;
using inspect::TableSums;
using inspect::TokenKind;

constexpr std::int64_t kDefaultLength = 1024;
constexpr std::int64_t kPeriod = 100;           // tokens that come twice
constexpr std::int64_t kRepeatedSequences = 4;  // with 100 queries each, enough for two digits

std::int64_t checked_length(std::int64_t length, std::int64_t most, std::int64_t positions) {
  if (length == 0) return most;
  if (length < 2 || length > positions) {
    throw std::invalid_argument("[heads] length is " + std::to_string(length) + ", must be 2 to " +
                                std::to_string(positions) + ", the model's positions");
  }
  return length;
}

template <class T>
void check_some(const std::vector<T>& documents) {
  if (documents.empty())
    throw std::invalid_argument("[heads] the texts have no document of two tokens");
}

// Sums of a model's heads and of even ones, over documents of any lengths.
class Measuring {
 public:
  // mask(layer, tokens).
  Measuring(const ModelInfo& info, std::function<Mask(std::int64_t, std::int64_t)> mask,
            const std::function<void(std::int64_t, std::int64_t)>& progress, std::int64_t runs)
      : info_(info),
        mask_(std::move(mask)),
        progress_(progress),
        runs_(runs),
        sums_(info.layers, info.heads) {}

  void document(const std::vector<TokenKind>& kinds, const auto& observe) {
    answer(static_cast<std::int64_t>(kinds.size()), observe);
    sums_.add(*answers_, *even_answers_, kinds);
  }
  void repeated(std::int64_t tokens, const auto& observe) {
    answer(tokens, observe);
    sums_.add_repeated(*answers_, *even_answers_, kPeriod);
  }
  void ran() {
    if (progress_) progress_(++done_, runs_);
  }

  HeadTable table() const { return sums_.table(); }

 private:
  void answer(std::int64_t tokens, const auto& observe) {
    if (!answers_ || answers_->tokens != tokens) {
      answers_.emplace(info_.layers, info_.heads, tokens);
      even_answers_.emplace(info_.layers, 1, tokens);
      for (std::int64_t i = 0; i < info_.layers; ++i)
        even_answers_->answer_evenly(i, mask_(i, tokens));
    }
    observe(answers_->observed());
    ran();
  }

  const ModelInfo& info_;
  std::function<Mask(std::int64_t, std::int64_t)> mask_;
  const std::function<void(std::int64_t, std::int64_t)>& progress_;
  std::int64_t runs_, done_ = 0;
  TableSums sums_;
  std::optional<HeadAnswers> answers_, even_answers_;
};

// The sum of losses of a document's tokens.
double loss_of(const LanguageModel& model, const Ids& ids, const HeadAblation& ablation) {
  const auto tokens = static_cast<std::int64_t>(ids.size());
  const TextScore score =
      model.score(ids, {.window = tokens, .step = tokens - 1, .ablation = ablation});
  return score.mean_loss * static_cast<double>(score.losses.size());
}

}  // namespace

HeadTable measure_heads(const LanguageModel& model, std::span<const std::string> texts,
                        const HeadOptions& options) {
  const ModelInfo& info = model.info();
  const std::int64_t length = checked_length(
      options.length, std::min(kDefaultLength, info.max_positions), info.max_positions);
  const std::vector<Ids> documents = inspect::split(model, texts, length, options.documents);
  check_some(documents);
  const Ids begin = model.encode("");
  const auto repeated_tokens = static_cast<std::int64_t>(begin.size()) + 2 * kPeriod;
  const std::int64_t repeated = repeated_tokens <= info.max_positions ? kRepeatedSequences : 0;
  const auto count = static_cast<std::int64_t>(documents.size());
  const std::int64_t ablated = options.ablation ? 1 + info.layers * info.heads : 0;
  Measuring measuring(
      info, [&](std::int64_t layer, std::int64_t) { return model.mask(layer); }, options.progress,
      count + repeated + ablated * count);
  for (const Ids& ids : documents) {
    measuring.document(kinds_of(model.tokens(ids)),
                       [&](const Observed& observed) { model.observe(ids, observed); });
  }
  for (std::int64_t i = 0; i < repeated; ++i) {
    const Ids drawn = inspect::random_ids(model, kPeriod, static_cast<std::uint32_t>(i));
    Ids ids = begin;
    for (int twice = 0; twice < 2; ++twice) ids.insert(ids.end(), drawn.begin(), drawn.end());
    measuring.repeated(repeated_tokens,
                       [&](const Observed& observed) { model.observe(ids, observed); });
  }
  HeadTable table = measuring.table();
  if (!options.ablation) return table;
  double before = 0, predicted = 0;
  for (const Ids& ids : documents) {
    before += loss_of(model, ids, {});
    predicted += static_cast<double>(ids.size() - 1);
    measuring.ran();
  }
  for (HeadMeasures& head : table.heads) {
    double after = 0;
    for (const Ids& ids : documents) {
      after += loss_of(model, ids, {.heads = {{head.layer, head.head}}});
      measuring.ran();
    }
    head.ablation = (after - before) / predicted;
  }
  return table;
}

HeadTable measure_heads(const Model& model, std::span<const std::string> texts,
                        const HeadOptions& options) {
  if (options.ablation)
    throw std::invalid_argument("[heads] ablation needs a language model, whose loss it changes");
  const ModelInfo& info = model.info();
  const std::int64_t length = checked_length(options.length, info.max_length, info.max_positions);
  const std::vector<Encoding> documents = inspect::split(model, texts, length, options.documents);
  check_some(documents);
  Measuring measuring(
      info, [&](std::int64_t layer, std::int64_t tokens) { return model.mask(layer, tokens); },
      options.progress, static_cast<std::int64_t>(documents.size()));
  for (const Encoding& text : documents) {
    measuring.document(kinds_of(text.tokens),
                       [&](const Observed& observed) { model.observe(text, observed); });
  }
  return measuring.table();
}

}  // namespace attn

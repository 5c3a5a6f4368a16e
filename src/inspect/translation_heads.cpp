#include <algorithm>
#include <optional>
#include <stdexcept>

#include "attn/heads.h"
#include "inspect/head_sums.h"

namespace attn {

namespace {

using inspect::HeadAnswers;
using inspect::TableSums;
using inspect::TokenKind;

// Sums of one kind of attention, and of even heads in its place, over pairs of texts.
class Side {
 public:
  Side(const ModelInfo& info, const Mask& mask, bool cross)
      : layers_(info.layers),
        heads_(info.heads),
        mask_(mask),
        cross_(cross),
        sums_(info.layers, info.heads) {}

  Observed ask(std::int64_t queries, std::int64_t keys) {
    const auto asked = [&](std::int64_t heads) {
      return cross_ ? HeadAnswers(layers_, heads, queries, keys)
                    : HeadAnswers(layers_, heads, queries);
    };
    answers_.emplace(asked(heads_));
    even_answers_.emplace(asked(1));
    for (std::int64_t i = 0; i < layers_; ++i) even_answers_->answer_evenly(i, mask_);
    return answers_->observed();
  }
  // After the run that answered; kinds of the keys.
  void add(const std::vector<TokenKind>& kinds) { sums_.add(*answers_, *even_answers_, kinds); }
  HeadTable table() const { return sums_.table(); }

 private:
  std::int64_t layers_, heads_;
  Mask mask_;
  bool cross_;
  TableSums sums_;
  std::optional<HeadAnswers> answers_, even_answers_;
};

}  // namespace

TranslationHeadTable measure_heads(const TranslationModel& model,
                                   std::span<const std::string> sources,
                                   std::span<const std::string> targets,
                                   const HeadOptions& options) {
  if (!targets.empty() && targets.size() != sources.size()) {
    throw std::invalid_argument("[heads] there are " + std::to_string(sources.size()) +
                                " sources and " + std::to_string(targets.size()) + " targets");
  }
  if (options.length != 0 || options.ablation)
    throw std::invalid_argument("[heads] length and ablation are not for encoder-decoders");
  const auto pairs = std::min(static_cast<std::int64_t>(sources.size()), options.documents);
  if (pairs < 1) throw std::invalid_argument("[heads] there are no texts");
  Side encoder(model.info(), Mask::full(), false),
      decoder(model.decoder_info(), Mask::causal(), false),
      cross(model.decoder_info(), Mask::full(), true);
  for (std::int64_t i = 0; i < pairs; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const std::vector<std::int32_t> source = model.encode(sources[at]);
    const std::vector<std::int32_t> target =
        targets.empty() ? model.translate(source).ids : model.encode_target(targets[at]);
    const auto of_source = inspect::kinds_of(model.tokens(source)),
               of_target = inspect::kinds_of(model.target_tokens(target));
    const auto keys = static_cast<std::int64_t>(of_source.size()),
               queries = static_cast<std::int64_t>(of_target.size());
    model.observe(source, target,
                  {.encoder = encoder.ask(keys, keys),
                   .decoder = decoder.ask(queries, queries),
                   .cross = cross.ask(queries, keys)});
    encoder.add(of_source);
    decoder.add(of_target);
    cross.add(of_source);
    if (options.progress) options.progress(i + 1, pairs);
  }
  return {.encoder = encoder.table(), .decoder = decoder.table(), .cross = cross.table()};
}

}  // namespace attn

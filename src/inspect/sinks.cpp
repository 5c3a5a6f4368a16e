#include <numeric>
#include <stdexcept>

#include "attn/heads.h"
#include "inspect/documents.h"
#include "inspect/head_sums.h"

namespace attn {

namespace {

using inspect::HeadAnswers;
using inspect::Ids;

SinkTable::Input sinks_of(const LanguageModel& model, const std::string& name,
                          const std::vector<Ids>& sequences, const std::function<void()>& ran) {
  const ModelInfo& info = model.info();
  const std::int64_t rows = info.layers * info.heads;
  SinkTable::Input input{.name = name,
                         .sequences = static_cast<std::int64_t>(sequences.size()),
                         .first = std::vector<double>(static_cast<std::size_t>(rows))};
  for (const Ids& ids : sequences) {
    HeadAnswers answers(info.layers, info.heads, static_cast<std::int64_t>(ids.size()));
    model.observe(ids, answers.observed());
    ran();
    for (std::int64_t row = 0; row < rows; ++row) {
      const double first = answers.column(row, 0) / static_cast<double>(ids.size());
      input.first[static_cast<std::size_t>(row)] += first;
      if (first > kSinkMass) ++input.share;
    }
  }
  const double count = static_cast<double>(sequences.size());
  for (double& first : input.first) first /= count;
  input.share /= count * static_cast<double>(rows);
  return input;
}

}  // namespace

SinkTable measure_sinks(const LanguageModel& model, std::span<const std::string> texts,
                        const SinkOptions& options) {
  const std::int64_t length = options.length, most = model.info().max_positions;
  if (length < 2 || length > most) {
    throw std::invalid_argument("[sinks] length is " + std::to_string(length) + ", must be 2 to " +
                                std::to_string(most) + ", the model's positions");
  }
  std::vector<Ids> natural = inspect::split(model, texts, length, options.sequences);
  std::erase_if(natural,
                [&](const Ids& ids) { return static_cast<std::int64_t>(ids.size()) < length; });
  if (natural.empty()) {
    throw std::invalid_argument("[sinks] the texts have no sequence of " + std::to_string(length) +
                                " tokens");
  }
  std::vector<Ids> random, repeated;
  for (std::int64_t i = 0; i < options.sequences; ++i) {
    random.push_back(inspect::random_ids(model, length, static_cast<std::uint32_t>(i)));
    repeated.emplace_back(static_cast<std::size_t>(length), random.back().front());
  }
  const auto all = static_cast<std::int64_t>(natural.size() + random.size() + repeated.size());
  std::int64_t done = 0;
  const auto ran = [&] {
    if (options.progress) options.progress(++done, all);
  };
  SinkTable table;
  table.length = length;
  table.inputs = {sinks_of(model, "natural", natural, ran), sinks_of(model, "random", random, ran),
                  sinks_of(model, "repeated", repeated, ran)};
  HeadAnswers even(1, 1, length);
  even.answer_evenly(0, model.mask(0));
  table.uniform = even.column(0, 0) / static_cast<double>(length);
  return table;
}

}  // namespace attn

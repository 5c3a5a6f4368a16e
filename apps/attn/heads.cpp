// attn heads: what every head of a model does over a corpus, in one table.
#include "attn/heads.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <stdexcept>
#include <utility>

#include "arguments.h"
#include "head_columns.h"
#include "json.h"
#include "models.h"
#include "terminal.h"

namespace attn::cli {

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<std::string> read_all(const std::vector<std::string>& files) {
  std::vector<std::string> texts;
  for (const std::string& file : files) texts.push_back(read_text(file));
  return texts;
}

// Columns that say something about this model.
std::vector<HeadColumn> shown_columns(const HeadTable& table) {
  std::vector<HeadColumn> shown;
  for (const HeadColumn& column : head_columns()) {
    const bool some = std::any_of(table.heads.begin(), table.heads.end(), [&](const auto& head) {
      return column.value(head).value_or(0) != 0;
    });
    if (some) shown.push_back(column);
  }
  return shown;
}

std::string line(const std::string& name, const HeadMeasures& head,
                 const std::vector<HeadColumn>& columns) {
  std::string text = fmt::format("{:>6}", name);
  for (const HeadColumn& column : columns) {
    const auto value = column.value(head);
    const std::string number = value ? fmt::format("{:.{}f}", *value, column.digits) : "";
    text += fmt::format("  {:>{}}", number, std::max<std::size_t>(column.title.size(), 5));
  }
  return text + "\n";
}

std::string text_of(const HeadTable& table) {
  const std::vector<HeadColumn> columns = shown_columns(table);
  std::string header = fmt::format("{:>6}", "head");
  for (const HeadColumn& column : columns)
    header += fmt::format("  {:>{}}", column.title, std::max<std::size_t>(column.title.size(), 5));
  std::string text = bold(header) + "\n";
  // Even heads of layers that see the same say the same.
  std::vector<std::string> said;
  for (const HeadMeasures& even : table.uniform) {
    const std::string numbers = line("even", even, columns);
    if (std::find(said.begin(), said.end(), numbers) != said.end()) continue;
    text += said.empty() ? numbers : line(fmt::format("even {}", even.layer), even, columns);
    said.push_back(numbers);
  }
  for (const HeadMeasures& head : table.heads)
    text += line(fmt::format("{}.{}", head.layer, head.head), head, columns);
  return text;
}

std::string csv_header() {
  std::string text = "layer,head";
  for (const HeadColumn& column : head_columns()) text += "," + column.name;
  return text + "\n";
}

// `begin`: of every line.
std::string csv_lines(const HeadTable& table, const std::string& begin = "") {
  std::string text;
  const auto add = [&](const HeadMeasures& head, const std::string& name) {
    text += fmt::format("{}{},{}", begin, head.layer, name);
    for (const HeadColumn& column : head_columns()) {
      const auto value = column.value(head);
      text += value ? fmt::format(",{}", *value) : ",";
    }
    text += "\n";
  };
  for (const HeadMeasures& head : table.heads) add(head, std::to_string(head.head));
  for (const HeadMeasures& even : table.uniform) add(even, "even");
  return text;
}

// Largest first, what was not measured last.
void sort_heads(HeadTable& table, const std::string& by) {
  if (by.empty()) return;
  const HeadColumn& column = head_column(by);
  std::stable_sort(table.heads.begin(), table.heads.end(), [&](const auto& a, const auto& b) {
    const auto x = column.value(a), y = column.value(b);
    return x && (!y || *x > *y);
  });
}

void print_sinks(const HeadsOptions& options, const LanguageModel& model) {
  ProgressBar progress("measuring", "runs");
  SinkOptions how{.progress = std::ref(progress)};
  if (options.length > 0) how.length = options.length;
  if (options.documents > 0) how.sequences = options.documents;
  const SinkTable table = measure_sinks(model, read_all(options.files), how);
  progress.clear();
  if (options.common.json) return print(json(SinksReport{options.model, table}));
  std::string text =
      bold(fmt::format("{:<10}{:>10}{:>26}", "tokens", "sequences", "heads with a sink there")) +
      "\n";
  for (const SinkTable::Input& input : table.inputs) {
    text +=
        fmt::format("{:<10}{:>10}{:>24.2f} %\n", input.name, input.sequences, 100 * input.share);
  }
  print(text);
  note(
      fmt::format("sequences of {} tokens; a sink: more than {} of the mass on the first token, "
                  "a mean over queries (an even head: {:.3f})",
                  table.length, kSinkMass, table.uniform));
}

// Every line is a text, and belongs to the same line of the targets.
void print_translation_heads(const HeadsOptions& options, const TranslationModel& model) {
  const bool given = !options.target.empty();
  std::vector<std::string> lines, sources, targets;
  for (const std::string& text : read_all(options.files)) {
    const std::vector<std::string> more = all_lines(text);
    lines.insert(lines.end(), more.begin(), more.end());
  }
  const std::vector<std::string> of_target =
      given ? all_lines(read_text(options.target)) : std::vector<std::string>{};
  if (given && of_target.size() != lines.size()) {
    throw std::invalid_argument(fmt::format("heads: the texts have {} lines, '{}' has {}",
                                            lines.size(), options.target, of_target.size()));
  }
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (is_blank(lines[i])) continue;
    sources.push_back(lines[i]);
    if (given) targets.push_back(of_target[i]);
  }
  TranslationHeadTable tables;
  const auto start = std::chrono::steady_clock::now();
  {
    ProgressBar progress("measuring", "runs");
    HeadOptions how{
        .length = options.length, .ablation = options.ablation, .progress = std::ref(progress)};
    if (options.documents > 0) how.documents = options.documents;
    tables = measure_heads(model, sources, targets, how);
  }
  const double seconds = seconds_since(start);
  const std::pair<const char*, HeadTable*> parts[] = {
      {"encoder", &tables.encoder}, {"decoder", &tables.decoder}, {"cross", &tables.cross}};
  std::string text = options.csv ? "part," + csv_header() : "";
  for (const auto& [name, table] : parts) {
    sort_heads(*table, options.sort);
    if (options.csv)
      text += csv_lines(*table, std::string(name) + ",");
    else
      text += (text.empty() ? "" : "\n") + bold(name) + "\n" + text_of(*table);
  }
  if (options.common.json)
    return print(json(TranslationHeadsReport{options.model, tables, seconds}));
  print(text);
  note(fmt::format("{} pairs of texts, {} tokens of sources and {} of targets, in {}",
                   tables.cross.documents, tables.encoder.tokens, tables.decoder.tokens,
                   duration_text(seconds * 1e3)));
}

}  // namespace

void heads(const HeadsOptions& options) {
  const std::string path = model_path(options.model, options.offline);
  const Context context = options.common.context();
  if (is_translation_model(path)) {
    if (options.sinks) throw std::invalid_argument("heads: --sinks needs a language model");
    return print_translation_heads(options, TranslationModel::load(path, context));
  }
  if (!options.target.empty()) {
    throw std::invalid_argument("heads: --target needs an encoder-decoder, which '" +
                                options.model + "' is not");
  }
  if (options.sinks) return print_sinks(options, LanguageModel::load(path, context));
  HeadTable table;
  double seconds = 0;
  {
    ProgressBar progress("measuring", "runs");
    HeadOptions how{
        .length = options.length, .ablation = options.ablation, .progress = std::ref(progress)};
    if (options.documents > 0) how.documents = options.documents;
    const auto measure = [&](const auto& model) {
      const auto start = std::chrono::steady_clock::now();
      table = measure_heads(model, read_all(options.files), how);
      seconds = seconds_since(start);
    };
    if (is_language_model(path))
      measure(LanguageModel::load(path, context));
    else
      measure(Model::load(path, context));
  }
  sort_heads(table, options.sort);
  if (options.common.json) return print(json(HeadsReport{options.model, table, seconds}));
  print(options.csv ? csv_header() + csv_lines(table) : text_of(table));
  note(fmt::format("{} documents of up to {} tokens, {} in all, in {}", table.documents,
                   table.length, table.tokens, duration_text(seconds * 1e3)));
}

}  // namespace attn::cli

#include "json.h"

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "head_columns.h"

namespace attn::cli {

namespace {

using Json = nlohmann::ordered_json;

// The double whose shortest decimal is the float's: 0.1f prints as 0.1, not 0.10000000149.
Json number(float value) {
  if (!std::isfinite(value)) return nullptr;
  char digits[64];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  double shortest = 0;
  std::from_chars(digits, end, shortest);
  return shortest;
}

template <class It>
Json numbers(It begin, It end) {
  Json list = Json::array();
  for (; begin != end; ++begin) list.push_back(number(*begin));
  return list;
}

// Bytes of a text that are not UTF-8 become U+FFFD: JSON is UTF-8.
std::string text(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

std::string json(const RunReport& report) {
  Json texts = Json::array();
  for (const RunReport::Text& t : report.texts) {
    Json entry = {{"text", t.text},
                  {"tokens", t.tokens},
                  {"truncated", t.truncated},
                  {"embedding", numbers(t.embedding.begin(), t.embedding.end())}};
    if (!t.hidden.empty() && !t.tokens.empty()) {
      const auto width = static_cast<std::ptrdiff_t>(t.hidden.size() / t.tokens.size());
      Json rows = Json::array();
      for (auto row = t.hidden.begin(); row != t.hidden.end(); row += width) {
        rows.push_back(numbers(row, row + width));
      }
      entry["hidden"] = std::move(rows);
    }
    texts.push_back(std::move(entry));
  }
  return text(
      {{"model", report.model},
       {"texts", std::move(texts)},
       {"similarity", report.similarity.empty() ? Json(nullptr) : Json(report.similarity)}});
}

std::string json(const GenerateReport& report) {
  static constexpr const char* kEnds[] = {"end token", "stop text", "max tokens"};
  const auto members = [](const Generation& g) {
    const double steps = static_cast<double>(g.ids.size()) - 1;
    return Json{{"text", g.text},
                {"ids", g.ids},
                {"end", kEnds[static_cast<int>(g.end)]},
                {"prompt_tokens", g.prompt_tokens},
                {"prompt_seconds", g.prompt_seconds},
                {"seconds", g.seconds},
                {"tokens_per_second",
                 steps > 0 && g.seconds > 0 ? Json(steps / g.seconds) : Json(nullptr)}};
  };
  Json all = {{"model", report.model}};
  if (!report.several) {
    all.update(members(report.generations.front()));
  } else {
    all["generations"] = Json::array();
    for (std::size_t i = 0; i < report.generations.size(); ++i) {
      Json one = {{"prompt", report.prompts[i]}};
      one.update(members(report.generations[i]));
      all["generations"].push_back(std::move(one));
    }
  }
  return text(all);
}

std::string json(const ScoreReport& report) {
  const auto members = [](const TextScore& s) {
    return Json{{"perplexity", s.perplexity},
                {"mean_loss", s.mean_loss},
                {"losses", numbers(s.losses.begin(), s.losses.end())}};
  };
  Json all = {
      {"model", report.model},       {"file", report.file},
      {"tokens", report.ids.size()}, {"window", report.whole.window},
      {"step", report.whole.step},   {"sinks", report.sinks ? Json(*report.sinks) : Json(nullptr)}};
  all.update(members(report.whole));
  all["top_share"] = report.top_share;
  all["ids"] = report.ids;
  all["top"] = report.whole.top;
  all["ablation"] = nullptr;
  if (report.ablated) {
    all["ablation"] = {{"heads", report.ablate}, {"with", report.ablate_with}};
    all["ablation"].update(members(*report.ablated));
  }
  return text(all);
}

std::string json(const TranslateReport& report) {
  Json lines = Json::array();
  for (const TranslateReport::Line& line : report.translations) {
    const Translation& t = line.translation;
    lines.push_back({{"source", line.source},
                     {"text", t.text},
                     {"ids", t.ids},
                     {"tokens", t.tokens},
                     {"score", t.score},
                     {"log_probability", t.log_probability},
                     {"ended", t.ended}});
  }
  return text({{"model", report.model}, {"translations", std::move(lines)}});
}

std::string json(const ObserveReport& report) {
  const Generation& g = report.generation;
  const std::int64_t heads = report.info.heads;
  Json tokens = Json::array();
  for (const RecordToken& token : report.tokens) tokens.push_back(token.text);
  Json steps = Json::array();
  for (std::size_t i = 0; i < g.ids.size(); ++i) {
    const TokenAttention& a = g.attention[i];
    const std::size_t top = a.keys.size() / a.entropy.size();
    Json layers = Json::array();
    for (std::int64_t l = 0; l < report.info.layers; ++l) {
      Json row = Json::array();
      for (std::int64_t h = 0; h < heads; ++h) {
        const auto at = static_cast<std::size_t>(l * heads + h);
        Json keys = Json::array(), weights = Json::array();
        for (std::size_t k = at * top; k < (at + 1) * top && a.keys[k] >= 0; ++k) {
          keys.push_back(a.keys[k]);
          weights.push_back(number(a.weights[k]));
        }
        row.push_back({{"keys", std::move(keys)},
                       {"weights", std::move(weights)},
                       {"entropy", number(a.entropy[at])},
                       {"sink", number(a.sink[at])}});
      }
      layers.push_back(std::move(row));
    }
    const std::int64_t place = g.prompt_tokens + static_cast<std::int64_t>(i);
    steps.push_back({{"token", place},
                     {"id", g.ids[i]},
                     {"text", report.tokens[static_cast<std::size_t>(place)].text},
                     {"query", place - 1},
                     {"layers", std::move(layers)}});
  }
  return text({{"model", report.model},
               {"layers", report.info.layers},
               {"heads", heads},
               {"prompt_tokens", g.prompt_tokens},
               {"tokens", std::move(tokens)},
               {"generated", std::move(steps)}});
}

namespace {

Json look_part(const LookPart& part) {
  const bool cross = !part.keys.empty();
  Json heads = Json::array();
  for (const HeadStatistics& h : part.heads) {
    Json head = {{"layer", h.layer},
                 {"head", h.head},
                 {"entropy", h.entropy},
                 {"relative_entropy", h.relative_entropy}};
    // Between two texts there are no neighbours and no distance.
    if (!cross) head.update({{"previous", h.previous}, {"next", h.next}, {"self", h.self}});
    head.update({{"first", h.first}, {"special", h.special}});
    if (!cross) head["distance"] = h.distance;
    head["max_probability"] = h.max_probability;
    heads.push_back(std::move(head));
  }
  Json out = {{"tokens", part.tokens}, {"findings", part.findings}, {"heads", std::move(heads)}};
  if (cross) out["keys"] = part.keys;
  return out;
}

}  // namespace

std::string json(const LookReport& report) {
  Json out = {{"model", report.model}, {"page", report.page}};
  if (report.target) out["target"] = *report.target;
  for (const LookPart& part : report.parts) {
    if (part.name.empty())
      out.update(look_part(part));
    else
      out[part.name] = look_part(part);
  }
  if (!report.target) out["truncated"] = report.truncated;
  return text(out);
}

namespace {

Json members(const HeadTable& table) {
  const auto entry = [](Json to, const HeadMeasures& head) {
    for (const HeadColumn& column : head_columns()) {
      const auto value = column.value(head);
      to[column.name] = value ? Json(*value) : Json(nullptr);
    }
    return to;
  };
  Json heads = Json::array(), even = Json::array();
  for (const HeadMeasures& h : table.heads)
    heads.push_back(entry({{"layer", h.layer}, {"head", h.head}}, h));
  for (const HeadMeasures& h : table.uniform) even.push_back(entry({{"layer", h.layer}}, h));
  return {{"documents", table.documents},
          {"tokens", table.tokens},
          {"length", table.length},
          {"heads", std::move(heads)},
          {"uniform", std::move(even)}};
}

}  // namespace

std::string json(const HeadsReport& report) {
  Json all = {{"model", report.model}, {"seconds", report.seconds}};
  all.update(members(report.table));
  return text(all);
}

std::string json(const TranslationHeadsReport& report) {
  return text({{"model", report.model},
               {"seconds", report.seconds},
               {"encoder", members(report.tables.encoder)},
               {"decoder", members(report.tables.decoder)},
               {"cross", members(report.tables.cross)}});
}

std::string json(const SinksReport& report) {
  Json inputs = Json::array();
  for (const SinkTable::Input& input : report.table.inputs) {
    inputs.push_back({{"tokens", input.name},
                      {"sequences", input.sequences},
                      {"share", input.share},
                      {"first", input.first}});
  }
  return text({{"model", report.model},
               {"length", report.table.length},
               {"threshold", kSinkMass},
               {"uniform", report.table.uniform},
               {"inputs", std::move(inputs)}});
}

std::string json(const ExplainReport& report) {
  const AttentionShape& s = report.shape;
  const PlanSummary& p = report.plan;
  return text(
      {{"shape", {s.batch, s.q_heads, s.kv_heads, s.q_len, s.k_len, s.width}},
       {"value_width", s.v_width},
       {"dtype", name(s.dtype)},
       {"mask", report.mask},
       {"score", report.score},
       {"kernel", p.kernel},
       {"isa", name(p.isa)},
       {"threads", p.threads},
       {"tiles",
        {{"full", p.tiles_full}, {"partial", p.tiles_partial}, {"skipped", p.tiles_skipped}}},
       {"row_block", p.row_block},
       {"key_tile", p.key_tile},
       {"segment", p.segment},
       {"visible_pairs", p.visible_pairs},
       {"empty_rows", p.empty_rows},
       {"sees_future", p.sees_future},
       {"flops", p.flops},
       {"bytes", p.bytes},
       {"score_matrix_bytes", p.score_matrix_bytes},
       {"workspace_bytes", p.workspace_bytes},
       {"expected_ms", report.expected_ms ? Json(*report.expected_ms) : Json(nullptr)},
       {"expected_from", report.expected_from},
       {"picture", report.picture}});
}

std::string json(const MechanismReport& report) {
  Json costs = Json::array();
  for (const MechanismReport::Costs& c : report.mechanisms) {
    Json lengths = Json::array();
    for (const MechanismReport::Length& l : c.lengths) {
      lengths.push_back({{"length", l.length},
                         {"flops", l.cost.flops},
                         {"step_flops", l.cost.step_flops},
                         {"state_bytes", l.cost.state_bytes},
                         {"ms", l.ms ? Json(*l.ms) : Json(nullptr)}});
    }
    costs.push_back({{"name", c.about.name},
                     {"title", c.about.title},
                     {"faster_than_causal_from", c.crossing > 0 ? Json(c.crossing) : Json(nullptr)},
                     {"lengths", std::move(lengths)}});
  }
  const AttentionShape& s = report.shape;
  return text({{"topic", report.topic},
               {"text", report.text},
               {"shape", {s.batch, s.q_heads, s.kv_heads, s.q_len, s.k_len, s.width}},
               {"isa", report.isa},
               {"threads", report.threads},
               {"measured", report.measured},
               {"mechanisms", std::move(costs)}});
}

std::string json_topics() {
  Json topics = Json::array(), known = Json::array();
  for (const MechanismText& t : mechanism_texts()) topics.push_back(t.topic);
  for (const Mechanism& m : mechanisms()) {
    known.push_back({{"name", m.name}, {"title", m.title}, {"topic", m.topic}});
  }
  return text({{"topics", std::move(topics)}, {"mechanisms", std::move(known)}});
}

std::string json(const std::vector<Curve>& curves) {
  Json list = Json::array();
  for (const Curve& curve : curves) {
    Json points = Json::array();
    for (const CurvePoint& p : curve.points) {
      points.push_back(
          {{"length", p.length}, {"ms", p.seconds * 1e3}, {"peak_mb", p.peak_bytes * 1e-6}});
    }
    list.push_back({{"mechanism", curve.mechanism},
                    {"exponent", curve.exponent ? Json(*curve.exponent) : Json(nullptr)},
                    {"points", std::move(points)}});
  }
  return text(list);
}

namespace {

Json caches(const Machine& m) {
  return {{"l1d", m.l1d_bytes}, {"l2", m.l2_bytes}, {"l3", m.l3_bytes}};
}

Json measured(const Measured& row) {
  const Workload& w = row.workload;
  const AttentionShape& s = w.shape;
  const auto or_null = [](bool there, double value) { return there ? Json(value) : Json(nullptr); };
  return {{"shape", {s.batch, s.q_heads, s.kv_heads, s.q_len, s.k_len, s.width}},
          {"value_width", s.v_width > 0 ? s.v_width : s.width},
          {"mechanism", w.mechanism},
          {"mask", w.mask},
          {"score", w.score},
          {"pass", w.backward ? "backward" : "forward"},
          {"decode", w.decode},
          {"backward", w.backward},
          {"dtype", name(s.dtype)},
          {"kv_dtype", name(s.kv_dtype.value_or(s.dtype))},
          {"cache", name(w.layout)},
          {"ragged", w.ragged},
          {"dropout", w.dropout},
          {"observe", name(w.observe)},
          {"isa", name(row.isa)},
          {"threads", row.threads},
          {"ms", row.seconds * 1e3},
          {"ms_median", row.median_seconds * 1e3},
          {"flops", row.flops},
          {"bytes", row.bytes},
          {"gflops", row.flops * 1e-9 / row.seconds},
          {"ceiling_gflops", row.ceilings.gflops},
          {"ceiling_gbs", or_null(w.decode, row.ceilings.gigabytes)},
          {"bound", !row.memory_bound        ? "multiply-adds"
                    : w.mechanism == "exact" ? "reading"
                                             : "scaling"},
          {"share", row.share},
          {"share_median", row.median_share},
          {"spread", row.spread},
          {"samples", row.samples},
          {"peak_mb", row.peak_bytes * 1e-6},
          {"compared_with", row.relative_time > 0 ? Json(w.compared_with()) : Json(nullptr)},
          {"relative_time", or_null(row.relative_time > 0, row.relative_time)},
          {"crossing", row.crossing > 0 ? Json(row.crossing) : Json(nullptr)},
          {"peer", nullptr}};
}

Json measured(const std::vector<Measured>& rows) {
  Json list = Json::array();
  for (const Measured& row : rows) list.push_back(measured(row));
  return list;
}

}  // namespace

std::string json(const BenchReport& report) {
  Json ceilings = Json::array();
  for (const BenchReport::Ceiling& c : report.ceilings) {
    ceilings.push_back({{"isa", name(c.isa)},
                        {"threads", c.threads},
                        {"gflops", c.ceilings.gflops},
                        {"gbs", c.ceilings.gigabytes}});
  }
  return text({{"cpu", report.machine.cpu},
               {"caches", caches(report.machine)},
               {"ceilings", std::move(ceilings)},
               {"rows", measured(report.rows)}});
}

std::string json(const std::vector<Measured>& rows) { return measured(rows).dump(1) + "\n"; }

std::string json(const DoctorReport& report) {
  const Machine& m = report.machine;
  Json libraries = Json::object();
  for (const auto& [library, version] : report.libraries) libraries[library] = version;
  return text({{"version", report.version},
               {"compiler", report.compiler},
               {"isa", {{"used", report.isa}, {"available", report.isas}}},
               {"cpu", m.cpu},
               {"caches", caches(m)},
               {"threads",
                {{"used", report.threads},
                 {"usable", m.usable_threads},
                 {"logical_cpus", m.logical_cpus},
                 {"share_core", m.threads_share_core}}},
               {"libraries", std::move(libraries)},
               {"cache", {{"folder", report.cache}, {"models", report.models}}}});
}

std::string json(const std::vector<KnownModel>& models) {
  Json list = Json::array();
  for (const KnownModel& m : models) {
    list.push_back({{"name", m.name},
                    {"kind", m.kind},
                    {"bytes", m.bytes},
                    {"licence", m.licence},
                    {"source", m.source}});
  }
  return text(list);
}

std::string json_folder(const std::string& name, const std::string& folder) {
  return text({{"name", name}, {"path", folder}});
}

}  // namespace attn::cli

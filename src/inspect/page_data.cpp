#include "inspect/page_data.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <stdexcept>

#include "attn/position.h"
#include "inspect/layer_rows.h"
#include "inspect/pack.h"
#include "inspect/rows.h"

namespace attn::inspect {

namespace {

using nlohmann::json;

// From here on a page does not compute pictures of all heads when it opens: it brings them.
constexpr std::int64_t kLongText = 512;
constexpr std::int64_t kSide = 64;            // cells of such a picture
constexpr std::int64_t kSideAlone = 128;      // where it is all that there is to see
constexpr std::int64_t kRowsAlone = 16;       // exact rows of a head, beside it
constexpr std::int64_t kRowValues = 1 << 16;  // of which there are fewer, where they are long;
                                              // where states imply them as many, if there is room

json to_json(const std::vector<HeadStatistics>& statistics) {
  json list = json::array();
  for (const HeadStatistics& s : statistics) {
    list.push_back({{"entropy", s.entropy},
                    {"relative_entropy", s.relative_entropy},
                    {"previous", s.previous},
                    {"next", s.next},
                    {"self", s.self},
                    {"first", s.first},
                    {"special", s.special},
                    {"distance", s.distance},
                    {"max_probability", s.max_probability}});
  }
  return list;
}

json to_json(const std::vector<MaskRun>& runs) {
  json list = json::array();
  for (const MaskRun& run : runs) {
    json entry = json::array({run.rows});
    for (const MovingInterval& i : run.intervals) {
      entry.push_back({i.begin, i.begin_step, i.end, i.end_step, i.step});
    }
    list.push_back(std::move(entry));
  }
  return list;
}

// Masks are numbered; equal ones share a number.
class MaskTable {
 public:
  explicit MaskTable(const AttentionRecord& record) : geometry_(geometry(record)) {}

  // One number for all heads, or a list with one a head.
  json add(const Mask& mask) {
    for (const auto& [node, known] : known_) {
      if (node == &mask.node()) return known;
    }
    std::vector<std::size_t> ids;
    bool same = true;
    for (std::int64_t h = 0; h < geometry_.heads; ++h) {
      ids.push_back(number(mask_runs(mask, geometry_, h)));
      same = same && ids.back() == ids.front();
    }
    json result = same ? json(ids.front()) : json(ids);
    known_.emplace_back(&mask.node(), result);
    return result;
  }

  json table() const {
    json list = json::array();
    for (const std::vector<MaskRun>& runs : runs_) list.push_back(to_json(runs));
    return list;
  }

 private:
  std::size_t number(std::vector<MaskRun> runs) {
    for (std::size_t i = 0; i < runs_.size(); ++i) {
      if (runs_[i] == runs) return i;
    }
    runs_.push_back(std::move(runs));
    return runs_.size() - 1;
  }

  Geometry geometry_;
  std::vector<std::vector<MaskRun>> runs_;
  std::vector<std::pair<const Mask::Node*, json>> known_;
};

// Groups of `size` values, each with its own exponent; returns the exponents.
json pack_groups(Packer& packer, std::span<const float> values, std::int64_t size) {
  json exponents = json::array();
  for (std::size_t at = 0; at < values.size(); at += static_cast<std::size_t>(size)) {
    const auto group = values.subspan(at, static_cast<std::size_t>(size));
    const int exponent = group_exponent(group);
    exponents.push_back(exponent);
    packer.halves(group, exponent);
  }
  packer.align();
  return exponents;
}

json pack_score(Packer& packer, const AttentionRecord& record, const Score& score) {
  json j = {{"scale", scale_of(score, record.width)}, {"soft_cap", score.soft_cap}};
  if (!score.sinks.empty()) j["sinks"] = score.sinks;
  if (score.t5) {
    // T5 is a number a distance and head, and so is ALiBi: they travel together.
    j["relative"] = true;
    for (std::int64_t h = 0; h < record.heads; ++h) {
      const std::vector<double> bias = relative_bias(score, h, geometry(record));
      packer.floats(std::vector<float>(bias.begin(), bias.end()));
    }
  } else if (score.alibi_slopes) {
    j["alibi"] = score.alibi_slopes->empty() ? alibi_slopes(record.heads) : *score.alibi_slopes;
  }
  if (!score.bias.empty()) {
    const Shape& shape = score.bias.shape;
    j["bias"] = {shape[1], shape[2], shape[3]};
    std::vector<float> row(static_cast<std::size_t>(shape[3]));
    for (std::int64_t h = 0; h < shape[1]; ++h) {
      for (std::int64_t q = 0; q < shape[2]; ++q) {
        for (std::int64_t k = 0; k < shape[3]; ++k) {
          row[static_cast<std::size_t>(k)] = static_cast<float>(bias_at(score.bias, h, q, k));
        }
        packer.floats(row);
      }
    }
  }
  return j;
}

// What a layer takes of a page, about: two bytes a number, in five characters for four bytes. A
// query has two sums in float32, a key its value's norm.
double bytes(const Geometry& g, std::int64_t numbers_of_a_head) {
  return 2.5 * static_cast<double>(g.heads * (numbers_of_a_head + 4 * g.q_len + g.k_len));
}
double whole_bytes(const AttentionRecord& record) {
  const Geometry g = geometry(record);
  return bytes(g, record.width * g.q_len + kSide * kSide) +
         2.5 * static_cast<double>(record.kv_heads * record.width * g.k_len);
}

// Queries whose rows are kept where the layer cannot be: evenly through the text, the last one too.
std::vector<std::int64_t> kept_queries(const Geometry& g, std::int64_t rows = kRowsAlone) {
  const std::int64_t most = std::min(rows, g.q_len),
                     count = std::clamp<std::int64_t>(kRowValues / g.k_len, 1, most);
  std::vector<std::int64_t> queries;
  for (std::int64_t i = 1; i <= count; ++i) queries.push_back(i * g.q_len / count - 1);
  return queries;
}

// The same of a layer that is a picture and some rows.
double alone_bytes(const AttentionRecord& record, std::int64_t most_rows = kRowsAlone) {
  const Geometry g = geometry(record);
  const auto rows = static_cast<std::int64_t>(kept_queries(g, most_rows).size());
  return bytes(g, kSideAlone * kSideAlone + rows * g.k_len);
}

std::vector<float> floats(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

// Pictures, row sums and exact rows, as the observers saw them.
json pack_sketch(Packer& packer, const AttentionRecord& record, const LayerRows& rows,
                 const LayerQuestions& asked, bool specials) {
  json j = {{"rows", asked.rows}, {"columns", asked.columns}, {"queries", asked.queries}};
  j["picture_exponent"] = pack_groups(packer, floats(rows.picture), asked.rows * asked.columns);
  packer.floats(floats(rows.lse));
  if (specials) packer.floats(floats(rows.plain));
  if (!asked.queries.empty())
    j["rows_exponent"] = pack_groups(packer, floats(rows.exact), geometry(record).k_len);
  return j;
}

json tokens_json(const std::vector<RecordToken>& tokens, bool verbatim) {
  json text = json::array(), special = json::array(), word = json::array(), segment = json::array(),
       generated = json::array();
  for (const RecordToken& t : tokens) {
    text.push_back(valid_utf8(t.text));
    special.push_back(t.special ? 1 : 0);
    word.push_back(t.word);
    segment.push_back(t.segment);
    generated.push_back(t.generated ? 1 : 0);
  }
  return {{"text", text},       {"special", special},     {"word", word},
          {"segment", segment}, {"generated", generated}, {"verbatim", verbatim}};
}

bool has_special(const std::vector<RecordToken>& tokens) {
  return std::any_of(tokens.begin(), tokens.end(), [](const RecordToken& t) { return t.special; });
}

// One record. `room`: bytes that are left for queries and keys; `text` takes what is packed.
json record_json(
    const AttentionRecord& record, const Context& context, double& room,
    const std::function<void(const char* kind, std::size_t layer, std::string)>& text) {
  const Geometry g = geometry(record);
  MaskTable masks(record);
  json layers = json::array(), numbers = json::array();
  std::vector<HeadStatistics> statistics;
  for (std::size_t l = 0; l < record.layers.size(); ++l) {
    const LayerRecord& layer = record.layers[l];
    if (layer.score.custom) {
      throw std::invalid_argument("[page] layer " + std::to_string(record.layer_number(l)) +
                                  " has a custom score function, which a page cannot carry");
    }
    numbers.push_back(record.layer_number(l));
    // The best that a layer can be: its queries and keys, or as many rows as states imply.
    const bool implied = layer.implied.has_value();
    const double best = implied ? alone_bytes(record, g.q_len) : whole_bytes(record),
                 more = best - alone_bytes(record);
    const bool has_room = more <= 0 || room >= more, whole = has_room && !implied;
    if (has_room) room -= more;
    LayerQuestions asked;
    const bool sketched = std::max(g.q_len, g.k_len) > kLongText || !whole;
    if (sketched) {
      asked.rows = std::min(g.q_len, whole ? kSide : kSideAlone);
      asked.columns = std::min(g.k_len, whole ? kSide : kSideAlone);
    }
    if (!whole) asked.queries = kept_queries(g, has_room ? g.q_len : kRowsAlone);
    const LayerRows rows = layer_rows(record, l, context, asked);
    for (const HeadStatistics& s : layer_statistics(record, l, rows)) statistics.push_back(s);

    Packer packer, sketch;
    json j;
    j["mask"] = masks.add(layer.mask);
    if (whole) {
      j["q_exponent"] = pack_groups(packer, layer.q, g.q_len * record.width);
      j["k_exponent"] = pack_groups(packer, layer.k, g.k_len * record.width);
    }
    if (!layer.value_norm.empty())
      j["norm_exponent"] = pack_groups(packer, layer.value_norm, g.k_len);
    if (whole) j["score"] = pack_score(packer, record, layer.score);
    if (sketched) {
      j["sketch"] = pack_sketch(sketch, record, rows, asked, has_special(record.key_tokens()));
      text("sketch", l, sketch.base85());
    }
    layers.push_back(std::move(j));
    text("layer", l, packer.base85());
  }
  const std::vector<HeadStatistics> uniform = uniform_statistics(record, context);
  json found = json::array();
  for (const std::string& finding : findings_above(record, statistics, uniform, 3)) {
    found.push_back(valid_utf8(finding));
  }
  json all = {
      {"truncated", record.truncated}, {"tokens", tokens_json(record.tokens, record.verbatim)},
      {"heads", record.heads},         {"kv_heads", record.kv_heads},
      {"width", record.width},         {"implied", record.layers.front().implied.has_value()},
      {"masks", masks.table()},        {"layers", layers},
      {"layer_numbers", numbers},      {"statistics", to_json(statistics)},
      {"uniform", to_json(uniform)},   {"findings", found}};
  if (record.is_cross()) all["keys"] = tokens_json(record.keys, record.verbatim);
  return all;
}

}  // namespace

PageData page_data(const std::vector<PageTab>& tabs, const std::string& title,
                   const Context& context, double limit) {
  PageData data;
  // What is left when all layers are pictures.
  double room = limit;
  for (const PageTab& tab : tabs)
    room -= alone_bytes(*tab.record) * static_cast<double>(tab.record->layers.size());
  json records = json::array();
  for (std::size_t t = 0; t < tabs.size(); ++t) {
    const auto keep = [&](const char* kind, std::size_t layer, std::string text) {
      data.texts.emplace_back(kind + ("-" + std::to_string(t)) + "-" + std::to_string(layer),
                              std::move(text));
    };
    json record = record_json(*tabs[t].record, context, room, keep);
    record["name"] = tabs[t].name;
    records.push_back(std::move(record));
  }
  const json all = {{"format", 3},
                    {"title", valid_utf8(title)},
                    {"model", valid_utf8(tabs.front().record->model)},
                    {"records", records}};
  // Pure ASCII without '<': nothing can end the script element or open a comment.
  for (const char c : all.dump(-1, ' ', true)) {
    if (c == '<')
      data.json += "\\u003c";
    else
      data.json += c;
  }
  return data;
}

}  // namespace attn::inspect

// What stands out, in words, each with its evidence and with what an even head would show.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>
#include <stdexcept>
#include <string>

#include "attn/inspect.h"
#include "inspect/page_data.h"

namespace attn {

namespace {

struct Candidate {
  int kind = 0;
  double strength = 0;  // 0: as an even head, 1: as strong as can be
  int layer = 0, head = 0;
  std::string text;
};

std::string format(const char* pattern, double a, double b) {
  char text[96];
  std::snprintf(text, sizeof text, pattern, a, b);
  return text;
}

std::string head_name(const HeadStatistics& s) {
  return "Head " + std::to_string(s.layer) + "." + std::to_string(s.head);
}

std::string percent(double share) {
  return format(share * 100 < 9.95 ? "%.1f %%" : "%.0f %%", share * 100, 0);
}

// "[CLS] and [SEP]"
std::string special_names(const AttentionRecord& record) {
  std::vector<std::string> names;
  for (const RecordToken& t : record.key_tokens()) {
    if (t.special && std::find(names.begin(), names.end(), t.text) == names.end()) {
      names.push_back(t.text);
    }
  }
  if (names.empty()) return "";
  std::string text = names[0];
  for (std::size_t i = 1; i < std::min<std::size_t>(names.size(), 3); ++i) {
    text += (i + 1 == std::min<std::size_t>(names.size(), 3) ? " and " : ", ") + names[i];
  }
  return text;
}

// Share of what is left above the null.
double above(double value, double null) { return null < 1 ? (value - null) / (1 - null) : 0; }

}  // namespace

std::vector<std::string> inspect::findings_above(const AttentionRecord& record,
                                                 const std::vector<HeadStatistics>& statistics,
                                                 const std::vector<HeadStatistics>& uniform,
                                                 std::size_t count) {
  if (statistics.size() != uniform.size()) {
    throw std::invalid_argument("[findings] " + std::to_string(statistics.size()) +
                                " statistics for " + std::to_string(uniform.size()) + " heads");
  }
  struct Mass {
    double HeadStatistics::*value;
    std::string what;
  };
  const std::string specials = special_names(record);
  const Mass masses[] = {
      {&HeadStatistics::previous, "looks at the previous token"},
      {&HeadStatistics::next, "looks at the next token"},
      {&HeadStatistics::self, "looks at the token itself"},
      {&HeadStatistics::special, "looks at special tokens (" + specials + ")"},
      {&HeadStatistics::first, "looks at the first token"},
  };
  constexpr int kSpecial = 3, kFirst = 4, kSharp = 5, kNear = 6, kBroad = 7;

  double mean_entropy = 0;
  for (const HeadStatistics& s : statistics) mean_entropy += s.relative_entropy;
  mean_entropy /= static_cast<double>(statistics.size());

  std::vector<Candidate> candidates;
  // What the record has no number for, as neighbours in cross-attention, is no finding.
  const auto add = [&](int kind, double strength, const HeadStatistics& s, std::string text) {
    if (std::isfinite(strength) && strength > 0) {
      candidates.push_back({kind, strength, s.layer, s.head, head_name(s) + " " + std::move(text)});
    }
  };
  for (std::size_t i = 0; i < statistics.size(); ++i) {
    const HeadStatistics& s = statistics[i];
    const HeadStatistics& u = uniform[i];
    for (int kind = 0; kind < 5; ++kind) {
      // Where the first token is special the two findings would be one.
      if (kind == kFirst && record.key_tokens()[0].special) continue;
      if (kind == kSpecial && specials.empty()) continue;
      const Mass& mass = masses[kind];
      add(kind, above(s.*mass.value, u.*mass.value), s,
          mass.what + ": " + percent(s.*mass.value) +
              " of its mass (uniform: " + percent(u.*mass.value) + ")");
    }
    // The rest says less about meaning and comes after equally strong masses.
    add(kSharp, 0.5 * above(s.max_probability, u.max_probability), s,
        "picks single tokens: its largest weight is " +
            format("%.2f in the mean (uniform: %.2f)", s.max_probability, u.max_probability));
    if (u.distance > 0) {
      add(kNear, 0.4 * (1 - s.distance / u.distance), s,
          "reads nearby: " +
              format("%.1f tokens away in the mean (uniform: %.1f)", s.distance, u.distance));
    }
    add(kBroad, 0.6 * s.relative_entropy, s,
        "spreads widely: its entropy is " +
            format("%.2f of the largest possible (uniform: %.2f, ", s.relative_entropy,
                   u.relative_entropy) +
            format("mean of all heads: %.2f)", mean_entropy, 0));
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.strength > b.strength; });

  // One of a kind; other heads first, the same heads again only when there are no others.
  std::vector<std::string> texts;
  std::set<int> kinds;
  std::set<std::pair<int, int>> heads;
  for (const bool repeat : {false, true}) {
    for (const Candidate& c : candidates) {
      if (texts.size() >= count) break;
      if (kinds.count(c.kind) > 0 || (!repeat && heads.count({c.layer, c.head}) > 0)) continue;
      kinds.insert(c.kind);
      heads.insert({c.layer, c.head});
      texts.push_back(c.text);
    }
  }
  return texts;
}

std::vector<std::string> findings(const AttentionRecord& record,
                                  const std::vector<HeadStatistics>& statistics, std::size_t count,
                                  const Context& context) {
  return inspect::findings_above(record, statistics, uniform_statistics(record, context), count);
}

}  // namespace attn

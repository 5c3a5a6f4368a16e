// What the commands print with --json. Numbers are written as short as they read back exactly.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "attn/attention.h"
#include "attn/curves.h"
#include "attn/heads.h"
#include "attn/inspect.h"
#include "attn/language_model.h"
#include "attn/measure.h"
#include "attn/mechanism.h"
#include "attn/model.h"
#include "attn/translation_model.h"

namespace attn::cli {

struct RunReport {
  struct Text {
    std::string text;
    std::vector<std::string> tokens;
    bool truncated = false;
    std::vector<float> embedding;
    std::vector<float> hidden;  // [tokens][width]; empty: not asked for
  };
  std::string model;
  std::vector<Text> texts;
  std::vector<std::vector<double>> similarity;  // cosine, [texts][texts]; empty: not made
};

// A record: what the model has one of, or encoder, decoder and cross of an encoder-decoder.
struct LookPart {
  std::string name;  // empty: there is no other
  std::vector<std::string> tokens;
  std::vector<std::string> keys;  // of cross-attention
  std::vector<std::string> findings;
  std::vector<HeadStatistics> heads;
};
struct LookReport {
  std::string model;
  std::string page;                   // absolute path
  std::optional<std::string> target;  // of an encoder-decoder
  bool truncated = false;
  std::vector<LookPart> parts;
};

struct GenerateReport {
  std::string model;
  std::vector<std::string> prompts;
  std::vector<Generation> generations;  // [prompts]
  bool several = false;                 // a list, though it may have one
};

struct ScoreReport {
  std::string model;
  std::string file;
  std::vector<std::int32_t> ids;
  std::optional<std::int64_t> sinks;
  TextScore whole;
  double top_share = 0;              // of tokens that were held for the most probable
  std::optional<TextScore> ablated;  // without the heads of `ablate`
  std::string ablate;
  std::string ablate_with;
};

struct TranslateReport {
  struct Line {
    std::string source;
    Translation translation;
  };
  std::string model;
  std::vector<Line> translations;
};

struct HeadsReport {
  std::string model;
  HeadTable table;
  double seconds = 0;
};

// Of an encoder-decoder.
struct TranslationHeadsReport {
  std::string model;
  TranslationHeadTable tables;
  double seconds = 0;
};

struct SinksReport {
  std::string model;
  SinkTable table;
};

// Where heads looked while a text was generated.
struct ObserveReport {
  std::string model;
  ModelInfo info;
  std::vector<RecordToken> tokens;  // of prompt and text
  Generation generation;            // with its attention
};

struct ExplainReport {
  AttentionShape shape;
  std::string mask;
  std::string score;
  PlanSummary plan;
  std::optional<double> expected_ms;
  std::string expected_from;  // how the time was estimated, or why it was not
  std::string picture;
};

// What a mechanism costs; `text` explains it, and maybe its relatives.
struct MechanismReport {
  struct Length {
    std::int64_t length = 0;
    MechanismCost cost;
    std::optional<double> ms;  // measured at the shape's length, scaled by operations
  };
  struct Costs {
    Mechanism about;
    std::vector<Length> lengths;
    // From how many tokens on it is faster than causal exact attention: measured, for a mask by
    // operations; 0: none, or not measured.
    std::int64_t crossing = 0;

    // Of exact attention, but neither all pairs nor the causal ones.
    bool sparse() const {
      return !about.mask.empty() && about.mask != "full" && about.mask != "causal";
    }
  };
  std::string topic;
  std::string text;  // Markdown
  AttentionShape shape;
  std::string isa;
  int threads = 1;
  bool measured = false;
  std::vector<Costs> mechanisms;  // none: a text alone
};

struct BenchReport {
  struct Ceiling {
    Isa isa = Isa::scalar;
    int threads = 1;
    Ceilings ceilings;
  };
  Machine machine;
  std::vector<Ceiling> ceilings;
  std::vector<Measured> rows;
};

struct DoctorReport {
  std::string version;
  std::string compiler;
  std::string isa;
  std::vector<std::string> isas;
  Machine machine;
  int threads = 1;
  std::vector<std::pair<std::string, std::string>> libraries;
  std::string cache;
  std::vector<std::string> models;  // in the cache
};

std::string json(const RunReport& report);
std::string json(const LookReport& report);
std::string json(const GenerateReport& report);
std::string json(const ScoreReport& report);
std::string json(const TranslateReport& report);
std::string json(const HeadsReport& report);
std::string json(const TranslationHeadsReport& report);
std::string json(const SinksReport& report);
std::string json(const ObserveReport& report);
std::string json(const ExplainReport& report);
std::string json(const MechanismReport& report);
std::string json_topics();  // of attn explain
std::string json(const BenchReport& report);
std::string json(const std::vector<Curve>& curves);
std::string json(const std::vector<Measured>& rows);
std::string json(const DoctorReport& report);
std::string json(const std::vector<KnownModel>& models);
std::string json_folder(const std::string& name, const std::string& folder);

}  // namespace attn::cli

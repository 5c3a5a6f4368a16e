// The command line as plain structs: parsed in one file, read by one file a command.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "attn/context.h"
#include "attn/language_model.h"
#include "attn/translation_model.h"

namespace attn::cli {

struct Common {
  int threads = 0;  // 0: automatic
  std::string isa = "automatic";
  bool json = false;

  Context context() const { return Context({.threads = threads, .isa = isa_from_name(isa)}); }
};

struct RunOptions {
  Common common;
  std::string model;
  std::vector<std::string> texts;
  std::string file;  // "-": standard input
  bool hidden = false;
  bool offline = false;
};

struct LookOptions {
  Common common;
  std::string model;
  std::optional<std::string> text;
  std::string file;
  std::optional<std::string> pair;
  std::optional<std::string> target;  // of an encoder-decoder, in place of its own
  std::int64_t max_length = 0;
  std::vector<std::int64_t> layers;                        // of the model; none: all
  std::optional<std::vector<std::int64_t>> global_tokens;  // none: the model's choice
  std::string output = "attention.html";
  std::optional<std::size_t> findings;  // given: on standard output, before the path
  bool offline = false;
};

struct GenerateOptions {
  Common common;
  std::string model;
  std::vector<std::string> texts;
  std::string file;
  bool lines = false;  // the file has a prompt a line
  std::string rope_scaling;
  GenerationOptions how;
  bool max_tokens_given = false;  // else fewer where the model has no room for the default
  std::string cache = "float32";
  bool chat = false;
  std::string system;   // with chat: what the model is told first
  std::string observe;  // file for where heads looked: .json or .html
  bool offline = false;
};

struct HeadsOptions {
  Common common;
  std::string model;
  std::vector<std::string> files;  // "-": standard input
  std::string target;              // of an encoder-decoder: file with a target a line
  std::int64_t length = 0;         // 0: the library's default
  std::int64_t documents = 0;      // 0: the library's default
  bool ablation = false;
  bool sinks = false;
  std::string sort;  // empty: by layer and head
  bool csv = false;
  bool offline = false;
};

struct TranslateOptions {
  Common common;
  std::string model;
  std::optional<std::string> text;
  std::string file;  // a text a line
  TranslationOptions how;
  bool offline = false;
};

struct ScoreCommand {
  Common common;
  std::string model;
  std::string file;  // "-": standard input
  ScoreOptions how;
  std::string cache = "float32";
  std::string rope_scaling;
  std::string ablate;  // "4.2,5.1"
  std::string ablate_with = "zero";
  std::int64_t max_length = 0;  // tokens; 0: all
  bool offline = false;
};

struct ExplainOptions {
  Common common;
  std::string mechanism;  // explained by its text and numbers, in place of a call
  std::string shape;  // empty: a default for a mechanism; without one, the mechanisms are listed
  std::string mask = "full";
  std::string score = "none";
  std::string dtype = "float32";
  std::int64_t value_width = 0;
  std::int64_t query_start = 0;
  std::int64_t cells = 32;
  bool measure = true;
};

struct BenchOptions {
  Common common;
  std::vector<std::string> shapes;      // none: a default
  std::vector<std::string> mechanisms;  // none: exact attention
  std::string mask = "full";
  std::string score = "none";
  std::string dtype = "float32";
  std::string kv_dtype;  // empty: as dtype
  bool decode = false;
  bool backward = false;
  bool ragged = false;
  double dropout = 0;
  std::string cache = "contiguous";
  std::string observe = "none";
  int samples = 0;  // 0: 15, or 5 if quick
  bool quick = false;
  bool standard = false;  // the standard table, or these groups of it
  std::vector<std::string> groups;
  std::string output;  // file for the rows as JSON

  // Nothing was said about what to run.
  bool plain() const;
};

struct CurvesOptions {
  Common common;
  std::vector<std::string> mechanisms;  // none: all
  std::int64_t heads = 12, width = 64;
  std::int64_t first = 256, last = 65536;
  double seconds = 10;
  std::string output;  // stem of a .csv and a .svg; empty: neither
};

struct GetOptions {
  Common common;
  std::string name;  // empty: list
  bool path_only = false;
  bool offline = false;
};

struct DoctorOptions {
  Common common;
};

// Text that the parser itself answers with: --help, --version.
struct Answer {
  std::string text;
};

using Command = std::variant<Answer, RunOptions, LookOptions, GenerateOptions, ScoreCommand,
                             TranslateOptions, HeadsOptions, ExplainOptions, BenchOptions,
                             CurvesOptions, GetOptions, DoctorOptions>;

// Throws std::invalid_argument with one line that says what is wrong and where help is.
Command parse(int argc, const char* const* argv);

void run(const RunOptions& options);
void look(const LookOptions& options);
void generate(const GenerateOptions& options);
void score(const ScoreCommand& options);
void translate(const TranslateOptions& options);
void heads(const HeadsOptions& options);
void explain(const ExplainOptions& options);
void explain_mechanism(const ExplainOptions& options);
void bench(const BenchOptions& options);
void curves(const CurvesOptions& options);
void get(const GetOptions& options);
void doctor(const DoctorOptions& options);

}  // namespace attn::cli

// What the heads of a model do over a corpus, in numbers, each beside what a head would show that
// spreads evenly over the keys it may see.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "attn/inspect.h"
#include "attn/language_model.h"
#include "attn/model.h"
#include "attn/translation_model.h"

namespace attn {

// On 100 random tokens that come twice: mass at one distance, a mean over the queries that have a
// token so far before them (Olsson et al. 2022, arXiv 2209.11895). Text plays no part in it.
struct RepeatScores {
  double previous = 0;   // at 1: the token before
  double duplicate = 0;  // at 100: the same token, where it came first
  double induction = 0;  // at 99: what followed it there
};

// Of one head, over the queries of all documents.
struct HeadMeasures : HeadStatistics {
  // Mass on tokens that are nothing but punctuation: ASCII symbols, and Unicode's categories P*.
  double punctuation = 0;
  // Share of documents whose first token is a sink: its mass, a mean over the document's queries,
  // is above kSinkMass (Gu et al. 2024, arXiv 2410.10781, 3.2).
  double sink = 0;
  std::optional<RepeatScores> repeated = {};  // of language models
  // By how much the loss grows when the head puts out zeros, nats a token (Michel et al. 2019,
  // arXiv 1905.10650).
  std::optional<double> ablation = {};
};
constexpr double kSinkMass = 0.3;

struct HeadTable {
  std::vector<HeadMeasures> heads;    // layers x heads, in order
  std::vector<HeadMeasures> uniform;  // one a layer: of a head that spreads evenly
  std::int64_t documents = 0, tokens = 0;
  std::int64_t length = 0;  // of the longest document
};

struct HeadOptions {
  // Texts are cut into documents of so many tokens, each beginning as the model's texts do; what
  // is left over at the end of a long text is not used. 0: 1,024, or as many as the model takes.
  std::int64_t length = 0;
  std::int64_t documents = 20;  // at most; the first ones
  bool ablation = false;        // of language models; costs one run a head and document
  std::function<void(std::int64_t done, std::int64_t all)> progress = {};  // runs of the model
};

// Throws std::invalid_argument for texts without a document of two tokens, a length that the model
// has no positions for, and ablation of an encoder.
HeadTable measure_heads(const LanguageModel& model, std::span<const std::string> texts,
                        const HeadOptions& options = {});
HeadTable measure_heads(const Model& model, std::span<const std::string> texts,
                        const HeadOptions& options = {});

// Of an encoder-decoder. In `cross`, where tokens of targets look at those of sources, `first`,
// `sink`, `special` and `punctuation` are the source's, and self, previous, next and distance NaN.
struct TranslationHeadTable {
  HeadTable encoder, decoder, cross;
};

// Over pairs of texts, `options.documents` at most. `targets`: one for each source, or none: those
// that the model makes of them. Throws std::invalid_argument for other numbers of texts, and for
// options.length and ablation; as TranslationModel::observe, too.
TranslationHeadTable measure_heads(const TranslationModel& model,
                                   std::span<const std::string> sources,
                                   std::span<const std::string> targets = {},
                                   const HeadOptions& options = {});

// How many heads have their sink at the first token, whatever the tokens say (Gu et al. 2024, Table
// 1): on natural text, random tokens, and one random token repeated.
struct SinkTable {
  struct Input {
    std::string name;  // "natural", "random", "repeated"
    std::int64_t sequences = 0;
    double share = 0;           // of heads above kSinkMass, a mean over sequences
    std::vector<double> first;  // [layers][heads]: mass on the first token, a mean over sequences
  };
  std::vector<Input> inputs;
  std::int64_t length = 0;
  double uniform = 0;  // mass on the first token of a head that spreads evenly, of the first layer
};

struct SinkOptions {
  std::int64_t length = 64;      // tokens of a sequence
  std::int64_t sequences = 100;  // of each input; fewer where the texts have no more
  std::function<void(std::int64_t done, std::int64_t all)> progress = {};
};

// Natural sequences begin as the model's texts do; the others have nothing before their tokens, so
// that nothing but its place is special about the first. Throws as measure_heads.
SinkTable measure_sinks(const LanguageModel& model, std::span<const std::string> texts,
                        const SinkOptions& options = {});

}  // namespace attn

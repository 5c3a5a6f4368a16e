// Families of encoder-decoders: which name and which setting in their files means what in the
// descriptions of two transformers. As families.h, for models that have two.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "model/beam_search.h"
#include "model/families.h"

namespace attn {

struct DescribedTranslator {
  DescribedModel encoder, decoder;  // the decoder has the head
  std::int32_t start = 0;           // the token that target texts begin with
  SearchSettings search = {};       // as the model's files ask for
};

// Positions that nobody limits.
constexpr std::int64_t kAnyPositions = kLargestSize;

// Is it the model_type of an encoder-decoder: t5, bart, marian?
bool is_translator(const std::string& model_type);

// By model_type of config.json. `generation_json`: of generation_config.json; nothing where the
// folder has none, and config.json says how to generate. Throws attn::Error for another type, and
// for a setting that is not known or that we do not run, by its name.
DescribedTranslator load_translator(const std::string& config_json, const std::string& source,
                                    const std::optional<std::string>& generation_json,
                                    Weights& weights);

// Of a CTranslate2 file (TransformerSpec and what it was called earlier). The search has no ends
// yet, and `start` is not set: such files name tokens, whose ids their vocabularies know.
struct CTranslate2Tokens {
  std::string unknown, begin, end;
  std::string start;                              // that target texts begin with
  bool source_begin = false, source_end = false;  // around a source
};
struct CTranslate2Translator {
  DescribedTranslator model;
  CTranslate2Tokens tokens;
};
CTranslate2Translator load_ctranslate2(Weights& weights, const std::string& config_json,
                                       const std::string& source);

// The families, one file each.
DescribedTranslator load_t5(const Fields& fields, Weights& weights);
DescribedTranslator load_bart(const Fields& fields, const std::string& type, Weights& weights);

// How generate() is to search: from generation_config.json, or from config.json, which may have the
// same names.
SearchSettings read_search(const Fields& fields, std::int64_t positions, std::int64_t vocabulary);
// A config.json may have the names that read_search() reads: refuse_others() then lets them pass.
void know_search(const Fields& fields);

}  // namespace attn

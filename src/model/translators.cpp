#include "model/translators.h"

#include <algorithm>
#include <span>
#include <vector>

namespace attn {

namespace {

// Lists of tokens that may not follow each other; of one token each.
std::vector<std::int32_t> banned_tokens(const Fields& fields, std::int64_t vocabulary) {
  std::vector<std::int32_t> tokens;
  const Json* const lists = fields.find("bad_words_ids");
  if (lists == nullptr) return tokens;
  for (const Json& list : lists->items) {
    if (list.items.size() != 1)
      fields.fail("bad_words_ids", "has a list of several tokens, which we do not run");
    tokens.push_back(fields.token("bad_words_ids", list.items[0], vocabulary));
  }
  return tokens;
}

EarlyStopping early_stopping(const Fields& fields) {
  const Json* const value = fields.find("early_stopping");
  if (value == nullptr) return EarlyStopping::no;
  if (value->is(Json::Kind::boolean))
    return value->boolean ? EarlyStopping::yes : EarlyStopping::no;
  if (value->text == "never") return EarlyStopping::never;
  fields.fail("early_stopping", "must be true, false or \"never\"");
}

// 0 where it is absent.
std::int64_t count_of(const Fields& fields, const char* name) {
  const Json* const value = fields.find(name);
  if (value == nullptr) return 0;
  if (!value->is(Json::Kind::integer) || value->integer < 0 || value->integer > kLargestSize)
    fields.fail(name, "must be an integer in [0, " + std::to_string(kLargestSize) + "]");
  return value->integer;
}

// What generation_config.json may say that changes nothing for a search: of sampling, and of
// programs that run a model.
constexpr std::string_view kOfOtherPrograms[] = {"_from_model_config",
                                                 "bos_token_id",
                                                 "do_sample",
                                                 "output_attentions",
                                                 "output_hidden_states",
                                                 "output_scores",
                                                 "pad_token_id",
                                                 "return_dict_in_generate",
                                                 "temperature",
                                                 "top_k",
                                                 "top_p",
                                                 "transformers_version",
                                                 "typical_p",
                                                 "use_cache"};

}  // namespace

SearchSettings read_search(const Fields& fields, std::int64_t positions, std::int64_t vocabulary) {
  constexpr std::int64_t kUsualTokens = 512;
  SearchSettings s;
  s.beams = fields.size("num_beams", 1024).value_or(1);
  s.length_penalty = fields.number("length_penalty").value_or(1);
  s.early_stopping = early_stopping(fields);
  s.ends = fields.tokens("eos_token_id", vocabulary);
  // "length" counts the start token, "new tokens" does not; the latter goes first.
  const std::int64_t length = count_of(fields, "max_length"),
                     tokens = count_of(fields, "max_new_tokens"),
                     least_length = count_of(fields, "min_length"),
                     least_tokens = count_of(fields, "min_new_tokens");
  s.max_tokens = tokens > 0 ? tokens : length > 1 ? length - 1 : kUsualTokens;
  s.max_tokens = std::min(s.max_tokens, positions);
  s.min_tokens = std::max(least_tokens, least_length - 1);
  s.no_repeat_ngram = count_of(fields, "no_repeat_ngram_size");
  s.banned = banned_tokens(fields, vocabulary);
  if (const auto first = fields.tokens("forced_bos_token_id", vocabulary); !first.empty()) {
    if (first.size() > 1) fields.fail("forced_bos_token_id", "is a list, which we do not run");
    s.first = first.front();
  }
  s.last = fields.tokens("forced_eos_token_id", vocabulary);
  s.renormalize = fields.boolean("renormalize_logits").value_or(false);
  if (fields.number("repetition_penalty").value_or(1) != 1)
    fields.fail("repetition_penalty", "is not 1, which we do not run");
  return s;
}

void know_search(const Fields& fields) {
  for (const char* const name :
       {"bad_words_ids", "early_stopping", "forced_bos_token_id", "forced_eos_token_id",
        "length_penalty", "max_length", "max_new_tokens", "min_length", "min_new_tokens",
        "no_repeat_ngram_size", "num_beams", "renormalize_logits", "repetition_penalty"}) {
    fields.find(name);
  }
}

bool is_translator(const std::string& model_type) {
  return model_type == "t5" || model_type == "bart" || model_type == "marian";
}

DescribedTranslator load_translator(const std::string& config_json, const std::string& source,
                                    const std::optional<std::string>& generation_json,
                                    Weights& weights) {
  const Json tree = Json::parse(config_json, source);
  const Fields fields(tree, source);
  const std::string type = fields.needed_text("model_type");
  if (!is_translator(type)) {
    fields.fail("model_type", "\"" + type + "\" is not a known encoder-decoder (t5, bart, marian)");
  }
  if (!fields.boolean("is_encoder_decoder").value_or(true))
    fields.fail("is_encoder_decoder", "is false, which we do not run");
  DescribedTranslator model =
      type == "t5" ? load_t5(fields, weights) : load_bart(fields, type, weights);
  const TransformerConfig& decoder = model.decoder.config;
  if (generation_json) {
    const std::string place =
        source.substr(0, source.find_last_of('/') + 1) + "generation_config.json";
    const Json generation = Json::parse(*generation_json, place);
    const Fields inner(generation, place);
    model.search = read_search(inner, decoder.positions, decoder.vocabulary);
    if (inner.find("decoder_start_token_id") != nullptr)
      model.start = inner.needed_token("decoder_start_token_id", decoder.vocabulary);
    inner.refuse_others(kOfOtherPrograms);
    // Early files leave the end to config.json.
    if (!model.search.ends.empty()) return model;
    model.search.ends = fields.tokens("eos_token_id", decoder.vocabulary);
  } else {
    model.search = read_search(fields, decoder.positions, decoder.vocabulary);
  }
  return model;
}

}  // namespace attn

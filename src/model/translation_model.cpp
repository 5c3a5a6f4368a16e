#include "attn/translation_model.h"

#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <utility>

#include "model/file.h"
#include "model/layer_observed.h"
#include "model/model_info.h"
#include "model/record_tokens.h"
#include "model/recorder.h"
#include "model/sentencepiece.h"
#include "model/tokenizer.h"
#include "model/translate.h"
#include "model/translation_record.h"
#include "model/translators.h"
#include "model/word_tokens.h"

namespace attn {

namespace {

namespace fs = std::filesystem;

bool is_file(const std::string& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

// A source's tokenizer and, where it is another, a target's.
struct Tokenizers {
  Tokenizer source;
  std::optional<Tokenizer> target = {};
};

Vocabulary vocabulary_file(const std::string& path) {
  return read_vocabulary(Json::parse(read_file(path), path), path);
}

Tokenizers marian_tokenizers(const std::string& folder) {
  const auto tokenizer = [&](const std::string& model, const std::string& vocabulary) {
    SentencePieceOptions options;
    options.vocabulary = vocabulary_file(folder + "/" + vocabulary);
    return make_sentencepiece_tokenizer(read_file(folder + "/" + model), options,
                                        folder + "/" + model);
  };
  // One vocabulary for both, or one each.
  const char* const targets =
      is_file(folder + "/target_vocab.json") ? "target_vocab.json" : "vocab.json";
  return {tokenizer("source.spm", "vocab.json"), tokenizer("target.spm", targets)};
}

// T5's sentinels fill its vocabulary up from behind the file's pieces; what the embedding has
// beyond a hundred is padding.
Tokenizer t5_tokenizer(const std::string& path, std::int64_t vocabulary) {
  constexpr std::int64_t kMostSentinels = 100;
  const std::string file = read_file(path);
  const auto pieces = static_cast<std::int64_t>(parse_sentencepiece(file, path).size());
  SentencePieceOptions options;
  options.sentinels = std::clamp<std::int64_t>(vocabulary - pieces, 0, kMostSentinels);
  return make_sentencepiece_tokenizer(file, options, path);
}

Tokenizers folder_tokenizers(const std::string& folder, std::int64_t vocabulary) {
  const std::string json = folder + "/tokenizer.json", spiece = folder + "/spiece.model";
  if (is_file(json)) return {Tokenizer::from_json(read_file(json), json)};
  if (is_file(spiece)) return {t5_tokenizer(spiece, vocabulary)};
  if (is_file(folder + "/source.spm")) return marian_tokenizers(folder);
  throw Error(folder + ": has no tokenizer.json, spiece.model, or source.spm with target.spm");
}

std::vector<std::string> token_list(const std::string& folder, const std::string& side) {
  for (const std::string& name : {side, std::string("shared_vocabulary")}) {
    for (const char* const extension : {".json", ".txt"}) {
      const std::string path = folder + "/" + name + extension;
      if (is_file(path)) return parse_token_list(read_file(path), path);
    }
  }
  throw Error(folder + ": has neither " + side + " nor shared_vocabulary, as .txt or .json");
}

// What a folder holds.
struct Parts {
  std::unique_ptr<Weights> weights;
  DescribedTranslator model;
  Tokenizers tokenizers;
  std::string family;
};

Parts load_ctranslate2_parts(const std::string& folder, std::unique_ptr<Weights> weights) {
  const std::string path = folder + "/model.bin";
  const auto config = weights->ctranslate2()->version() >= 6
                          ? read_file_if_present(folder + "/config.json")
                          : std::nullopt;
  CTranslate2Translator loaded = load_ctranslate2(*weights, config.value_or(""), path);
  const CTranslate2Tokens& t = loaded.tokens;
  if (t.start.empty()) {
    throw Error(folder + ": targets begin with a token that the user chooses, which we do not run");
  }
  const auto sources = token_list(folder, "source_vocabulary"),
             targets = token_list(folder, "target_vocabulary");
  WordTokenOptions options;
  options.unknown = t.unknown;
  options.special = {"<blank>", t.begin, t.end};
  Tokenizer target = make_word_tokenizer(targets, options, folder + "/target_vocabulary");
  const auto token = [&](const std::string& name) {
    const auto id = target.id(name);
    if (!id) throw Error(folder + "/target_vocabulary: has no " + name);
    return *id;
  };
  loaded.model.start = token(t.start);
  loaded.model.search.ends = {token(t.end)};
  const auto in_source = [&](const std::string& name) {
    for (std::size_t i = 0; i < sources.size(); ++i) {
      if (sources[i] == name) return static_cast<std::int32_t>(i);
    }
    throw Error(folder + "/source_vocabulary: has no " + name);
  };
  if (t.source_begin) options.front = {in_source(t.begin)};
  if (t.source_end) options.behind = {in_source(t.end)};
  Tokenizer source = make_word_tokenizer(sources, options, folder + "/source_vocabulary");
  return {std::move(weights),
          std::move(loaded.model),
          {std::move(source), std::move(target)},
          "ctranslate2"};
}

Parts load_parts(const std::string& folder) {
  if (!fs::is_directory(folder)) {
    throw Error(folder + ": is no folder; an encoder-decoder needs several files");
  }
  auto weights = std::make_unique<Weights>(folder);
  if (weights->ctranslate2() != nullptr) return load_ctranslate2_parts(folder, std::move(weights));
  const std::string path = folder + "/config.json";
  const std::string text = read_file(path);
  const Json config = Json::parse(text, path);
  DescribedTranslator model = load_translator(
      text, path, read_file_if_present(folder + "/generation_config.json"), *weights);
  Tokenizers tokenizers = folder_tokenizers(folder, model.encoder.config.vocabulary);
  return {std::move(weights), std::move(model), std::move(tokenizers),
          config.find("model_type")->text};
}

}  // namespace

struct TranslationModel::Impl {
  Impl(const std::string& folder, const Context& where) : Impl(folder, where, load_parts(folder)) {}
  Impl(const std::string& folder, const Context& where, Parts parts)
      : context(where),
        weights(std::move(parts.weights)),
        tokenizers(std::move(parts.tokenizers)),
        start(parts.model.start),
        search(std::move(parts.model.search)),
        encoder(parts.model.encoder.config, std::move(parts.model.encoder.weights)),
        decoder(parts.model.decoder.config, std::move(parts.model.decoder.weights)) {
    const TransformerConfig& c = encoder.config();
    check(folder, "source", tokenizers.source.size(), c.vocabulary);
    check(folder, "target", target().size(), decoder.config().vocabulary);
    // Rows that only pad the embedding stand for no text.
    for (std::int64_t id = target().size(); id < decoder.config().vocabulary; ++id)
      search.banned.push_back(static_cast<std::int32_t>(id));
    info = model_info(c, std::move(parts.family), folder, weights->parameters());
    info.vocabulary = decoder.config().vocabulary;
    decoder_info = model_info(decoder.config(), info.family, folder, info.parameters);
  }

  static void check(const std::string& folder, const char* side, std::int64_t tokens,
                    std::int64_t rows) {
    if (tokens <= rows) return;
    throw Error(folder + ": the " + side + "'s tokenizer has " + std::to_string(tokens) +
                " tokens, the model " + std::to_string(rows));
  }
  const Tokenizer& target() const {
    return tokenizers.target ? *tokenizers.target : tokenizers.source;
  }
  // What the decoder reads of a target.
  std::vector<std::int32_t> from_start(std::span<const std::int32_t> ids) const {
    std::vector<std::int32_t> all = {start};
    all.insert(all.end(), ids.begin(), ids.end());
    return all;
  }

  Context context;
  std::unique_ptr<Weights> weights;
  Tokenizers tokenizers;
  std::int32_t start;
  SearchSettings search;
  Transformer encoder, decoder;
  ModelInfo info, decoder_info;
};

bool is_translation_model(const std::string& folder) {
  const std::string binary = folder + "/model.bin", config = folder + "/config.json";
  if (is_file(binary) && is_ctranslate2(MappedFile(binary).bytes())) return true;
  if (!is_file(config)) return false;
  const Json tree = Json::parse(read_file(config), config);
  const Fields fields(tree, config);
  return is_translator(fields.text("model_type").value_or(""));
}

TranslationModel TranslationModel::load(const std::string& folder, const Context& context) {
  return TranslationModel(std::make_shared<const Impl>(folder, context));
}

const ModelInfo& TranslationModel::info() const { return impl_->info; }
const ModelInfo& TranslationModel::decoder_info() const { return impl_->decoder_info; }

std::vector<std::int32_t> TranslationModel::encode(const std::string& text) const {
  return impl_->tokenizers.source.encode(text).ids;
}

std::vector<std::int32_t> TranslationModel::encode_target(const std::string& text) const {
  std::vector<std::int32_t> ids = impl_->target().encode(text).ids;
  const std::vector<std::int32_t>& ends = impl_->search.ends;
  if (!ids.empty() && std::find(ends.begin(), ends.end(), ids.back()) != ends.end()) ids.pop_back();
  return ids;
}

std::string TranslationModel::decode(std::span<const std::int32_t> ids) const {
  return impl_->target().decode(ids);
}

std::string TranslationModel::piece(std::int32_t id) const {
  return impl_->tokenizers.source.piece(id);
}

Translation TranslationModel::translate(const std::string& text,
                                        const TranslationOptions& options) const {
  return translate(encode(text), options);
}

Translation TranslationModel::translate(std::span<const std::int32_t> source,
                                        const TranslationOptions& options) const {
  SearchSettings settings = impl_->search;
  settings.beams = options.beams.value_or(settings.beams);
  settings.length_penalty = options.length_penalty.value_or(settings.length_penalty);
  settings.max_tokens = options.max_tokens.value_or(settings.max_tokens);
  FoundText best = attn::translate(impl_->encoder, impl_->decoder, source, impl_->start, settings,
                                   impl_->context)
                       .front();
  Translation out;
  out.text = decode(best.ids);
  for (const std::int32_t id : best.ids) out.tokens.push_back(impl_->target().piece(id));
  out.ids = std::move(best.ids);
  out.score = best.score;
  out.log_probability = best.log_probability;
  out.ended = best.ended;
  return out;
}

namespace {

// Tokens as they read, whatever the vocabulary's spelling.
std::vector<RecordToken> tokens_of(std::span<const std::int32_t> ids, const Tokenizer& tokenizer) {
  std::vector<TokenPiece> pieces;
  for (const std::int32_t id : ids) {
    const bool special = tokenizer.is_special(id);
    pieces.push_back({special ? tokenizer.piece(id) : tokenizer.token_bytes(id), special});
  }
  return record_tokens(pieces);
}

}  // namespace

std::vector<RecordToken> TranslationModel::tokens(std::span<const std::int32_t> source) const {
  return tokens_of(source, impl_->tokenizers.source);
}

std::vector<RecordToken> TranslationModel::target_tokens(
    std::span<const std::int32_t> target) const {
  return tokens_of(impl_->from_start(target), impl_->target());
}

TranslationRecord TranslationModel::record(std::span<const std::int32_t> source,
                                           std::span<const std::int32_t> target,
                                           const std::vector<std::int64_t>& layers,
                                           bool generated) const {
  const std::vector<std::int32_t> ids = impl_->from_start(target);
  TranslationRecord out =
      record_target(impl_->encoder, impl_->decoder, source, ids, layers, impl_->context);
  const AttentionRecord named = begin_record(impl_->info);
  for (AttentionRecord* const part : {&out.encoder, &out.decoder, &out.cross}) {
    part->model = named.model;
    part->verbatim = true;
  }
  out.encoder.tokens = out.cross.keys = tokens(source);
  out.decoder.tokens = target_tokens(target);
  for (std::size_t i = 1; generated && i < ids.size(); ++i) out.decoder.tokens[i].generated = true;
  out.cross.tokens = out.decoder.tokens;
  return out;
}

void TranslationModel::observe(std::span<const std::int32_t> source,
                               std::span<const std::int32_t> target,
                               const TranslationObserved& observed) const {
  const auto asking = [](const Observed& all, std::int64_t layers) {
    return [&all, layers](std::int64_t layer) { return observed_of_layer(all, layer, layers); };
  };
  const std::int64_t encoder = impl_->encoder.config().layers,
                     decoder = impl_->decoder.config().layers;
  score_target(
      impl_->encoder, impl_->decoder, source, impl_->from_start(target), impl_->context,
      {.ask = asking(observed.encoder, encoder)},
      {.ask = asking(observed.decoder, decoder), .ask_source = asking(observed.cross, decoder)});
}

}  // namespace attn

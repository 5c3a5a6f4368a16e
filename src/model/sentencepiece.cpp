#include "model/sentencepiece.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "attn/error.h"
#include "model/sentencepiece_library.h"
#include "model/tokenizer_parts.h"

namespace attn {
namespace {

using Library = SentencePieceLibrary;
using Kind = SentencePiece::Kind;

constexpr const char* kUnknown = "<unk>";

void check(const sentencepiece::util::Status& status) {
  if (!status.ok())
    throw Error("[tokenizer] SentencePiece: " + std::string(status.error_message()));
}

// A whole text is one word to it: the library normalises and cuts.
class LibrarySubwords final : public Subwords {
 public:
  // `own_ids`: the vocabulary's ids are the file's.
  LibrarySubwords(std::shared_ptr<const Library> library, Vocabulary vocabulary, bool own_ids,
                  std::int32_t unknown)
      : Subwords(std::move(vocabulary)),
        library_(std::move(library)),
        own_ids_(own_ids),
        unknown_(unknown) {}

 private:
  void cut_word(std::string_view word, std::vector<Subword>& out) const override {
    // A byte that was not UTF-8 is three bytes here, as is the character for one.
    std::string text(word);
    for (std::size_t at = 0; at < text.size();) {
      const auto [c, length] = next_character(std::string_view(text).substr(at));
      if (is_escaped_byte(c)) text.replace(at, length, "\xEF\xBF\xBD");
      at += length;
    }
    std::size_t begin = 0;
    if (!own_ids_ && text.starts_with(">>") && text.find("<<") != std::string::npos) {
      // Marian's languages, >>fr<<, are not the library's.
      begin = text.find("<<") + 2;
      out.push_back({id_of(std::string_view(text).substr(0, begin)), 0, begin});
    }
    const auto cut = cut_with_sentencepiece(*library_, std::string_view(text).substr(begin));
    for (std::size_t i = 0; i < cut.pieces_size(); ++i) {
      const auto piece = cut.pieces(static_cast<int>(i));
      const std::int32_t id =
          own_ids_ ? static_cast<std::int32_t>(piece.id()) : id_of(piece.piece());
      out.push_back({id, begin + piece.begin(), begin + piece.end()});
    }
  }
  std::int32_t id_of(std::string_view piece) const {
    return vocabulary().find(piece).value_or(unknown_);
  }

  std::shared_ptr<const Library> library_;
  bool own_ids_;
  std::int32_t unknown_;
};

Decoder decoder_of(std::shared_ptr<const Library> library) {
  return [library = std::move(library)](std::vector<std::string>& pieces, bool within) {
    // The space that begins a text is left out: within one, something stands before it.
    if (within) pieces.insert(pieces.begin(), "a");
    std::string text;
    check(library->Decode(pieces, &text));
    pieces.assign(1, within ? text.substr(1) : text);
  };
}

}  // namespace

std::shared_ptr<const SentencePieceLibrary> open_sentencepiece(std::string_view file,
                                                               const std::string& source) {
  const auto library = std::make_shared<Library>();
  try {
    const auto status = library->LoadFromSerializedProto({file.data(), file.size()});
    if (!status.ok()) throw Error(source + ": SentencePiece refuses it: " + status.error_message());
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {  // of its trie
    throw Error(source + ": SentencePiece refuses it: " + error.what());
  }
  return library;
}

sentencepiece::ImmutableSentencePieceText cut_with_sentencepiece(
    const SentencePieceLibrary& library, std::string_view text) {
  sentencepiece::ImmutableSentencePieceText cut;
  check(library.Encode(text, cut.mutable_proto()));
  return cut;
}

Tokenizer make_sentencepiece_tokenizer(std::string_view file, const SentencePieceOptions& options,
                                       const std::string& source) {
  const std::vector<SentencePiece> pieces = parse_sentencepiece(file, source);
  const std::shared_ptr<const Library> library = open_sentencepiece(file, source);
  const bool own_ids = !options.vocabulary;
  Vocabulary vocabulary = options.vocabulary.value_or(Vocabulary());
  for (std::size_t i = 0; i < pieces.size() && own_ids; ++i)
    vocabulary.add(pieces[i].text, static_cast<std::int64_t>(i), source);

  std::vector<AddedToken> added;
  const auto add = [&](const std::string& text, bool special) {
    AddedToken token;
    token.id = vocabulary.find(text).value();
    token.content = text;
    token.special = special;
    added.push_back(std::move(token));
  };
  for (std::int64_t i = options.sentinels - 1; i >= 0; --i) {
    const std::string name = "<extra_id_" + std::to_string(i) + ">";
    vocabulary.add(name, vocabulary.size(), source);
    add(name, true);
  }
  std::string unknown = kUnknown;
  for (const SentencePiece& piece : pieces) {
    if (piece.kind == Kind::unknown && own_ids) unknown = piece.text;
    if (piece.kind == Kind::control && own_ids) add(piece.text, true);
  }
  for (const std::string& name : {unknown, options.end}) {
    const auto id = vocabulary.find(name);
    if (!id) throw Error(source + ": the vocabulary has no " + name);
    const bool is_there = std::any_of(added.begin(), added.end(),
                                      [&](const AddedToken& token) { return token.id == *id; });
    if (!is_there) add(name, true);
  }
  if (!own_ids && vocabulary.find("<pad>")) add("<pad>", true);
  const std::int32_t unknown_id = *vocabulary.find(unknown), end = *vocabulary.find(options.end);
  auto subwords = std::make_unique<LibrarySubwords>(library, vocabulary, own_ids, unknown_id);
  return Tokenizer(
      std::make_unique<Tokenizer::Parts>(Tokenizer::Parts{std::move(subwords),
                                                          std::move(vocabulary),
                                                          AddedTokens(std::move(added), {}, source),
                                                          {},
                                                          put_around({}, end),
                                                          decoder_of(library)}));
}

}  // namespace attn

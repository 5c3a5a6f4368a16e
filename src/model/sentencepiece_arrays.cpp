// SentencePiece's BPE from arrays: written as the file that the library reads, with the library's
// normalisation left out but for the letter that stands for a space.
#include <bit>
#include <utility>

#include "attn/error.h"
#include "model/pre_tokenizer.h"
#include "model/sentencepiece.h"
#include "model/sentencepiece_library.h"
#include "model/tokenizer_parts.h"

namespace attn {
namespace {

using Kind = SentencePiece::Kind;

constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581

void append_varint(std::uint64_t value, std::string& out) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

// Fields of a message: a number, and bytes with their length.
void append_number(int field, std::uint64_t value, std::string& out) {
  append_varint(static_cast<std::uint64_t>(field) << 3, out);
  append_varint(value, out);
}
void append_text(int field, std::string_view text, std::string& out) {
  append_varint(static_cast<std::uint64_t>(field) << 3 | 2, out);
  append_varint(text.size(), out);
  out += text;
}

// sentencepiece_model.proto: pieces 1, trainer_spec 2, normalizer_spec 3.
std::string model_file(const std::vector<SentencePiece>& pieces) {
  std::string file, trainer, normalizer;
  bool bytes = false;
  for (const SentencePiece& piece : pieces) {
    std::string message;
    append_text(1, piece.text, message);
    append_varint(2 << 3 | 5, message);
    const auto score = std::bit_cast<std::uint32_t>(piece.score);
    for (int shift = 0; shift < 32; shift += 8) message += static_cast<char>(score >> shift);
    append_number(3, static_cast<std::uint64_t>(piece.kind), message);
    append_text(1, message, file);
    bytes = bytes || piece.kind == Kind::byte;
  }
  append_number(3, 2, trainer);  // BPE
  append_number(35, bytes ? 1 : 0, trainer);
  append_text(2, trainer, file);
  append_number(3, 0, normalizer);  // a space in front
  append_number(4, 0, normalizer);  // spaces are left out
  append_number(5, 1, normalizer);  // spaces are U+2581
  append_text(3, normalizer, file);
  return file;
}

class ArraySubwords final : public Subwords {
 public:
  ArraySubwords(std::shared_ptr<const SentencePieceLibrary> library, Vocabulary vocabulary,
                std::int32_t unknown)
      : Subwords(std::move(vocabulary)), library_(std::move(library)), unknown_(unknown) {}

 private:
  void cut_word(std::string_view word, std::vector<Subword>& out) const override {
    std::size_t begin = 0;  // of text that waits
    const auto cut_until = [&](std::size_t end) {
      if (begin == end) return;
      const auto cut = cut_with_sentencepiece(*library_, word.substr(begin, end - begin));
      std::size_t at = begin;
      for (const auto& piece : cut.pieces()) {
        const auto id = static_cast<std::int32_t>(piece.id());
        // The library gives a character to the last of its bytes; each has its own here.
        const bool byte = piece_byte(vocabulary().piece(id)) >= 0;
        const std::size_t from = byte ? at : begin + piece.begin();
        at = byte ? at + 1 : begin + piece.end();
        out.push_back({id, from, at});
      }
    };
    for (std::size_t at = 0; at < word.size();) {
      const auto [c, length] = next_character(word.substr(at));
      if (is_escaped_byte(c)) {
        cut_until(at);
        const auto id = vocabulary().find(byte_piece(static_cast<unsigned char>(c - 0xDC00)));
        out.push_back({id.value_or(unknown_), at, at + length});
        begin = at + length;
      }
      at += length;
    }
    cut_until(word.size());
  }

  std::shared_ptr<const SentencePieceLibrary> library_;
  std::int32_t unknown_;
};

void put_space_in_front(SplitText& text) {
  text.rewrite([](const SplitText& from, const SplitText::Split& split, SplitText& out) {
    const std::size_t first = next_character(from.text(split)).second;
    out.append(" ", from.source(split.begin, split.begin + first));
    out.append_split(from, split);
  });
}

Decoder decoder(bool space_in_front) {
  return [space_in_front](std::vector<std::string>& pieces, bool within) {
    std::string text;
    for (const std::string& piece : pieces) {
      if (const int byte = piece_byte(piece); byte >= 0) {
        text += static_cast<char>(byte);
        continue;
      }
      std::size_t from = 0;
      for (std::size_t at; (at = piece.find(kSpace, from)) != std::string::npos;
           from = at + kSpace.size()) {
        text += piece.substr(from, at - from) + ' ';
      }
      text += piece.substr(from);
    }
    if (space_in_front && !within && text.starts_with(' ')) text.erase(0, 1);
    pieces.assign(1, std::move(text));
  };
}

}  // namespace

Tokenizer make_sentencepiece_tokenizer(const SentencePieceArrays& arrays,
                                       const std::string& source) {
  const std::string file = model_file(arrays.pieces);
  const std::vector<SentencePiece> pieces = parse_sentencepiece(file, source);
  auto library = open_sentencepiece(file, source);
  Vocabulary vocabulary;
  std::vector<AddedToken> added;
  std::int32_t unknown = 0;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    vocabulary.add(pieces[i].text, static_cast<std::int64_t>(i), source);
    const Kind kind = pieces[i].kind;
    const auto id = static_cast<std::int32_t>(i);
    if (kind == Kind::unknown) unknown = id;
    if (kind == Kind::normal || kind == Kind::unused || kind == Kind::byte) continue;
    AddedToken token;
    token.id = id;
    token.content = pieces[i].text;
    token.special = kind != Kind::user_defined;
    added.push_back(std::move(token));
  }
  for (const auto& id : {arrays.begin, arrays.end}) {
    if (id && !vocabulary.has(*id)) {
      throw Error(source + ": the token that begins or ends a text, " + std::to_string(*id) +
                  ", is not in the vocabulary");
    }
  }
  auto subwords = std::make_unique<ArraySubwords>(std::move(library), vocabulary, unknown);
  PreTokenizer front;
  if (arrays.space_in_front) front = put_space_in_front;
  return Tokenizer(std::make_unique<Tokenizer::Parts>(Tokenizer::Parts{
      std::move(subwords), std::move(vocabulary), AddedTokens(std::move(added), {}, source),
      std::move(front), put_around(arrays.begin, arrays.end), decoder(arrays.space_in_front)}));
}

}  // namespace attn

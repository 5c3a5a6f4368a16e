#include "model/record_tokens.h"

#include <cstddef>

#include "model/unicode.h"

namespace attn {

namespace {

enum class Kind { letter, digit, single };  // a single one is never part of a longer word

Kind kind_of(char32_t c) {
  if (c >= U'0' && c <= U'9') return Kind::digit;
  const bool alone = unicode::is_space(c) || unicode::is_punctuation(c) || unicode::is_control(c) ||
                     unicode::is_cjk(c) || c == unicode::kReplacement;
  return alone ? Kind::single : Kind::letter;
}

// Pieces [first, last) without a special one among them.
void add_text(std::span<const TokenPiece> pieces, std::vector<RecordToken>& tokens) {
  std::string text;
  std::vector<std::size_t> ends;  // of pieces, in `text`
  for (const TokenPiece& piece : pieces) {
    text += piece.bytes;
    ends.push_back(text.size());
  }
  const std::vector<unicode::Character> characters = unicode::decode(text);
  std::size_t next = 0;
  Kind last = Kind::single;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    RecordToken token;
    const std::size_t first = next;
    for (; next < characters.size() && characters[next].begin < ends[i]; ++next)
      unicode::append_utf8(characters[next].value, token.text);
    const bool inside = first == next;  // of a character that began before
    const bool joins =
        !tokens.empty() && tokens.back().word >= 0 &&
        (inside || (last != Kind::single && last == kind_of(characters[first].value)));
    token.word = joins ? tokens.back().word : static_cast<std::int32_t>(tokens.size());
    if (!inside) last = kind_of(characters[next - 1].value);
    tokens.push_back(std::move(token));
  }
}

}  // namespace

std::vector<RecordToken> record_tokens(std::span<const TokenPiece> pieces) {
  std::vector<RecordToken> tokens;
  for (std::size_t i = 0; i < pieces.size();) {
    if (pieces[i].special) {
      tokens.push_back({.text = pieces[i++].bytes, .special = true});
      continue;
    }
    const std::size_t begin = i;
    while (i < pieces.size() && !pieces[i].special) ++i;
    add_text(pieces.subspan(begin, i - begin), tokens);
  }
  return tokens;
}

}  // namespace attn

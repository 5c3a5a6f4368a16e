#include "model/wordpiece.h"

#include <algorithm>
#include <functional>
#include <stdexcept>

#include "attn/error.h"
#include "model/longest_first.h"
#include "model/longest_match.h"
#include "model/unicode.h"

namespace attn {
namespace {

using unicode::Character;

// Longer words are unknown as a whole (BERT's max_input_chars_per_word).
constexpr std::size_t kLongestWord = 100;

// A vocabulary whose ordinary pieces have capitals was made for cased text: lower-casing would
// put them out of reach.
bool looks_cased(const std::vector<std::string>& pieces) {
  return std::any_of(pieces.begin(), pieces.end(), [](const std::string& piece) {
    return !piece.empty() && piece.front() != '[' &&
           std::any_of(piece.begin(), piece.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
  });
}

}  // namespace

// A word after normalisation: its text, and the source bytes of each of its characters.
struct WordPiece::Word {
  std::string text;
  std::vector<Character> characters;
  std::vector<std::size_t> starts;  // byte of each character in text, and the end
};

WordPiece::WordPiece(std::string_view vocabulary, const TokenizerConfig& config, std::int64_t limit,
                     const std::string& source) {
  std::size_t at = 0;
  while (at < vocabulary.size()) {
    const std::size_t end = std::min(vocabulary.find('\n', at), vocabulary.size());
    std::string_view line = vocabulary.substr(at, end - at);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    // A piece that appears twice keeps its last id, as in the published loader.
    add(std::string(line), static_cast<std::int64_t>(pieces_.size()), limit, source);
    at = end + 1;
  }
  lower_case_ = config.lower_case ? *config.lower_case : !looks_cased(pieces_);
  strip_accents_ = config.strip_accents.value_or(lower_case_);
  split_cjk_ = config.split_cjk;
  for (const auto& [text, id] : config.added) add(text, id, limit, source);
  unknown_ = special_id(config.unknown, source);
  separator_ = special_id(config.separator, source);
  classifier_ = special_id(config.classifier, source);
  for (const std::string& text :
       {config.unknown, config.separator, config.padding, config.classifier, config.mask}) {
    if (const auto found = ids_.find(text); found != ids_.end()) specials_.push_back(*found);
  }
  if (const auto found = ids_.find(config.mask); found != ids_.end()) mask_ = found->second;
  for (const auto& [text, id] : config.added) {
    specials_.emplace_back(text, static_cast<std::int32_t>(id));
  }
  std::sort(specials_.begin(), specials_.end(), [](const auto& a, const auto& b) {
    return std::pair(b.first.size(), a.first) < std::pair(a.first.size(), b.first);
  });
  specials_.erase(std::unique(specials_.begin(), specials_.end()), specials_.end());
}

void WordPiece::add(const std::string& text, std::int64_t id, std::int64_t limit,
                    const std::string& source) {
  if (id >= limit) {
    throw Error(source + ": token \"" + text + "\" has id " + std::to_string(id) +
                ", the model has " + std::to_string(limit) + " embeddings");
  }
  if (static_cast<std::size_t>(id) >= pieces_.size()) {
    pieces_.resize(static_cast<std::size_t>(id) + 1);
  }
  pieces_[static_cast<std::size_t>(id)] = text;
  if (text.empty()) return;
  ids_[text] = static_cast<std::int32_t>(id);
  longest_ = std::max(longest_, text.size());
}

std::int32_t WordPiece::special_id(const std::string& text, const std::string& source) const {
  const auto found = ids_.find(text);
  if (found == ids_.end()) throw Error(source + ": has no " + text);
  return found->second;
}

const std::string& WordPiece::piece(std::int32_t id) const {
  static const std::string kNone;
  return id >= 0 && static_cast<std::size_t>(id) < pieces_.size()
             ? pieces_[static_cast<std::size_t>(id)]
             : kNone;
}

// Longest match from the left; a word with a part that matches nothing is unknown as a whole.
void WordPiece::split_word(const Word& word, std::int32_t index, std::vector<Piece>& out) const {
  const std::size_t before = out.size();
  const auto find = [&](std::string_view candidate) {
    const auto found = ids_.find(candidate);
    return found == ids_.end() ? -1 : found->second;
  };
  const bool known = word.characters.size() <= kLongestWord &&
                     longest_match(word.text, word.starts, "##", longest_, find,
                                   [&](std::int32_t id, std::size_t first, std::size_t last) {
                                     out.push_back({id, index, word.characters[first].begin,
                                                    word.characters[last - 1].end, false});
                                   });
  if (known) return;
  out.resize(before);
  out.push_back(
      {unknown_, index, word.characters.front().begin, word.characters.back().end, false});
}

// Text without special tokens: normalise, then split at spaces and punctuation.
void WordPiece::split_plain(std::string_view text, std::size_t offset, std::int32_t& words,
                            std::vector<Piece>& out) const {
  std::vector<Character> characters;
  for (const Character& c : unicode::decode(text, offset)) {
    if (c.value == 0 || c.value == unicode::kReplacement || unicode::is_control(c.value)) continue;
    const bool alone = split_cjk_ && unicode::is_cjk(c.value);
    if (alone) characters.push_back({U' ', c.begin, c.begin});
    characters.push_back(unicode::is_space(c.value) ? Character{U' ', c.begin, c.end} : c);
    if (alone) characters.push_back({U' ', c.end, c.end});
  }
  if (strip_accents_) {
    characters = unicode::decompose(characters);
    std::erase_if(characters,
                  [](const Character& c) { return unicode::is_nonspacing_mark(c.value); });
  }
  if (lower_case_) characters = unicode::lower(characters);

  Word word;
  const auto finish = [&] {
    if (word.characters.empty()) return;
    word.starts.push_back(word.text.size());
    split_word(word, words++, out);
    word = Word();
  };
  for (const Character& c : characters) {
    const bool space = unicode::is_space(c.value);
    const bool punctuation = unicode::is_punctuation(c.value);
    if (space || punctuation) finish();
    if (space) continue;
    word.starts.push_back(word.text.size());
    word.characters.push_back(c);
    unicode::append_utf8(c.value, word.text);
    if (punctuation) finish();
  }
  finish();
}

std::vector<WordPiece::Piece> WordPiece::pieces(std::string_view text,
                                                std::int32_t first_word) const {
  std::vector<Piece> out;
  std::int32_t words = first_word;
  std::size_t plain = 0;  // start of the text since the last special token
  std::size_t at = 0;
  while (at < text.size()) {
    const auto special =
        std::find_if(specials_.begin(), specials_.end(), [&](const auto& candidate) {
          return text.compare(at, candidate.first.size(), candidate.first) == 0;
        });
    if (special == specials_.end()) {
      ++at;
      continue;
    }
    split_plain(text.substr(plain, at - plain), plain, words, out);
    const std::size_t end = at + special->first.size();
    // [MASK] and [UNK] stand for words of the text, the others do not.
    const bool word = special->second == mask_ || special->second == unknown_;
    out.push_back({special->second, word ? words++ : -1, at, end, !word});
    at = plain = end;
  }
  split_plain(text.substr(plain), plain, words, out);
  return out;
}

void WordPiece::append(Encoding& encoding, const Piece& piece, std::int32_t segment) const {
  encoding.ids.push_back(piece.id);
  encoding.type_ids.push_back(segment);
  encoding.tokens.push_back({this->piece(piece.id), piece.special, piece.word, segment});
  encoding.offsets.emplace_back(piece.begin, piece.end);
}

Encoding WordPiece::encode(std::string_view text, const std::optional<std::string>& pair,
                           std::int64_t max_length) const {
  const std::size_t frame = pair ? 3 : 2;
  if (max_length < static_cast<std::int64_t>(frame)) {
    throw std::invalid_argument("[encode] max_length is " + std::to_string(max_length) +
                                ", the special tokens alone are " + std::to_string(frame));
  }
  std::vector<Piece> first = pieces(text, 0);
  std::vector<Piece> second;
  if (pair) {
    std::int32_t words = 0;
    for (const Piece& piece : first) words = std::max(words, piece.word + 1);
    second = pieces(*pair, words);
  }
  Encoding encoding;
  const auto [keep_first, keep_second] =
      longest_first(first.size(), second.size(), static_cast<std::size_t>(max_length) - frame);
  encoding.truncated = keep_first < first.size() || keep_second < second.size();
  const Piece separator{separator_, -1, 0, 0, true};
  append(encoding, {classifier_, -1, 0, 0, true}, 0);
  for (std::size_t i = 0; i < keep_first; ++i) append(encoding, first[i], 0);
  append(encoding, separator, 0);
  if (pair) {
    for (std::size_t i = 0; i < keep_second; ++i) append(encoding, second[i], 1);
    append(encoding, separator, 1);
  }
  return encoding;
}

}  // namespace attn

// BERT's tokenizer: text to words (clean, space ideographs, strip accents, lower-case, split at
// spaces and punctuation), words to pieces by longest match from the left (google-research/bert,
// tokenization.py; Hugging Face's BertTokenizer).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "attn/model.h"
#include "model/tokenizer_config.h"

namespace attn {

class WordPiece {
 public:
  // The text of vocab.txt, one piece a line, its id the line number from 0. Throws attn::Error
  // "<source>: ..." when a special token is missing or an id is not below `limit`.
  WordPiece(std::string_view vocabulary, const TokenizerConfig& config, std::int64_t limit,
            const std::string& source);

  // With [CLS] and [SEP], at most max_length tokens: the longer of two texts loses its end first.
  // Throws std::invalid_argument when max_length has no room for them. Any bytes are taken: what is
  // not UTF-8 is dropped.
  Encoding encode(std::string_view text, const std::optional<std::string>& pair,
                  std::int64_t max_length) const;

  bool lower_case() const { return lower_case_; }
  std::size_t size() const { return pieces_.size(); }
  // A piece's text; "" for an id that has none.
  const std::string& piece(std::int32_t id) const;

 private:
  struct Piece {
    std::int32_t id = 0;
    std::int32_t word = -1;
    std::size_t begin = 0, end = 0;
    bool special = false;
  };
  struct Word;
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
  };

  std::int32_t special_id(const std::string& text, const std::string& source) const;
  void add(const std::string& text, std::int64_t id, std::int64_t limit, const std::string& source);
  std::vector<Piece> pieces(std::string_view text, std::int32_t first_word) const;
  void split_plain(std::string_view text, std::size_t offset, std::int32_t& words,
                   std::vector<Piece>& out) const;
  void split_word(const Word& word, std::int32_t index, std::vector<Piece>& out) const;
  void append(Encoding& encoding, const Piece& piece, std::int32_t segment) const;

  std::vector<std::string> pieces_;  // by id
  std::unordered_map<std::string, std::int32_t, Hash, std::equal_to<>> ids_;
  std::size_t longest_ = 0;  // bytes of the longest piece
  // Recognised in the text itself, longest first.
  std::vector<std::pair<std::string, std::int32_t>> specials_;
  bool lower_case_ = true, strip_accents_ = true, split_cjk_ = true;
  std::int32_t unknown_ = 0, separator_ = 0, classifier_ = 0, mask_ = -1;
};

}  // namespace attn

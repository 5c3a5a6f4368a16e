// Models of a tokenizer: each cuts one word into pieces of its vocabulary.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/json.h"
#include "model/vocabulary.h"

namespace attn {

// A piece of a word and its bytes there.
struct Subword {
  std::int32_t id = 0;
  std::size_t begin = 0, end = 0;
};

// Words that were cut before, for the length of one text.
using WordCache =
    std::unordered_map<std::string, std::vector<Subword>, StringHash, std::equal_to<>>;

class Subwords {
 public:
  virtual ~Subwords() = default;
  const Vocabulary& vocabulary() const { return vocabulary_; }

  // The pieces of a word that is not empty, appended. Throws attn::Error where a word cannot be
  // cut.
  void cut(std::string_view word, WordCache& cache, std::vector<Subword>& out) const;

 protected:
  explicit Subwords(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}
  virtual void cut_word(std::string_view word, std::vector<Subword>& out) const = 0;

 private:
  Vocabulary vocabulary_;
};

// The "model" of a tokenizer.json: BPE, WordPiece or Unigram. Throws attn::Error "<place>: ..." for
// a type or a setting that is not known, and for what does not fit together.
std::unique_ptr<const Subwords> make_subwords(const Json& part, const std::string& place);

// <0x00> to <0xFF>: the piece for a byte that no other piece has.
std::string byte_piece(unsigned char byte);
// The byte of such a piece; -1 for any other.
int piece_byte(std::string_view piece);

}  // namespace attn

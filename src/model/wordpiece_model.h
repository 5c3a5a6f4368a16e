// WordPiece as the model of a tokenizer.json; model/wordpiece.h is BERT's whole tokenizer.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model/part.h"
#include "model/subwords.h"

namespace attn {

class WordPieceModel final : public Subwords {
 public:
  // A word of more characters than `longest_word`, or with a part that is no piece, is `unknown` as
  // a whole; pieces within a word have the prefix. Throws attn::Error "<place>: ..." when the
  // vocabulary has no `unknown`.
  WordPieceModel(Vocabulary vocabulary, const std::string& unknown, std::string prefix,
                 std::size_t longest_word, const std::string& place);

 private:
  void cut_word(std::string_view word, std::vector<Subword>& out) const override;

  std::int32_t unknown_ = 0;
  std::string prefix_;
  std::size_t longest_word_ = 0, longest_piece_ = 0;
};

std::unique_ptr<const Subwords> make_wordpiece(const Fields& settings);

}  // namespace attn

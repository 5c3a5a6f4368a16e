// Unigram: the pieces of a word whose scores, logarithms of probabilities, have the largest sum
// (arXiv 1804.10959; Viterbi's algorithm).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/part.h"
#include "model/subwords.h"
#include "model/trie.h"

namespace attn {

class Unigram final : public Subwords {
 public:
  // Scores by id. `unknown` is the id for a character that no piece covers, at ten less than the
  // least score; neighbouring ones become one. With `byte_fallback` the <0x..> pieces take its
  // place where all of them are there.
  Unigram(Vocabulary vocabulary, std::vector<double> scores, std::optional<std::int32_t> unknown,
          bool byte_fallback);

 private:
  void cut_word(std::string_view word, std::vector<Subword>& out) const override;
  void add_unknown(std::string_view word, std::size_t begin, std::size_t end,
                   std::vector<Subword>& out) const;

  std::vector<double> scores_;
  double unknown_score_ = 0;
  std::optional<std::int32_t> unknown_;
  std::vector<std::int32_t> bytes_;  // the <0x..> pieces; -1 where there is none
  Trie trie_;
};

std::unique_ptr<const Subwords> make_unigram(const Fields& settings);

}  // namespace attn

#include "model/wordpiece_model.h"

#include <algorithm>
#include <utility>

#include "attn/error.h"
#include "model/longest_match.h"
#include "model/token_text.h"

namespace attn {

WordPieceModel::WordPieceModel(Vocabulary vocabulary, const std::string& unknown,
                               std::string prefix, std::size_t longest_word,
                               const std::string& place)
    : Subwords(std::move(vocabulary)), prefix_(std::move(prefix)), longest_word_(longest_word) {
  const auto id = this->vocabulary().find(unknown);
  if (!id) throw Error(place + ": unk_token \"" + unknown + "\" is not in the vocabulary");
  unknown_ = *id;
  for (std::int32_t i = 0; i < this->vocabulary().size(); ++i) {
    if (!this->vocabulary().has(i)) continue;
    longest_piece_ = std::max(longest_piece_, this->vocabulary().piece(i).size());
  }
}

void WordPieceModel::cut_word(std::string_view word, std::vector<Subword>& out) const {
  std::vector<std::size_t> starts = {0};
  while (starts.back() < word.size()) {
    starts.push_back(starts.back() + next_character(word.substr(starts.back())).second);
  }
  const std::size_t before = out.size();
  const auto find = [&](std::string_view piece) { return vocabulary().find(piece).value_or(-1); };
  const bool known = starts.size() - 1 <= longest_word_ &&
                     longest_match(word, starts, prefix_, longest_piece_, find,
                                   [&](std::int32_t id, std::size_t first, std::size_t last) {
                                     out.push_back({id, starts[first], starts[last]});
                                   });
  if (known) return;
  out.resize(before);
  out.push_back({unknown_, 0, word.size()});
}

std::unique_ptr<const Subwords> make_wordpiece(const Fields& settings) {
  const std::string unknown = settings.needed_text("unk_token");
  const std::string prefix = settings.needed_text("continuing_subword_prefix");
  const auto longest =
      static_cast<std::size_t>(settings.needed_integer("max_input_chars_per_word", 0, INT32_MAX));
  return std::make_unique<WordPieceModel>(
      read_vocabulary(settings.needed("vocab"), settings.source() + ": vocab"), unknown, prefix,
      longest, settings.source());
}

}  // namespace attn

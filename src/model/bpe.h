// Byte pair encoding: the characters of a word, merged pair by pair, the earliest learnt merge
// first (arXiv 1508.07909; GPT-2's and SentencePiece's variants by options).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "model/part.h"
#include "model/subwords.h"

namespace attn {

struct BpeOptions {
  std::optional<std::string>
      unknown;                 // for a character without a piece; without it that is dropped
  bool fuse_unknown = false;   // neighbouring ones become one
  bool byte_fallback = false;  // <0x..> pieces instead, where all of a character's are there
  bool ignore_merges = false;  // a word that is a piece is taken as it is
  std::string prefix, suffix;  // of pieces within a word, of pieces that end one
};

class Bpe final : public Subwords {
 public:
  using Merges = std::vector<std::pair<std::string, std::string>>;

  // Merges in the order they were learnt. Throws attn::Error "<place>: ..." for one whose parts or
  // result are no pieces.
  Bpe(Vocabulary vocabulary, const Merges& merges, BpeOptions options, const std::string& place);

 private:
  struct Symbol {
    std::int32_t id = 0;
    std::size_t length = 0;  // bytes; 0 once it is merged into the one before
    std::size_t previous = 0, next = 0;
  };
  struct Merge {
    std::uint32_t rank = 0;
    std::int32_t id = 0;
  };

  void cut_word(std::string_view word, std::vector<Subword>& out) const override;
  std::vector<Symbol> symbols(std::string_view word) const;
  void merge(std::vector<Symbol>& symbols) const;
  const Merge* find(std::int32_t left, std::int32_t right) const;

  BpeOptions options_;
  std::int32_t unknown_ = -1;
  std::vector<std::int32_t> bytes_;  // the <0x..> pieces; -1 where there is none
  std::unordered_map<std::uint64_t, Merge> merges_;
};

// "a b" as a merge; nothing when it is not two pieces and a space.
std::optional<std::pair<std::string, std::string>> split_merge(const std::string& text);

std::unique_ptr<const Subwords> make_bpe(const Fields& settings);

}  // namespace attn

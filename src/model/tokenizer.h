// Texts to tokens and back, as a tokenizer.json says: the same ids and the same offsets as Hugging
// Face's `tokenizers`. Nothing is guessed: a model, a part or a setting that we do not know is an
// error that names it. `truncation` and `padding` alone are read over: how many tokens a caller
// wants is the caller's business.
//
// Texts are bytes. A byte that is not valid UTF-8 is a character of its own, neither letter, digit
// nor space: a byte-level vocabulary and byte pieces keep it, so that it comes back; BERT's
// normalizer drops it; elsewhere it is unknown. (Hugging Face's takes no such text.)
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace attn {

struct TokenizedText {
  std::vector<std::int32_t> ids;
  // Bytes [begin, end) of the text that each token comes from; (0, 0) for one that was put in. A
  // token of a part of a character has the whole character's.
  std::vector<std::pair<std::size_t, std::size_t>> offsets;
  std::vector<std::int32_t> type_ids;  // which of two texts
  std::vector<bool> special;           // put in around the text, not found in it
  // Which word of which text a token is a part of, as the pre-tokenizer cut it; -1 for one that was
  // put in, which counts to the text before it, or that its type says.
  std::vector<std::int32_t> words, texts;
  bool truncated = false;
};

// Immutable, so it may be used by several threads at once.
class Tokenizer {
 public:
  // The text of a tokenizer.json. Throws attn::Error "<source>: ...".
  static Tokenizer from_json(std::string_view json, const std::string& source);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Special tokens around the text are left out on demand; those in the text are always found.
  // Throws attn::Error for a text that a pattern takes too long for, or that has an unknown
  // character where the model has no token for that.
  TokenizedText encode(std::string_view text, bool special_tokens = true) const;
  TokenizedText encode_pair(std::string_view first, std::string_view second,
                            bool special_tokens = true) const;

  // At most `most` tokens, special ones included; of two texts the longer loses its end first.
  // Throws std::invalid_argument when there is no room for the special tokens.
  TokenizedText encode_within(std::size_t most, std::string_view first,
                              const std::optional<std::string_view>& second = {}) const;

  // The bytes that the tokens stand for; special ones are left out on demand. Throws
  // std::invalid_argument for an id without a piece, attn::Error as encode() does.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special = true) const;
  // The bytes of one token within a text. Joined, they are the text, but for what decode() leaves
  // out at its beginning; a character may begin in one token and end in another.
  std::string token_bytes(std::int32_t id) const;

  // The largest id plus 1: so many rows does an embedding need at least.
  std::int64_t size() const;
  std::optional<std::int32_t> id(std::string_view piece) const;
  // Throws std::invalid_argument for an id without a piece.
  const std::string& piece(std::int32_t id) const;
  bool is_special(std::int32_t id) const;
  // Ascending.
  std::vector<std::int32_t> special_ids() const;

  // For what makes tokenizers (model/tokenizer_parts.h).
  struct Parts;
  explicit Tokenizer(std::unique_ptr<const Parts> parts);

 private:
  std::unique_ptr<const Parts> parts_;
};

}  // namespace attn

// SentencePiece's .model files (google/sentencepiece), read with its library, as tokenizers.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer.h"
#include "model/vocabulary.h"

namespace attn {

// A piece as the file describes it.
struct SentencePiece {
  enum class Kind : std::uint8_t { normal = 1, unknown, control, user_defined, unused, byte };
  std::string text;
  float score = 0;
  Kind kind = Kind::normal;
};

// A file's pieces by id. Everything that the library takes for granted is checked: the messages'
// lengths, pieces (UTF-8, no zero byte, none empty or twice, finite scores, known kinds, one
// unknown), and the table of normalisation, whose trie may not lead out of itself. Throws
// attn::Error "<source>: ...".
std::vector<SentencePiece> parse_sentencepiece(std::string_view file, const std::string& source);

struct SentencePieceOptions {
  // Ids of pieces that are not the file's own (Marian's vocab.json); a piece without one is
  // unknown, "<unk>". Nothing: the file's.
  std::optional<Vocabulary> vocabulary = {};
  // Sentinels <extra_id_0> ... behind the file's pieces, the last one first (T5).
  std::int64_t sentinels = 0;
  std::string end = "</s>";  // put behind every text
};

// The tokenizer of a file. Texts in which special tokens are written have them as tokens. Throws
// attn::Error as parse_sentencepiece() does, and when the end or an unknown token is missing.
Tokenizer make_sentencepiece_tokenizer(std::string_view file, const SentencePieceOptions& options,
                                       const std::string& source);

// A model of BPE as plain arrays, as a GGUF file holds it (tokenizer.ggml.*, model "llama").
struct SentencePieceArrays {
  std::vector<SentencePiece> pieces;       // by id
  bool space_in_front = true;              // of a text, and behind special tokens
  std::optional<std::int32_t> begin, end;  // put around every text
};

// Its tokenizer; the library cuts. Bytes that are no UTF-8 are pieces of kind byte, where there are
// such, so that decoding gives them back. Throws attn::Error as parse_sentencepiece() does.
Tokenizer make_sentencepiece_tokenizer(const SentencePieceArrays& arrays,
                                       const std::string& source);

}  // namespace attn

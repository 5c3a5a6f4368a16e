// The library that reads and runs SentencePiece's models.
#pragma once

#include <sentencepiece_processor.h>

#include <memory>
#include <string>
#include <string_view>

namespace attn {

using SentencePieceLibrary = sentencepiece::SentencePieceProcessor;

// A model that parse_sentencepiece() has let pass. Throws attn::Error "<source>: ..." where the
// library refuses it still.
std::shared_ptr<const SentencePieceLibrary> open_sentencepiece(std::string_view file,
                                                               const std::string& source);

// The pieces of a text, which is UTF-8. Throws attn::Error where the library fails.
sentencepiece::ImmutableSentencePieceText cut_with_sentencepiece(
    const SentencePieceLibrary& library, std::string_view text);

}  // namespace attn

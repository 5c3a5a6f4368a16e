// What the fuzzers feed, in parsers.h and tokenizers.h: each function takes any bytes, lets the
// parser accept or refuse them with attn::Error, and aborts when what it accepted cannot be. The
// tests run the corpora through them.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

#include "model/tokenizer.h"

namespace attn::fuzz {

using Bytes = std::span<const std::uint8_t>;

inline void require(bool holds) {
  if (!holds) std::abort();
}

inline std::string_view text_of(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// A folder of this process, for what is read from files alone; gone with the process.
inline const std::string& scratch_folder() {
  static const struct Folder {
    Folder() { std::filesystem::create_directories(path); }
    ~Folder() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
    const std::string path =
        std::filesystem::temp_directory_path() / ("attn-fuzz-" + std::to_string(getpid()));
  } kFolder;
  return kFolder.path;
}

// A text's tokens: ids that there are, of places in the text.
inline TokenizedText encoded(const Tokenizer& tokenizer, std::string_view text) {
  TokenizedText tokens = tokenizer.encode(text);
  const std::size_t count = tokens.ids.size();
  require(tokens.offsets.size() == count && tokens.type_ids.size() == count &&
          tokens.special.size() == count);
  for (std::size_t i = 0; i < count; ++i) {
    require(tokens.ids[i] >= 0 && tokens.ids[i] < tokenizer.size());
    require(tokens.offsets[i].first <= tokens.offsets[i].second &&
            tokens.offsets[i].second <= text.size());
  }
  return tokens;
}

}  // namespace attn::fuzz

// The fuzzers' corpora, as ordinary tests.
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "../../fuzz/parsers.h"
#include "../../fuzz/tokenizers.h"
#include "folder.h"

namespace attn {
namespace {

void replay(const std::string& parser, const std::function<void(fuzz::Bytes)>& run) {
  int count = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(ATTN_FUZZ_CORPUS) + "/" + parser)) {
    const std::string bytes = slurp(entry.path().string());
    SCOPED_TRACE(entry.path().string());
    // Copied to the end of a block, so that a sanitizer sees a read past it; and cut short.
    for (std::size_t n = 0; n <= bytes.size(); ++n) {
      const std::vector<std::uint8_t> exact(bytes.begin(),
                                            bytes.begin() + static_cast<std::ptrdiff_t>(n));
      run(exact);
    }
    ++count;
  }
  EXPECT_GE(count, 3);
}

TEST(Corpus, Safetensors) { replay("safetensors", fuzz::safetensors); }
TEST(Corpus, SafetensorsIndex) { replay("safetensors_index", fuzz::safetensors_index); }
TEST(Corpus, Llama2c) { replay("llama2c", fuzz::llama2c); }
TEST(Corpus, CTranslate2) { replay("ctranslate2", fuzz::ctranslate2); }
TEST(Corpus, SentencePiece) { replay("sentencepiece", fuzz::sentencepiece); }
TEST(Corpus, Gguf) { replay("gguf", fuzz::gguf); }
TEST(Corpus, Config) { replay("config", fuzz::config); }
TEST(Corpus, WordPiece) { replay("wordpiece", fuzz::wordpiece); }
TEST(Corpus, World) { replay("world", fuzz::world); }
TEST(Corpus, VocabFiles) { replay("vocab_files", fuzz::vocab_files); }
TEST(Corpus, Tokenizer) { replay("tokenizer", fuzz::tokenizer); }

}  // namespace
}  // namespace attn

#include <cstddef>
#include <cstdint>

#include "tokenizers.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  attn::fuzz::sentencepiece({data, size});
  return 0;
}

// Models in the format of llama2.c (version 0): seven 32-bit integers, then float32 weights in a
// fixed order; and its vocabulary file. Format: karpathy/llama2.c, run.c and export.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/transformer.h"

namespace attn {

// The description and the weights, which point into `file`. Everything is checked: sizes that are
// not positive or do not divide each other, products that overflow, and the file's length. Throws
// attn::Error "<source>: reason".
struct Llama2c {
  TransformerConfig config;
  TransformerWeights weights;
};
Llama2c parse_llama2c(std::span<const std::byte> file, const std::string& source);

// The pieces of a vocabulary of `count`, by id, as they are to be printed: "<0x0A>" is its byte,
// the marks of a text's begin and end are nothing. Throws attn::Error.
std::vector<std::string> parse_llama2c_vocabulary(std::span<const std::byte> file,
                                                  std::int64_t count, const std::string& source);

}  // namespace attn

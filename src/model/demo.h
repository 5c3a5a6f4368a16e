// The built-in example: a tiny BERT encoder in Hugging Face layout, made on the spot. Its weights
// are random numbers, never trained: it shows that everything runs, not what a model learns.
#pragma once

#include <cstdint>
#include <string>

namespace attn {

// Bytes of its model.safetensors.
inline constexpr std::int64_t kDemoBytes = 688'192;

// Writes config.json, model.safetensors, vocab.txt and the small files beside them into `folder`,
// which is created. The same bytes on every machine. Throws attn::Error.
void write_demo_model(const std::string& folder);

}  // namespace attn

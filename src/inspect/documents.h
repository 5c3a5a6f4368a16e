// Documents of a corpus as models take them, and random ones.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "attn/language_model.h"
#include "attn/model.h"

namespace attn::inspect {

using Ids = std::vector<std::int32_t>;

// The first `count` documents of texts, of `length` tokens each, what the model's texts begin with
// included. A text that is shorter is a document as it is, what is left over of a longer one is
// not; documents of one token are left out.
std::vector<Ids> split(const LanguageModel& model, std::span<const std::string> texts,
                       std::int64_t length, std::int64_t count);
std::vector<Encoding> split(const Model& model, std::span<const std::string> texts,
                            std::int64_t length, std::int64_t count);

// `count` tokens drawn from those that stand for text, each as likely. The same for the same
// `stream` and vocabulary.
Ids random_ids(const LanguageModel& model, std::int64_t count, std::uint32_t stream);

}  // namespace attn::inspect

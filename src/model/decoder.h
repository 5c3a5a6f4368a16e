// Decoders of a tokenizer.json: pieces to the bytes that they stand for.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "model/json.h"

namespace attn {

// Pieces in, parts of the text out, which the caller joins. `within`: the first piece does not
// begin the text, so that nothing is left out or done otherwise because of that.
using Decoder = std::function<void(std::vector<std::string>& pieces, bool within)>;

// Throws attn::Error "<place>: ..." for a type or a setting that is not known.
Decoder make_decoder(const Json& part, const std::string& place);

// The decoder ByteLevel: letters to bytes.
void from_alphabet(std::vector<std::string>& pieces, bool within);

}  // namespace attn

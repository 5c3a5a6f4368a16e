// What the parts of a tokenizer.json share: reading their objects, and a bound on what they make.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "model/fields.h"
#include "model/json.h"
#include "model/pattern.h"

namespace attn {

// The member "type" of an object: what kind of part it is.
std::string part_type(const Json& part, const std::string& place);

// Throws when a member was not asked for; "type" and "_comment" need not be.
void finish_part(const Fields& fields);

// A string that is one character.
char32_t needed_character(const Fields& fields, std::string_view name);

// Steps that make more of a text, one after the other, could make far too much of it. Throws
// attn::Error "<place>: ..." when one left more than 16,777,216 (characters, bytes) and more than
// before.
void check_growth(std::size_t before, std::size_t after, const std::string& place);

// {"Regex": ...} or {"String": ...}: a pattern, or a text to be matched as it is.
Pattern make_pattern(const Fields& fields);

}  // namespace attn

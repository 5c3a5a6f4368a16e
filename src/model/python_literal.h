// Python's literals of texts and bytes, as repr() writes them.
#pragma once

#include <string>
#include <string_view>

namespace attn {

// The bytes that a literal stands for: '...' or "...", a text, for its UTF-8, b'...' or b"..." for
// themselves. Escapes are \\ \' \" \n \r \t \xHH and, in a text, where all of these are characters,
// \uHHHH and \UHHHHHHHH. Throws attn::Error with the reason alone for anything else.
std::string parse_python_literal(std::string_view literal);

}  // namespace attn

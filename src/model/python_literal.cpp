#include "model/python_literal.h"

#include <charconv>
#include <cstdint>

#include "attn/error.h"
#include "model/unicode.h"

namespace attn {
namespace {

class Reader {
 public:
  // What stands between the quotes.
  Reader(std::string_view inside, char quote, bool bytes)
      : rest_(inside), quote_(quote), bytes_(bytes) {}

  std::string read() {
    while (!rest_.empty()) {
      const char c = take();
      if (c == '\\') {
        escape();
      } else if (c == quote_) {
        throw Error("has a quote before its end");
      } else if (static_cast<unsigned char>(c) < 0x20 || c == '\x7f') {
        throw Error("has a control character that is not escaped");
      } else if (bytes_ && static_cast<unsigned char>(c) > 0x7f) {
        throw Error("has a byte outside ASCII that is not escaped");
      } else {
        out_ += c;
      }
    }
    return std::move(out_);
  }

 private:
  char take() {
    if (rest_.empty()) throw Error("ends within an escape");
    const char c = rest_.front();
    rest_.remove_prefix(1);
    return c;
  }

  void escape() {
    switch (const char c = take()) {
      case '\\':
      case '\'':
      case '"': out_ += c; return;
      case 'n': out_ += '\n'; return;
      case 'r': out_ += '\r'; return;
      case 't': out_ += '\t'; return;
      case 'x': return append(number(2));
      case 'u':
        if (!bytes_) return append(number(4));
        break;
      case 'U':
        if (!bytes_) return append(number(8));
        break;
      default: break;
    }
    throw Error("has an escape that is not known");
  }

  void append(std::uint32_t value) {
    if (bytes_) {
      out_ += static_cast<char>(value);
    } else if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
      throw Error("has an escape of what is no character");
    } else {
      unicode::append_utf8(value, out_);
    }
  }

  std::uint32_t number(std::size_t digits) {
    std::uint32_t value = 0;
    const std::string_view text = rest_.substr(0, digits);
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value, 16);
    if (text.size() < digits || parsed.ptr != text.data() + digits)
      throw Error("has an escape without its " + std::to_string(digits) + " hexadecimal digits");
    rest_.remove_prefix(digits);
    return value;
  }

  std::string_view rest_;
  char quote_;
  bool bytes_;
  std::string out_;
};

}  // namespace

std::string parse_python_literal(std::string_view literal) {
  const bool bytes = literal.starts_with('b');
  if (bytes) literal.remove_prefix(1);
  if (!literal.starts_with('\'') && !literal.starts_with('"')) throw Error("has no quote in front");
  const char quote = literal.front();
  if (literal.size() < 2 || literal.back() != quote) throw Error("has no quote at its end");
  if (!unicode::is_utf8(literal)) throw Error("is not UTF-8");
  return Reader(literal.substr(1, literal.size() - 2), quote, bytes).read();
}

}  // namespace attn

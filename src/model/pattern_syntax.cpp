#include <cstdint>
#include <optional>

#include "attn/error.h"
#include "model/pattern.h"

namespace attn {
namespace {

// Unicode's White_Space, and what is not; PCRE2's own \s has U+180E besides. As ranges, since \S
// may stand within a class.
constexpr const char* kSpace =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"
    "\\x{205f}\\x{3000}";
constexpr const char* kNoSpace =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-"
    "\\x{d7ff}\\x{e000}-\\x{10ffff}\\p{Cs}";
// Outside a class, Oniguruma counts Latin-1's other numbers (superscripts, fractions) as well.
constexpr const char* kWordInClass = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
constexpr const char* kWord =
    "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";

class Translator {
 public:
  Translator(std::string_view in, const std::string& place) : in_(in), place_(place) {}

  std::string run() {
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c == '\\') {
        escape(false);
      } else if (c == '[') {
        character_class();
      } else if (c == '(') {
        group();
      } else if (c == '{') {
        interval();
      } else {
        out_ += c;
        ++at_;
      }
    }
    return out_;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(place_ + ": pattern \"" + std::string(in_) + "\" has " + what + " at byte " +
                std::to_string(at_) + ", which is not known");
  }
  char peek(std::size_t ahead) const { return at_ + ahead < in_.size() ? in_[at_ + ahead] : '\0'; }
  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
  static bool is_hex(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
  }

  void set(const char* content, bool inside) {
    out_ += inside ? content : "[" + std::string(content) + "]";
    at_ += 2;
    // Behind ranges a hyphen would begin another.
    if (inside && peek(0) == '-' && peek(1) != ']') refuse("a hyphen behind a class");
  }
  // Exactly `digits` hexadecimal digits behind the escape of two characters.
  void code_point(std::size_t digits) {
    out_ += "\\x{";
    for (std::size_t i = 2; i < 2 + digits; ++i) {
      if (!is_hex(peek(i))) refuse("an escape without its digits");
      out_ += peek(i);
    }
    out_ += '}';
    at_ += 2 + digits;
  }
  void property() {
    const std::size_t end = in_.find('}', at_);
    if (peek(2) != '{' || end == std::string_view::npos) refuse("a property without braces");
    std::string_view name = in_.substr(at_ + 3, end - at_ - 3);
    out_ += in_.substr(at_, 3);
    if (!name.empty() && name.front() == '^') {
      out_ += '^';
      name.remove_prefix(1);
    }
    for (const char c : name) {
      if (!is_letter(c)) refuse("an odd property");
    }
    // A longer name is a script's; PCRE2 would take those in that share a character along.
    if (name.size() > 2 && name != "Alphabetic") out_ += "sc:";
    out_ += name;
    out_ += '}';
    at_ = end + 1;
  }
  void escape(bool inside) {
    const char c = peek(1);
    switch (c) {
      case 's': return set(kSpace, inside);
      case 'S': return set(kNoSpace, inside);
      case 'd': return set("\\p{Nd}", inside);
      case 'D': return set("\\P{Nd}", inside);
      case 'w': return set(inside ? kWordInClass : kWord, inside);
      case 'W':
        if (inside) refuse("\\W within a class");
        out_ += "[^" + std::string(kWord) + "]";
        at_ += 2;
        return;
      case 'p':
      case 'P': return property();
      case 'n':
      case 'r':
      case 't':
      case 'f':
      case 'a':
      case 'e':
        out_ += in_.substr(at_, 2);
        at_ += 2;
        return;
      case 'v':
        out_ += "\\x{b}";
        at_ += 2;
        return;
      case 'A':
      case 'z':
      case 'Z':
        if (inside) refuse("an anchor within a class");
        out_ += in_.substr(at_, 2);
        at_ += 2;
        return;
      case 'u': return code_point(4);
      case 'x':
        if (peek(2) != '{') return code_point(2);
        out_ += "\\x";
        at_ += 2;
        while (is_hex(peek(1)) || peek(0) == '{') out_ += in_[at_++];
        if (!is_hex(peek(0)) || peek(1) != '}') refuse("an escape without its digits");
        out_ += in_.substr(at_, 2);
        at_ += 2;
        return;
      case '\0': refuse("a lone backslash");
      default: break;
    }
    if (is_letter(c) || is_digit(c)) refuse("\\" + std::string(1, c));
    // A character of several bytes stands for itself in both.
    out_ += static_cast<unsigned char>(c) < 0x80 ? in_.substr(at_, 2) : in_.substr(at_ + 1, 1);
    at_ += 2;
  }
  void character_class() {
    out_ += '[';
    ++at_;
    if (peek(0) == '^') {
      out_ += '^';
      ++at_;
    }
    if (peek(0) == ']') refuse("an empty class");
    while (peek(0) != ']') {
      if (at_ >= in_.size()) refuse("a class without its end");
      if (peek(0) == '[') refuse("a class within a class");
      if (peek(0) == '&' && peek(1) == '&') refuse("an intersection of classes");
      if (peek(0) == '\\') {
        escape(true);
      } else {
        out_ += in_[at_++];
      }
    }
    out_ += ']';
    ++at_;
  }
  void group() {
    const bool start = at_ == 0;
    out_ += '(';
    ++at_;
    if (peek(0) == '*') refuse("a verb");
    if (peek(0) != '?') return;
    for (const std::string_view kind : {"?:", "?=", "?!", "?<=", "?<!", "?>", "?i:"}) {
      if (in_.substr(at_, kind.size()) != kind) continue;
      out_ += kind;
      at_ += kind.size();
      return;
    }
    // In front of everything the two agree; elsewhere Ruby takes alternatives along.
    if (start && in_.substr(at_, 3) == "?i)") {
      out_ += "?i)";
      at_ += 3;
      return;
    }
    refuse("a group (" + std::string(in_.substr(at_, 3)));
  }
  void interval() {
    std::size_t i = 1;
    while (is_digit(peek(i))) ++i;
    if (i == 1) refuse("an interval without a first number");
    if (peek(i) == ',') ++i;
    while (is_digit(peek(i))) ++i;
    if (peek(i) != '}') refuse("an interval without its end");
    out_ += in_.substr(at_, i + 1);
    at_ += i + 1;
    if (peek(0) == '+' || peek(0) == '?') refuse("an interval that is repeated");
  }

  std::string_view in_;
  const std::string& place_;
  std::string out_;
  std::size_t at_ = 0;
};

}  // namespace

std::string translate_pattern(std::string_view expression, const std::string& place) {
  return Translator(expression, place).run();
}

}  // namespace attn

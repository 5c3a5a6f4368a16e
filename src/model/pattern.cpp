#include "model/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>

#include "attn/error.h"

namespace attn {
namespace {

// Of one match; a pattern that backtracks without end stops here. The longest run of spaces that
// LLaMA 3's pattern may walk back through has about as many characters.
constexpr std::uint32_t kMostSteps = 10'000'000;
constexpr std::uint32_t kMostKibibytes = 256 * 1024;
constexpr std::size_t kLongestPattern = 16'384;

std::string message(int code) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

PCRE2_SPTR units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

struct FreeMatch {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

}  // namespace

struct Pattern::Code {
  pcre2_code* code = nullptr;
  pcre2_match_context* limits = nullptr;

  Code() = default;
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  ~Code() {
    pcre2_code_free(code);
    pcre2_match_context_free(limits);
  }
};

Pattern::Pattern(std::string_view expression, const std::string& place)
    : name_(place + ": pattern \"" + std::string(expression.substr(0, 200)) + "\"") {
  if (expression.size() > kLongestPattern) {
    throw Error(name_ + "... has " + std::to_string(expression.size()) + " bytes, at most " +
                std::to_string(kLongestPattern) + " are known");
  }
  const std::string translated = translate_pattern(expression, place);
  auto code = std::make_shared<Code>();
  code->limits = pcre2_match_context_create(nullptr);
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  if (code->limits == nullptr || context == nullptr) throw std::bad_alloc();
  pcre2_set_match_limit(code->limits, kMostSteps);
  pcre2_set_heap_limit(code->limits, kMostKibibytes);
  // Ruby's lines: ^ and $ at every line feed.
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE at = 0;
  code->code = pcre2_compile(
      units(translated), translated.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_AUTO_CAPTURE,
      &error, &at, context.get());
  if (code->code == nullptr) throw Error(name_ + " is refused: " + message(error));
  // Faster where the machine allows it; without it the interpreter matches the same.
  pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE);
  code_ = std::move(code);
}

Pattern Pattern::literal(std::string_view text, const std::string& place) {
  std::string expression;
  for (const char c : text) {
    if (std::string_view("\\[](){}.*+?^$|#-&~").find(c) != std::string_view::npos) {
      expression += '\\';
    }
    expression += c;
  }
  return Pattern(expression, place);
}

std::vector<PatternPart> Pattern::parts(std::string_view text) const {
  std::vector<PatternPart> parts;
  const std::unique_ptr<pcre2_match_data, FreeMatch> data(
      pcre2_match_data_create_from_pattern(code_->code, nullptr));
  if (data == nullptr) throw std::bad_alloc();
  std::size_t from = 0, end = 0;
  bool matched = false;
  while (from <= text.size()) {
    // Tokenizer text holds escaped bytes as surrogates, which the check would refuse.
    int result = pcre2_match(code_->code, units(text), text.size(), from, PCRE2_NO_UTF_CHECK,
                             data.get(), code_->limits);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) {
      result = pcre2_match(code_->code, units(text), text.size(), from,
                           PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data.get(), code_->limits);
    }
    if (result == PCRE2_ERROR_NOMATCH) break;
    if (result < 0) throw Error(name_ + " fails on this text: " + message(result));
    const PCRE2_SIZE* const range = pcre2_get_ovector_pointer(data.get());
    // An empty match just behind another is none.
    if (range[0] == range[1] && matched && range[1] == end) {
      ++from;
      while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0) == 0x80) ++from;
      continue;
    }
    if (end != range[0]) parts.push_back({end, range[0], false});
    parts.push_back({range[0], range[1], true});
    from = end = range[1];
    matched = true;
  }
  if (end != text.size()) parts.push_back({end, text.size(), false});
  return parts;
}

}  // namespace attn

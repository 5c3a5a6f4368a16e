#include "model/precompiled.h"

#include <utf8proc.h>

#include "attn/error.h"
#include "model/normalizer.h"

namespace attn {
namespace {

std::string decode_base64(std::string_view text, const std::string& place) {
  static constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  while (!text.empty() && text.back() == '=') text.remove_suffix(1);
  std::string bytes;
  std::uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const std::size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos) throw Error(place + " is not base64");
    bits = bits << 6 | static_cast<std::uint32_t>(digit);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes += static_cast<char>(bits >> count & 255);
  }
  return bytes;
}

std::uint32_t little_endian(const std::string& bytes, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = 4; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
  return value;
}

// Puts `to` in the place of `count` characters.
void replace(std::vector<Changed>& out, std::size_t count, std::string_view to) {
  std::size_t put = 0;
  for (std::size_t at = 0; at < to.size(); ++put) {
    const auto [c, length] = next_character(to.substr(at));
    out.push_back({c, put < count ? 0 : 1});
    at += length;
  }
  // What is left out goes with the character before it.
  if (put < count && !out.empty()) out.back().change -= static_cast<int>(count - put);
}

}  // namespace

PrecompiledRules::PrecompiledRules(std::string_view base64, const std::string& place) {
  const std::string bytes = decode_base64(base64, place);
  if (bytes.empty()) return;
  const std::size_t size = bytes.size() < 4 ? 0 : little_endian(bytes, 0);
  if (size == 0 || size % 4 != 0 || size > bytes.size() - 4) {
    throw Error(place + " has " + std::to_string(bytes.size()) + " bytes, its trie should have " +
                std::to_string(size));
  }
  units_.reserve(size / 4);
  for (std::size_t at = 4; at < 4 + size; at += 4) units_.push_back(little_endian(bytes, at));
  texts_ = bytes.substr(4 + size);
  for (const Character& c : escape_bytes(texts_)) {
    if (is_escaped_byte(c.value)) throw Error(place + " holds texts that are not UTF-8");
  }
}

// The shortest string in the table that the text begins with decides, as in the published code.
std::optional<std::string_view> PrecompiledRules::find(std::string_view text) const {
  const auto offset = [](std::uint32_t unit) {
    return static_cast<std::size_t>(unit >> 10) << ((unit & (1U << 9)) >> 6);
  };
  if (units_.empty()) return std::nullopt;
  std::size_t at = offset(units_[0]);
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    at ^= byte;
    if (byte == 0 || at >= units_.size()) return std::nullopt;
    const std::uint32_t unit = units_[at];
    if ((unit & (1U << 31 | 0xFF)) != byte) return std::nullopt;
    at ^= offset(unit);
    if ((unit >> 8 & 1) == 0) continue;
    const std::size_t begin = at < units_.size() ? units_[at] & 0x7FFFFFFF : texts_.size();
    if (begin >= texts_.size()) return std::nullopt;
    return std::string_view(texts_).substr(begin, texts_.find('\0', begin) - begin);
  }
  return std::nullopt;
}

void PrecompiledRules::normalize(std::vector<Character>& text) const {
  std::vector<Changed> out;
  out.reserve(text.size());
  std::string cluster, single;
  bool changed = false;
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t end = begin;
    utf8proc_int32_t state = 0;
    cluster.clear();
    do {
      unicode::append_utf8(text[end].value, cluster);
      ++end;
    } while (end < text.size() && utf8proc_grapheme_break_stateful(
                                      static_cast<utf8proc_int32_t>(text[end - 1].value),
                                      static_cast<utf8proc_int32_t>(text[end].value), &state) == 0);
    const auto whole = cluster.size() < 6 ? find(cluster) : std::nullopt;
    if (whole) replace(out, end - begin, *whole);
    changed = changed || whole.has_value();
    for (; begin < end && !whole; ++begin) {
      single.clear();
      unicode::append_utf8(text[begin].value, single);
      if (const auto found = find(single)) {
        replace(out, 1, *found);
        changed = true;
      } else {
        out.push_back({text[begin].value, 0});
      }
    }
    begin = end;
  }
  if (changed) apply_changes(text, out);
}

}  // namespace attn

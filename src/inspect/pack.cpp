#include "inspect/pack.h"

#include <bit>
#include <cmath>

namespace attn::inspect {

std::uint16_t half_from_float(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
  const std::uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;   // NaN
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and more
  if (magnitude < 0x38800000) {                       // below 2^-14: a multiple of 2^-24
    const float units = std::bit_cast<float>(magnitude) * 0x1p24f;
    return static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>(std::nearbyint(units)));
  }
  const std::uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return static_cast<std::uint16_t>(sign | (rounded - 0x38000000) >> 13);
}

float float_from_half(std::uint16_t h) {
  const int exponent = h >> 10 & 31, fraction = h & 1023;
  float value;
  if (exponent == 31)
    value = fraction != 0 ? std::nanf("") : HUGE_VALF;
  else if (exponent == 0)
    value = std::ldexp(static_cast<float>(fraction), -24);
  else
    value = std::ldexp(1.0f + static_cast<float>(fraction) / 1024.0f, exponent - 15);
  return (h & 0x8000) != 0 ? -value : value;
}

int group_exponent(std::span<const float> values) {
  float most = 0;
  for (float x : values) {
    if (std::isfinite(x) && std::abs(x) > most) most = std::abs(x);
  }
  return most > 0 ? std::ilogb(most) - 14 : 0;
}

void Packer::halves(std::span<const float> values, int exponent) {
  for (float x : values) {
    const std::uint16_t h = half_from_float(std::ldexp(x, -exponent));
    bytes_.push_back(static_cast<std::uint8_t>(h & 255));
    bytes_.push_back(static_cast<std::uint8_t>(h >> 8));
  }
}

void Packer::align() {
  while (bytes_.size() % 4 != 0) bytes_.push_back(0);
}

void Packer::floats(std::span<const float> values) {
  for (float x : values) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    for (int shift = 0; shift < 32; shift += 8) {
      bytes_.push_back(static_cast<std::uint8_t>(bits >> shift & 255));
    }
  }
}

std::string Packer::base85() const {
  static constexpr char kDigits[] =
      "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%()*+-;=?@^_`{|}~,.:";
  static_assert(sizeof kDigits == 85 + 1);
  std::string text((bytes_.size() + 3) / 4 * 5, '0');
  for (std::size_t i = 0, t = 0; i < bytes_.size(); i += 4, t += 5) {
    std::uint32_t word = 0;
    for (std::size_t j = 0; j < 4; ++j) {
      word = word << 8 | (i + j < bytes_.size() ? bytes_[i + j] : 0);
    }
    for (std::size_t j = 5; j-- > 0; word /= 85) text[t + j] = kDigits[word % 85];
  }
  return text;
}

namespace {

// Makes the run's second row set its steps; false when the row does not continue the run.
bool extend(MaskRun& run, const std::vector<Interval>& row) {
  if (row.size() != run.intervals.size()) return false;
  MaskRun next = run;
  for (std::size_t i = 0; i < row.size(); ++i) {
    MovingInterval& m = next.intervals[i];
    if (row[i].step != m.step) return false;
    if (run.rows == 1) {
      m.begin_step = row[i].begin - m.begin;
      m.end_step = row[i].end - m.end;
    }
    if (m.begin + run.rows * m.begin_step != row[i].begin) return false;
    if (m.end + run.rows * m.end_step != row[i].end) return false;
  }
  ++next.rows;
  run = std::move(next);
  return true;
}

}  // namespace

std::vector<MaskRun> mask_runs(const Mask& mask, const Geometry& geometry, std::int64_t head) {
  std::vector<MaskRun> runs;
  for (std::int64_t q = 0; q < geometry.q_len; ++q) {
    const std::vector<Interval> row = mask.row(geometry, 0, head, q);
    if (!runs.empty() && extend(runs.back(), row)) continue;
    MaskRun run{.rows = 1, .intervals = {}};
    for (const Interval& i : row) run.intervals.push_back({i.begin, 0, i.end, 0, i.step});
    runs.push_back(std::move(run));
  }
  return runs;
}

std::string valid_utf8(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = [&](std::size_t at) {
      return at < text.size() ? static_cast<unsigned char>(text[at]) : 0u;
    };
    const unsigned lead = byte(i);
    const std::size_t length = lead < 0x80                   ? 1
                               : lead >= 0xc2 && lead < 0xe0 ? 2
                               : lead >= 0xe0 && lead < 0xf0 ? 3
                               : lead >= 0xf0 && lead < 0xf5 ? 4
                                                             : 0;
    bool valid = length > 0;
    for (std::size_t j = 1; valid && j < length; ++j) valid = (byte(i + j) & 0xc0) == 0x80;
    // Overlong forms, surrogates, beyond U+10FFFF.
    if (valid && lead == 0xe0) valid = byte(i + 1) >= 0xa0;
    if (valid && lead == 0xed) valid = byte(i + 1) < 0xa0;
    if (valid && lead == 0xf0) valid = byte(i + 1) >= 0x90;
    if (valid && lead == 0xf4) valid = byte(i + 1) < 0x90;
    if (valid) {
      out.append(text, i, length);
      i += length;
    } else {
      out += "\xef\xbf\xbd";
      ++i;
    }
  }
  return out;
}

}  // namespace attn::inspect

// Records that look like a model's without one: English words in pieces, heads with known habits.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "attn/record.h"
#include "inspect/pack.h"

namespace attn::synthetic {

inline std::vector<RecordToken> tokens(std::size_t count) {
  static const char* const kPieces[] = {
      "the",    "light",   "##house", "keeper", "counted", "the",      "ships",    "that",
      "passed", "before",  "dawn",    ",",      "and",     "wrote",    "each",     "name",
      "in",     "a",       "book",    "that",   "his",     "grand",    "##mother", "had",
      "kept",   "before",  "him",     ".",      "on",      "clear",    "nights",   "he",
      "could",  "see",     "the",     "har",    "##bour",  "lamps",    "of",       "three",
      "towns",  ";",       "in",      "fog",    "he",      "listened", "for",      "bells",
      ".",      "nobody",  "had",     "asked",  "him",     "to",       "do",       "it",
      ",",      "but",     "the",     "book",   "grew",    "heavier",  "every",    "year",
      ",",      "and",     "when",    "a",      "captain", "came",     "looking",  "for",
      "his",    "brother", "'",       "s",      "ship",    ",",        "the",      "keeper",
      "found",  "the",     "line",    "in",     "less",    "than",     "a",        "minute",
      ".",      "the",     "captain", "read",   "it",      "twice",    ",",        "closed",
      "the",    "book",    "very",    "gently", "and",     "un",       "##button", "##ed",
      "his",    "coat",    "as",      "if",     "he",      "meant",    "to",       "stay",
      "."};
  constexpr std::size_t kCount = sizeof kPieces / sizeof kPieces[0];
  std::vector<RecordToken> list;
  std::int32_t word = -1;
  for (std::size_t i = 0; i < count; ++i) {
    if (i == 0 || i + 1 == count) {
      list.push_back({.text = i == 0 ? "[CLS]" : "[SEP]", .special = true, .word = -1});
      continue;
    }
    const std::string piece = kPieces[(i - 1) % kCount];
    if (piece.rfind("##", 0) != 0 || word < 0) ++word;
    list.push_back({.text = piece, .special = false, .word = word});
  }
  return list;
}

// Rounds to what a page carries, so that page and library compute from the same numbers.
inline void round_to_page(std::vector<float>& values, std::int64_t group) {
  for (std::size_t at = 0; at < values.size(); at += static_cast<std::size_t>(group)) {
    const std::span<float> part(values.data() + at, static_cast<std::size_t>(group));
    const int exponent = inspect::group_exponent(part);
    for (float& x : part) {
      x = std::ldexp(inspect::float_from_half(inspect::half_from_float(std::ldexp(x, -exponent))),
                     exponent);
    }
  }
}

// Habits of heads, in turn: previous token, special tokens, broad, next token, same word elsewhere,
// nearby, the token itself, first token.
inline AttentionRecord record(std::size_t count, std::int64_t layers = 6, std::int64_t heads = 12,
                              std::int64_t width = 32, std::int64_t group = 1) {
  AttentionRecord r;
  r.model = "synthetic example";
  r.tokens = tokens(count);
  r.heads = heads;
  r.kv_heads = heads / group;
  r.width = width;
  const auto n = static_cast<std::int64_t>(count);
  std::mt19937_64 random(7);
  std::normal_distribution<float> normal;
  // Where a token stands, and what it says, as vectors of norm about 1.
  const auto place = [&](std::int64_t i, std::int64_t d) {
    const double angle =
        static_cast<double>(i) *
        (0.11 + 2.9 * std::pow(static_cast<double>(d / 2) / (static_cast<double>(width) / 2), 1.5));
    return static_cast<float>((d % 2 == 0 ? std::cos(angle) : std::sin(angle)) *
                              std::sqrt(2.0 / static_cast<double>(width)));
  };
  const auto meaning = [&](std::int64_t i, std::int64_t d) {
    std::mt19937_64 of_word(std::hash<std::string>()(r.tokens[static_cast<std::size_t>(i)].text));
    std::normal_distribution<float> x;
    float value = 0;
    for (std::int64_t j = 0; j <= d; ++j) value = x(of_word);
    return value / std::sqrt(static_cast<float>(width));
  };
  std::vector<float> meanings(static_cast<std::size_t>(n * width));
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t d = 0; d < width; ++d)
      meanings[static_cast<std::size_t>(i * width + d)] = meaning(i, d);
  }
  for (std::int64_t l = 0; l < layers; ++l) {
    LayerRecord layer;
    const auto size = static_cast<std::size_t>(n * width);
    layer.q.resize(static_cast<std::size_t>(heads) * size);
    layer.k.resize(static_cast<std::size_t>(r.kv_heads) * size);
    layer.value_norm.resize(static_cast<std::size_t>(heads * n));
    const float gain = std::sqrt(static_cast<float>(width));
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::int64_t habit = (h * 3 + l * 5) % 8, kv = h / group;
      const float strength = (3.0f + static_cast<float>((h * 7 + l * 3) % 5)) * gain;
      const int shift = habit == 0 ? -1 : habit == 3 ? 1 : 0;
      const bool placed = habit == 0 || habit == 3 || habit == 5 || habit == 6;
      for (std::int64_t i = 0; i < n; ++i) {
        const bool special = r.tokens[static_cast<std::size_t>(i)].special;
        for (std::int64_t d = 0; d < width; ++d) {
          const auto at = static_cast<std::size_t>((h * n + i) * width + d);
          const auto key = static_cast<std::size_t>((kv * n + i) * width + d);
          const float noise = 0.9f * normal(random);
          const float unit = d == 0 ? 1.0f : 0.0f;
          const float said = meanings[static_cast<std::size_t>(i * width + d)];
          float q = 0, k = 0;
          if (placed) {
            q = place(i + shift, d) * strength * (habit == 5 ? 0.35f : 1.5f);
            k = place(i, d);
          } else if (habit == 1) {
            q = unit * strength;
            k = special ? unit : 0;
          } else if (habit == 7) {
            q = unit * strength;
            k = i == 0 ? unit : 0;
          } else if (habit == 4) {
            q = said * strength * 1.3f;
            k = said;
          } else {
            q = said * strength * 0.2f;
            k = said;
          }
          layer.q[at] = q + noise;
          if (h % group == 0) layer.k[key] = k + 0.04f * normal(random);
        }
        layer.value_norm[static_cast<std::size_t>(h * n + i)] =
            (special ? 0.15f : 1.0f) * (0.6f + 0.4f * std::abs(normal(random)));
      }
    }
    round_to_page(layer.q, n * width);
    round_to_page(layer.k, n * width);
    round_to_page(layer.value_norm, n);
    r.layers.push_back(std::move(layer));
  }
  return r;
}

// Cross-attention: the queries of one such text and the keys of another.
inline AttentionRecord cross(std::size_t queries, std::size_t keys, std::int64_t layers = 6,
                             std::int64_t heads = 12, std::int64_t width = 32,
                             std::int64_t group = 1) {
  AttentionRecord r = record(queries, layers, heads, width, group);
  AttentionRecord source = record(keys, layers, heads, width, group);
  r.keys = std::move(source.tokens);
  for (std::size_t l = 0; l < r.layers.size(); ++l) {
    r.layers[l].k = std::move(source.layers[l].k);
    r.layers[l].value_norm = std::move(source.layers[l].value_norm);
  }
  return r;
}

// An encoder-decoder's three records: no model's, but of a model's shape.
inline TranslationRecord translation(std::size_t queries, std::size_t keys, std::int64_t layers = 3,
                                     std::int64_t heads = 4, std::int64_t width = 10) {
  TranslationRecord r{record(keys, layers, heads, width), record(queries, layers, heads, width),
                      cross(queries, keys, layers, heads, width)};
  for (LayerRecord& layer : r.decoder.layers) layer.mask = Mask::causal();
  return r;
}

}  // namespace attn::synthetic

#include "model/unigram.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "attn/error.h"
#include "model/token_text.h"

namespace attn {
namespace {

constexpr double kUnknownPenalty = 10;

std::vector<std::pair<std::string, std::int32_t>> all_pieces(const Vocabulary& vocabulary) {
  std::vector<std::pair<std::string, std::int32_t>> pieces;
  for (std::int32_t id = 0; id < vocabulary.size(); ++id) {
    pieces.emplace_back(vocabulary.piece(id), id);
  }
  return pieces;
}

}  // namespace

Unigram::Unigram(Vocabulary vocabulary, std::vector<double> scores,
                 std::optional<std::int32_t> unknown, bool byte_fallback)
    : Subwords(std::move(vocabulary)),
      scores_(std::move(scores)),
      unknown_(unknown),
      bytes_(256, -1),
      trie_(all_pieces(this->vocabulary())) {
  if (!scores_.empty()) {
    unknown_score_ = *std::min_element(scores_.begin(), scores_.end()) - kUnknownPenalty;
  }
  for (unsigned b = 0; b < 256 && byte_fallback; ++b) {
    const auto id = this->vocabulary().find(byte_piece(static_cast<unsigned char>(b)));
    if (id) bytes_[b] = *id;
  }
}

void Unigram::cut_word(std::string_view word, std::vector<Subword>& out) const {
  // The best way to each byte: its last piece and its score.
  struct Best {
    std::size_t begin = SIZE_MAX;
    std::int32_t id = 0;
    double score = 0;
  };
  std::vector<Best> best(word.size() + 1);
  const auto offer = [&](std::size_t begin, std::size_t end, std::int32_t id, double score) {
    score += best[begin].score;
    // Of equal ones the first stays, which is the one that begins first.
    if (best[end].begin != SIZE_MAX && !(score > best[end].score)) return;
    best[end] = {begin, id, score};
  };
  for (std::size_t at = 0; at < word.size();) {
    const std::size_t length = next_character(word.substr(at)).second;
    bool alone = false;
    trie_.prefixes(word.substr(at), [&](std::size_t n, std::int32_t id) {
      offer(at, at + n, id, scores_[static_cast<std::size_t>(id)]);
      alone = alone || n == length;
    });
    if (!alone) {
      if (!unknown_) {
        throw Error(
            "[tokenizer] the text has a character that the vocabulary has not, and there "
            "is no unk_id");
      }
      offer(at, at + length, *unknown_, unknown_score_);
    }
    at += length;
  }
  std::vector<Subword> backwards;
  for (std::size_t end = word.size(); end > 0; end = best[end].begin) {
    const Best& piece = best[end];
    if (unknown_ && piece.id == *unknown_ && !backwards.empty() &&
        backwards.back().id == *unknown_) {
      backwards.back().begin = piece.begin;
    } else {
      backwards.push_back({piece.id, piece.begin, end});
    }
  }
  for (auto piece = backwards.rbegin(); piece != backwards.rend(); ++piece) {
    if (unknown_ && piece->id == *unknown_) {
      add_unknown(word, piece->begin, piece->end, out);
    } else {
      out.push_back(*piece);
    }
  }
}

// Every byte's token has the whole unknown part, as the published code gives it.
void Unigram::add_unknown(std::string_view word, std::size_t begin, std::size_t end,
                          std::vector<Subword>& out) const {
  if (const auto id = vocabulary().find(word.substr(begin, end - begin))) {
    return out.push_back({*id, begin, end});
  }
  std::string bytes;
  for (std::size_t at = begin; at < end;) {
    const auto [c, length] = next_character(word.substr(at));
    append_bytes(c, bytes);
    at += length;
  }
  const bool all = std::all_of(bytes.begin(), bytes.end(),
                               [&](char b) { return bytes_[static_cast<unsigned char>(b)] >= 0; });
  if (!all) return out.push_back({*unknown_, begin, end});
  for (const char b : bytes) out.push_back({bytes_[static_cast<unsigned char>(b)], begin, end});
}

std::unique_ptr<const Subwords> make_unigram(const Fields& settings) {
  Vocabulary vocabulary;
  std::vector<double> scores;
  const std::string place = settings.source() + ": vocab";
  for (const Json& entry : settings.needed_array("vocab")) {
    if (entry.items.size() != 2 || !entry.items[0].is(Json::Kind::text) ||
        !entry.items[1].is_number() || !std::isfinite(entry.items[1].real)) {
      settings.fail("vocab", "must hold pairs of a piece and its score");
    }
    vocabulary.add(entry.items[0].text, vocabulary.size(), place);
    scores.push_back(entry.items[1].real);
  }
  std::optional<std::int32_t> unknown;
  if (settings.find("unk_id") != nullptr) {
    unknown =
        static_cast<std::int32_t>(settings.needed_integer("unk_id", 0, vocabulary.size() - 1));
  }
  const bool byte_fallback = settings.boolean("byte_fallback").value_or(false);
  for (const char* const sampling : {"alpha", "nbest_size"}) {
    if (settings.find(sampling) != nullptr) {
      settings.fail(sampling, "is set, which is for training only");
    }
  }
  return std::make_unique<Unigram>(std::move(vocabulary), std::move(scores), unknown,
                                   byte_fallback);
}

}  // namespace attn

#include "model/bpe.h"

#include <algorithm>
#include <queue>

#include "attn/error.h"
#include "model/token_text.h"

namespace attn {
namespace {

constexpr std::size_t kNone = SIZE_MAX;

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

// A merge that may be due: of the symbol at `at` and the one behind it.
struct Candidate {
  std::uint32_t rank = 0;
  std::int32_t id = 0;
  std::size_t at = 0;

  // The earliest learnt on top, of these the leftmost.
  bool operator<(const Candidate& other) const {
    return std::pair(other.rank, other.at) < std::pair(rank, at);
  }
};

}  // namespace

Bpe::Bpe(Vocabulary vocabulary, const Merges& merges, BpeOptions options, const std::string& place)
    : Subwords(std::move(vocabulary)), options_(std::move(options)), bytes_(256, -1) {
  const auto needed = [&](const std::string& piece, const char* what) {
    const auto id = this->vocabulary().find(piece);
    if (!id) throw Error(place + ": " + what + " \"" + piece + "\" is not in the vocabulary");
    return *id;
  };
  if (options_.unknown) unknown_ = needed(*options_.unknown, "unk_token");
  if (options_.byte_fallback) {
    for (unsigned b = 0; b < 256; ++b) {
      const auto id = this->vocabulary().find(byte_piece(static_cast<unsigned char>(b)));
      if (id) bytes_[b] = *id;
    }
  }
  merges_.reserve(merges.size());
  std::uint32_t rank = 0;
  for (const auto& [left, right] : merges) {
    const std::int32_t a = needed(left, "a merge's part");
    const std::int32_t b = needed(right, "a merge's part");
    if (right.compare(0, options_.prefix.size(), options_.prefix) != 0) {
      throw Error(place + ": a merge's part \"" + right + "\" lacks the prefix \"" +
                  options_.prefix + "\"");
    }
    const std::string both = left + right.substr(options_.prefix.size());
    merges_[pair_key(a, b)] = {rank++, needed(both, "a merge's result")};
  }
}

const Bpe::Merge* Bpe::find(std::int32_t left, std::int32_t right) const {
  const auto found = merges_.find(pair_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

std::vector<Bpe::Symbol> Bpe::symbols(std::string_view word) const {
  std::vector<Symbol> out;
  out.reserve(word.size());
  Symbol unknown;  // gathers, and is written when another symbol comes; length 0: none
  const auto flush = [&] {
    if (unknown.length > 0) out.push_back(unknown);
    unknown.length = 0;
  };
  std::string piece;
  for (std::size_t at = 0; at < word.size();) {
    const auto [c, length] = next_character(word.substr(at));
    const std::string_view own = word.substr(at, length);
    piece.assign(at > 0 ? options_.prefix : "");
    piece += own;
    if (at + length == word.size()) piece += options_.suffix;
    at += length;
    if (const auto id = vocabulary().find(piece)) {
      flush();
      out.push_back({*id, length, 0, 0});
      continue;
    }
    if (options_.byte_fallback) {
      const bool escaped = is_escaped_byte(c);
      if (escaped) piece.assign(1, static_cast<char>(c - 0xDC00));
      if (std::all_of(piece.begin(), piece.end(),
                      [&](char b) { return bytes_[static_cast<unsigned char>(b)] >= 0; })) {
        // An unknown one that waits is written behind the bytes, as the published code does.
        for (const char b : piece) {
          out.push_back({bytes_[static_cast<unsigned char>(b)], escaped ? length : 1, 0, 0});
        }
        continue;
      }
    }
    if (unknown_ < 0) continue;
    if (!options_.fuse_unknown) flush();
    unknown.id = unknown_;
    unknown.length += length;
  }
  flush();
  return out;
}

void Bpe::merge(std::vector<Symbol>& symbols) const {
  std::vector<Candidate> first;
  first.reserve(symbols.size());
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    symbols[i].previous = i > 0 ? i - 1 : kNone;
    symbols[i].next = i + 1 < symbols.size() ? i + 1 : kNone;
    if (i + 1 == symbols.size()) break;
    const Merge* const merge = find(symbols[i].id, symbols[i + 1].id);
    if (merge != nullptr) first.push_back({merge->rank, merge->id, i});
  }
  std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(first));
  const auto offer = [&](std::size_t left, std::size_t right) {
    if (left == kNone || right == kNone) return;
    const Merge* const merge = find(symbols[left].id, symbols[right].id);
    if (merge != nullptr) queue.push({merge->rank, merge->id, left});
  };
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Symbol& left = symbols[top.at];
    // One of the two may have been merged since.
    if (left.length == 0 || left.next == kNone) continue;
    Symbol& right = symbols[left.next];
    const Merge* const merge = find(left.id, right.id);
    if (merge == nullptr || merge->id != top.id) continue;
    left.id = top.id;
    left.length += right.length;
    right.length = 0;
    left.next = right.next;
    if (left.next != kNone) symbols[left.next].previous = top.at;
    offer(left.previous, top.at);
    offer(top.at, left.next);
  }
}

void Bpe::cut_word(std::string_view word, std::vector<Subword>& out) const {
  if (options_.ignore_merges) {
    if (const auto id = vocabulary().find(word)) {
      out.push_back({*id, 0, word.size()});
      return;
    }
  }
  std::vector<Symbol> symbols = this->symbols(word);
  merge(symbols);
  std::size_t at = 0;
  for (const Symbol& symbol : symbols) {
    if (symbol.length == 0) continue;
    out.push_back({symbol.id, at, at + symbol.length});
    at += symbol.length;
  }
}

std::optional<std::pair<std::string, std::string>> split_merge(const std::string& text) {
  const std::size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
    return std::nullopt;
  }
  return std::pair(text.substr(0, space), text.substr(space + 1));
}

std::unique_ptr<const Subwords> make_bpe(const Fields& settings) {
  BpeOptions options;
  if (const Json* const dropout = settings.find("dropout");
      dropout != nullptr && !(dropout->is_number() && dropout->real == 0)) {
    settings.fail("dropout", "is set, which is for training only");
  }
  options.unknown = settings.text("unk_token");
  options.fuse_unknown = settings.boolean("fuse_unk").value_or(false);
  options.byte_fallback = settings.boolean("byte_fallback").value_or(false);
  options.ignore_merges = settings.boolean("ignore_merges").value_or(false);
  options.prefix = settings.text("continuing_subword_prefix").value_or("");
  options.suffix = settings.text("end_of_word_suffix").value_or("");
  Vocabulary vocabulary = read_vocabulary(settings.needed("vocab"), settings.source() + ": vocab");
  Bpe::Merges merges;
  for (const Json& merge : settings.needed_array("merges")) {
    if (merge.is(Json::Kind::text)) {
      auto pair = split_merge(merge.text);
      if (!pair)
        settings.fail("merges", "has \"" + merge.text + "\", must be two pieces and a space");
      merges.push_back(std::move(*pair));
    } else if (merge.items.size() == 2 && merge.items[0].is(Json::Kind::text) &&
               merge.items[1].is(Json::Kind::text)) {
      merges.emplace_back(merge.items[0].text, merge.items[1].text);
    } else {
      settings.fail("merges",
                    std::string("has ") + merge.kind_name() + ", must be pairs of pieces");
    }
  }
  return std::make_unique<Bpe>(std::move(vocabulary), merges, std::move(options),
                               settings.source());
}

}  // namespace attn

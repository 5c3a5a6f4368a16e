#include "model/subwords.h"

#include "model/bpe.h"
#include "model/part.h"
#include "model/unigram.h"
#include "model/wordpiece_model.h"

namespace attn {
namespace {

// Longer words are rare, and many of them would fill the cache.
constexpr std::size_t kLongestCached = 256;
constexpr std::size_t kMostCached = 1 << 16;

// Files of 2020, GPT-2's among them, do not say which model theirs is; each has a member of its
// own.
std::string model_type(const Json& part, const std::string& place) {
  if (part.is(Json::Kind::object) && part.find("type") == nullptr) {
    if (part.find("merges") != nullptr) return "BPE";
    if (part.find("max_input_chars_per_word") != nullptr) return "WordPiece";
    if (part.find("unk_id") != nullptr) return "Unigram";
  }
  return part_type(part, place);
}

int hexadecimal(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

}  // namespace

void Subwords::cut(std::string_view word, WordCache& cache, std::vector<Subword>& out) const {
  if (word.size() > kLongestCached) return cut_word(word, out);
  const auto found = cache.find(word);
  if (found != cache.end()) {
    out.insert(out.end(), found->second.begin(), found->second.end());
    return;
  }
  std::vector<Subword> pieces;
  cut_word(word, pieces);
  out.insert(out.end(), pieces.begin(), pieces.end());
  if (cache.size() == kMostCached) cache.clear();
  cache.emplace(word, std::move(pieces));
}

std::string byte_piece(unsigned char byte) {
  static constexpr char kDigits[] = "0123456789ABCDEF";
  return std::string("<0x") + kDigits[byte >> 4] + kDigits[byte & 15] + ">";
}

int piece_byte(std::string_view piece) {
  if (piece.size() != 6 || piece.substr(0, 3) != "<0x" || piece.back() != '>') return -1;
  const int high = hexadecimal(piece[3]), low = hexadecimal(piece[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

std::unique_ptr<const Subwords> make_subwords(const Json& part, const std::string& place) {
  const std::string type = model_type(part, place);
  const Fields settings(part, place + ": " + type);
  std::unique_ptr<const Subwords> made;
  if (type == "BPE") {
    made = make_bpe(settings);
  } else if (type == "WordPiece") {
    made = make_wordpiece(settings);
  } else if (type == "Unigram") {
    made = make_unigram(settings);
  } else {
    settings.fail("is not a known model");
  }
  finish_part(settings);
  return made;
}

}  // namespace attn

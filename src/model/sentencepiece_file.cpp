// The wire format of sentencepiece_model.proto, walked before the library sees a file: it follows
// tries and offsets in it without looking where they lead.
#include <bit>
#include <cmath>
#include <cstring>
#include <unordered_set>

#include "attn/error.h"
#include "model/sentencepiece.h"
#include "model/unicode.h"

namespace attn {
namespace {

enum class Wire : std::uint8_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

struct Field {
  std::uint64_t number = 0;
  Wire wire = Wire::varint;
  std::uint64_t value = 0;  // of varint and fixed types
  std::string_view bytes;
};

// The fields of one message, in order.
class Message {
 public:
  Message(std::string_view bytes, std::string place) : left_(bytes), place_(std::move(place)) {}

  const std::string& place() const { return place_; }
  [[noreturn]] void fail(const std::string& what) const { throw Error(place_ + ": " + what); }

  bool next(Field& field) {
    if (left_.empty()) return false;
    const std::uint64_t key = varint();
    field.number = key >> 3;
    field.wire = static_cast<Wire>(key & 7);
    switch (field.wire) {
      case Wire::varint: field.value = varint(); break;
      case Wire::fixed64: field.value = fixed<std::uint64_t>(); break;
      case Wire::fixed32: field.value = fixed<std::uint32_t>(); break;
      case Wire::bytes: field.bytes = take(varint()); break;
      default: fail("holds a field of wire type " + std::to_string(key & 7));
    }
    if (field.number == 0) fail("holds a field with number 0");
    return true;
  }
  // A field that is known has the type that it is known by.
  void expect(const Field& field, Wire wire, const char* name) const {
    if (field.wire != wire) fail(std::string(name) + " has the wrong wire type");
  }

 private:
  std::string_view take(std::uint64_t bytes) {
    if (bytes > left_.size()) {
      fail("truncated: " + std::to_string(bytes) + " bytes wanted, " +
           std::to_string(left_.size()) + " are left");
    }
    const std::string_view part = left_.substr(0, bytes);
    left_.remove_prefix(bytes);
    return part;
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if ((byte & 0x80) == 0) return value;
    }
    fail("holds a number of more than ten bytes");
  }
  template <class T>
  T fixed() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

  std::string_view left_;
  std::string place_;
};

SentencePiece read_piece(std::string_view bytes, const std::string& place) {
  SentencePiece piece;
  Message message(bytes, place);
  for (Field field; message.next(field);) {
    if (field.number == 1) {
      message.expect(field, Wire::bytes, "the piece");
      piece.text = field.bytes;
    } else if (field.number == 2) {
      message.expect(field, Wire::fixed32, "the score");
      piece.score = std::bit_cast<float>(static_cast<std::uint32_t>(field.value));
    } else if (field.number == 3) {
      message.expect(field, Wire::varint, "the type");
      if (field.value < 1 || field.value > 6)
        message.fail("type " + std::to_string(field.value) + " is not known");
      piece.kind = static_cast<SentencePiece::Kind>(field.value);
    }
  }
  if (piece.text.empty() || piece.text.find('\0') != std::string::npos ||
      !unicode::is_utf8(piece.text)) {
    message.fail("the piece must be UTF-8, not empty and without zero bytes");
  }
  if (!std::isfinite(piece.score)) message.fail("the score is not finite");
  return piece;
}

// precompiled_charsmap: the bytes of a trie (Darts-clone's units), and texts that end with a zero
// byte, at which its values point.
void check_table(std::string_view table, const Message& message) {
  if (table.empty()) return;
  const auto fail = [&](const char* what) {
    message.fail(std::string("precompiled_charsmap ") + what);
  };
  std::uint32_t size = 0;
  if (table.size() < sizeof size) fail("is too short");
  std::memcpy(&size, table.data(), sizeof size);
  const std::string_view rest = table.substr(sizeof size);
  // Units come in blocks of 256, in which a node's children lie.
  constexpr std::size_t kBlock = 256;
  if (size == 0 || size % (kBlock * sizeof(std::uint32_t)) != 0 || size > rest.size())
    fail("has a trie of the wrong size");
  const std::string_view texts = rest.substr(size);
  if (texts.empty() || texts.back() != '\0' || !unicode::is_utf8(texts))
    fail("has texts that are not UTF-8, or do not end");
  std::vector<std::uint32_t> units(size / sizeof(std::uint32_t));
  std::memcpy(units.data(), rest.data(), size);
  for (std::size_t i = 0; i < units.size(); ++i) {
    const std::uint32_t unit = units[i];
    // A value, which no character leads to. The root is followed whatever it says.
    if (i > 0 && unit >> 31 != 0) continue;
    const std::size_t children =
        i ^ (static_cast<std::size_t>(unit >> 10) << ((unit & (1U << 9)) >> 6));
    if ((children | (kBlock - 1)) >= units.size()) fail("has a trie that leads out of itself");
    if ((unit >> 8 & 1) != 0 && (units[children] & 0x7FFFFFFF) >= texts.size())
      fail("has a trie whose values lead out of its texts");
  }
}

void check_normalizer(std::string_view bytes, const std::string& place) {
  Message message(bytes, place);
  for (Field field; message.next(field);) {
    if (field.number != 2) continue;
    message.expect(field, Wire::bytes, "precompiled_charsmap");
    check_table(field.bytes, message);
  }
}

}  // namespace

std::vector<SentencePiece> parse_sentencepiece(std::string_view file, const std::string& source) {
  std::vector<SentencePiece> pieces;
  std::unordered_set<std::string_view> seen;
  std::size_t unknown = 0;
  Message message(file, source);
  for (Field field; message.next(field);) {
    if (field.number < 1 || field.number > 5) continue;
    message.expect(field, Wire::bytes, "a part");
    if (field.number == 1) {
      if (static_cast<std::int64_t>(pieces.size()) == Vocabulary::kLargest)
        message.fail("has more than " + std::to_string(Vocabulary::kLargest) + " pieces");
      pieces.push_back(
          read_piece(field.bytes, source + ": piece " + std::to_string(pieces.size())));
      unknown += pieces.back().kind == SentencePiece::Kind::unknown ? 1 : 0;
    } else if (field.number == 3 || field.number == 5) {
      // Of several messages with one number the library makes one, and may put a trie together.
      check_normalizer(field.bytes, source + ": normalizer");
    }
  }
  if (pieces.empty()) message.fail("holds no pieces; it is no SentencePiece model");
  if (unknown != 1)
    message.fail("has " + std::to_string(unknown) + " pieces of type UNKNOWN, must have one");
  for (const SentencePiece& piece : pieces) {
    if (!seen.insert(piece.text).second) message.fail("has the piece \"" + piece.text + "\" twice");
  }
  return pieces;
}

}  // namespace attn

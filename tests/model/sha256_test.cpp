#include "model/sha256.h"

#include <gtest/gtest.h>

#include <string>

namespace attn {
namespace {

std::string hash(const std::string& text) {
  return sha256(std::as_bytes(std::span(text.data(), text.size())));
}

// FIPS 180-2, appendix B, and the empty message.
TEST(Sha256, KnownAnswers) {
  EXPECT_EQ(hash(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(hash("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(hash(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, PiecesGiveTheSameAsTheWhole) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += static_cast<char>(i * 7);
  for (std::size_t length = 0; length <= text.size(); ++length) {
    Sha256 pieces;
    const auto bytes = std::as_bytes(std::span(text.data(), length));
    pieces.update(bytes.first(length / 3));
    pieces.update(bytes.subspan(length / 3));
    ASSERT_EQ(pieces.finish(), sha256(bytes)) << length;
  }
}

}  // namespace
}  // namespace attn

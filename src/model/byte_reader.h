// A binary file's bytes, handed out in order.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "attn/error.h"

namespace attn {

static_assert(std::endian::native == std::endian::little, "values are read where they lie");

// What would go past the end throws attn::Error "<source>: <where>truncated: ...", with `where` the
// place, as "key general.name: ". `source` must outlive the reader.
class ByteReader {
 public:
  ByteReader(std::span<const std::byte> file, const std::string& source)
      : file_(file), source_(source) {}

  std::uint64_t at() const { return at_; }
  std::uint64_t left() const { return file_.size() - at_; }
  std::span<const std::byte> since(std::uint64_t begin) const {
    return file_.subspan(begin, at_ - begin);
  }

  [[noreturn]] void fail(const std::string& where, const std::string& reason) const {
    throw Error(source_ + ": " + where + reason);
  }
  std::span<const std::byte> take(std::uint64_t bytes, const std::string& where) {
    if (bytes > left()) {
      fail(where, "truncated: " + std::to_string(bytes) + " bytes wanted at byte " +
                      std::to_string(at_) + ", " + std::to_string(left()) + " are left");
    }
    at_ += bytes;
    return file_.subspan(at_ - bytes, bytes);
  }
  template <class T>
  T number(const std::string& where) {
    T value;
    std::memcpy(&value, take(sizeof(T), where).data(), sizeof(T));
    return value;
  }

 private:
  std::span<const std::byte> file_;
  const std::string& source_;
  std::uint64_t at_ = 0;
};

}  // namespace attn

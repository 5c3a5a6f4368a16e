// Files: mapped whole, or read whole. Errors are attn::Error with the path and the system's reason.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

namespace attn {

// A file in memory, read-only, for as long as the object lives.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }
  // Lets whole pages of `part` leave memory until they are read again.
  void release(std::span<const std::byte> part) const;

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// Throws when the file cannot be read or is larger than `limit`.
std::string read_file(const std::string& path, std::size_t limit = std::size_t{64} << 20);
// The same, nothing when there is no such file.
std::optional<std::string> read_file_if_present(const std::string& path,
                                                std::size_t limit = std::size_t{64} << 20);
// Throws when not every byte could be written.
void write_file(const std::string& path, const std::string& contents);

}  // namespace attn

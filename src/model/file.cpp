#include "model/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "attn/error.h"

namespace attn {
namespace {

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw Error(path + ": " + what + ": " + std::strerror(errno));
}

class Descriptor {
 public:
  Descriptor(const std::string& path, int flags, mode_t mode = 0)
      : fd_(open(path.c_str(), flags | O_CLOEXEC, mode)) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

std::size_t size_of_file(const Descriptor& file, const std::string& path) {
  struct stat status {};
  if (fstat(file.get(), &status) != 0) fail(path, "cannot be examined");
  if (!S_ISREG(status.st_mode)) throw Error(path + ": is not a regular file");
  return static_cast<std::size_t>(status.st_size);
}

std::string read_open(const Descriptor& file, const std::string& path, std::size_t limit) {
  const std::size_t size = size_of_file(file, path);
  if (size > limit) {
    throw Error(path + ": has " + std::to_string(size) + " bytes, at most " +
                std::to_string(limit) + " are read");
  }
  std::string contents(size, '\0');
  std::size_t done = 0;
  while (done < size) {
    const ssize_t n = read(file.get(), contents.data() + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(path, "cannot be read");
    if (n == 0) throw Error(path + ": became shorter while it was read");
    done += static_cast<std::size_t>(n);
  }
  return contents;
}

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const Descriptor file(path, O_RDONLY);
  if (file.get() < 0) fail(path, "cannot be opened");
  size_ = size_of_file(file, path);
  if (size_ == 0) return;
  void* const memory = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (memory == MAP_FAILED) fail(path, "cannot be mapped");
  data_ = static_cast<const std::byte*>(memory);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::release(std::span<const std::byte> part) const {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const auto begin = static_cast<std::size_t>(part.data() - data_);
  const std::size_t first = (begin + page - 1) / page * page,
                    last = (begin + part.size()) / page * page;
  if (first < last) madvise(const_cast<std::byte*>(data_) + first, last - first, MADV_DONTNEED);
}

std::string read_file(const std::string& path, std::size_t limit) {
  const Descriptor file(path, O_RDONLY);
  if (file.get() < 0) fail(path, "cannot be opened");
  return read_open(file, path, limit);
}

std::optional<std::string> read_file_if_present(const std::string& path, std::size_t limit) {
  const Descriptor file(path, O_RDONLY);
  if (file.get() < 0 && (errno == ENOENT || errno == ENOTDIR)) return std::nullopt;
  if (file.get() < 0) fail(path, "cannot be opened");
  return read_open(file, path, limit);
}

void write_file(const std::string& path, const std::string& contents) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) fail(path, "cannot be created");
  std::size_t done = 0;
  while (done < contents.size()) {
    const ssize_t n = write(fd, contents.data() + done, contents.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int reason = errno;
      close(fd);
      errno = reason;
      fail(path, "cannot be written");
    }
    done += static_cast<std::size_t>(n);
  }
  // A full disk may speak up only here.
  if (close(fd) != 0) fail(path, "cannot be written");
}

}  // namespace attn

// Reads the tensors of rwkv.cpp's "ggmf" files, versions 100 and 101, float32 only: for tests.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace attn::test {

class Ggmf {
 public:
  explicit Ggmf(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
    const std::uint32_t magic = number(), version = number();
    if (magic != 0x67676d66 || version < 100 || version > 101)
      throw std::runtime_error(path + ": no ggmf 100 or 101");
    vocabulary = number();
    width = number();
    layers = number();
    number();  // type of the file
    while (at_ < bytes_.size()) read_tensor();
  }

  const std::vector<float>& operator[](const std::string& name) const { return tensors_.at(name); }

  std::uint32_t vocabulary = 0, width = 0, layers = 0;

 private:
  const char* take(std::size_t count) {
    if (count > bytes_.size() - at_) throw std::runtime_error("ggmf: ends early");
    at_ += count;
    return bytes_.data() + at_ - count;
  }
  std::uint32_t number() {
    std::uint32_t x;
    std::memcpy(&x, take(sizeof x), sizeof x);
    return x;
  }
  void read_tensor() {
    const std::uint32_t dimensions = number(), name_length = number();
    if (number() != 0) throw std::runtime_error("ggmf: a tensor is not float32");
    std::size_t count = 1;
    for (std::uint32_t i = 0; i < dimensions; ++i) count *= number();
    const std::string name(take(name_length), name_length);
    const char* data = take(count * sizeof(float));
    std::vector<float> values(count);
    std::memcpy(values.data(), data, count * sizeof(float));
    tensors_[name] = values;
  }

  std::vector<char> bytes_;
  std::size_t at_ = 0;
  std::map<std::string, std::vector<float>> tensors_;
};

}  // namespace attn::test

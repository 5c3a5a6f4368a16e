// Reads golden files: one record a line, "name count value value ...".
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <string>
#include <vector>

namespace attn::test {

class Golden {
 public:
  explicit Golden(const std::string& file) {
    std::ifstream in(std::string(ATTN_TEST_DATA) + "/" + file);
    EXPECT_TRUE(in.is_open()) << file;
    std::string name;
    std::size_t count = 0;
    while (in >> name >> count) {
      std::vector<double> values(count);
      for (double& v : values) {
        std::string word;  // as words: streams do not read "nan" and "inf"
        in >> word;
        v = std::stod(word);
      }
      records_[name] = values;
    }
    EXPECT_FALSE(records_.empty()) << file;
  }

  const std::vector<double>& operator[](const std::string& name) const {
    const auto found = records_.find(name);
    if (found == records_.end()) throw std::out_of_range("no golden record " + name);
    return found->second;
  }

 private:
  std::map<std::string, std::vector<double>> records_;
};

}  // namespace attn::test

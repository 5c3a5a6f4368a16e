#include "model/pre_patterns.h"

#include <algorithm>

#include "attn/error.h"
#include "model/pre_tokenizer.h"

namespace attn {
namespace {

// As the models' tokenizer.json write them.
constexpr const char* kLlama3 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
constexpr const char* kQwen2 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
constexpr const char* kTekken =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|"
    "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
constexpr const char* kGpt4o =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

struct Named {
  std::vector<std::string> names;
  PrePatterns what;
};

const std::vector<Named>& table() {
  static const std::vector<Named> kTable = {
      {{"gpt-2", "phi-2", "exaone4", "jais"}, {.patterns = {kGpt2Pattern}}},
      {{"mpt", "olmo"}, {.patterns = {kGpt2Pattern}, .nfc = true}},
      {{"smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b"},
       {.patterns = {"\\p{N}", kGpt2Pattern}}},
      {{"llama-bpe", "llama3", "llama-v3", "falcon3", "lfm2"},
       {.patterns = {kLlama3}, .whole_words = true, .begins = true}},
      {{"dbrx", "smaug-bpe"}, {.patterns = {kLlama3}}},
      {{"qwen2"}, {.patterns = {kQwen2}, .nfc = true}},
      {{"deepseek-r1-qwen", "stablelm2", "megrez"}, {.patterns = {kQwen2}}},
      {{"tekken"}, {.patterns = {kTekken}, .whole_words = true, .begins = true}},
      {{"gpt-4o", "llama4"}, {.patterns = {kGpt4o}}},
      {{"deepseek-coder"},
       {.patterns = {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+",
                     "[\\u4E00-\\u9FA5\\u0800-\\u4E00\\uAC00-\\uD7FF]+", "\\p{N}"}}},
  };
  return kTable;
}

}  // namespace

const PrePatterns& pre_patterns(const std::string& name, const std::string& source) {
  std::string known;
  for (const Named& named : table()) {
    for (const std::string& each : named.names) {
      if (each == name) return named.what;
      known += (known.empty() ? "" : ", ") + each;
    }
  }
  throw Error(source + ": pre-tokenizer \"" + name + "\" is not known (" + known + ")");
}

}  // namespace attn

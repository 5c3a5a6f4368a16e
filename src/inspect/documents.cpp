#include "inspect/documents.h"

#include <algorithm>
#include <stdexcept>

#include "base/random.h"

namespace attn::inspect {

namespace {

// Bytes that hold more tokens than a document, but for the oddest texts, where it is shorter.
constexpr std::size_t kBytesOfToken = 64;

}  // namespace

std::vector<Ids> split(const LanguageModel& model, std::span<const std::string> texts,
                       std::int64_t length, std::int64_t count) {
  const Ids empty = model.encode("");
  std::vector<Ids> documents;
  const auto full = [&] { return static_cast<std::int64_t>(documents.size()) == count; };
  for (const std::string& text : texts) {
    if (full()) break;
    const Ids ids = model.encode(text);
    const auto body = std::mismatch(empty.begin(), empty.end(), ids.begin(), ids.end()).second;
    const std::int64_t room = length - (body - ids.begin());
    if (room < 1) throw std::invalid_argument("[heads] a document has no room for text");
    for (auto at = body; at != ids.end() && !full();) {
      const std::int64_t take = std::min<std::int64_t>(room, ids.end() - at);
      if (take < room && at != body) break;
      Ids document(ids.begin(), body);
      document.insert(document.end(), at, at + take);
      if (document.size() > 1) documents.push_back(std::move(document));
      at += take;
    }
  }
  return documents;
}

std::vector<Encoding> split(const Model& model, std::span<const std::string> texts,
                            std::int64_t length, std::int64_t count) {
  std::vector<Encoding> documents;
  for (const std::string& text : texts) {
    std::size_t at = 0;
    while (at < text.size() && static_cast<std::int64_t>(documents.size()) < count) {
      const std::string part = text.substr(at, static_cast<std::size_t>(length) * kBytesOfToken);
      Encoding document = model.encode(part, {}, length);
      std::size_t end = 0;
      for (std::size_t i = 0; i < document.ids.size(); ++i) {
        if (!document.tokens[i].special) end = std::max(end, document.offsets[i].second);
      }
      if (end == 0 || (at > 0 && !document.truncated)) break;
      at += end;
      documents.push_back(std::move(document));
    }
  }
  return documents;
}

Ids random_ids(const LanguageModel& model, std::int64_t count, std::uint32_t stream) {
  const auto vocabulary = static_cast<std::uint64_t>(model.info().vocabulary);
  Ids ids;
  // A vocabulary without text gives nothing; one with a little of it takes longer.
  const std::uint64_t tries = vocabulary * 64 + static_cast<std::uint64_t>(count) * 64;
  for (std::uint64_t i = 0; i < tries && static_cast<std::int64_t>(ids.size()) < count; ++i) {
    const auto random = philox4x32(
        {static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(i >> 32), stream, 0}, {0, 0});
    const auto id = static_cast<std::int32_t>((random[0] * vocabulary) >> 32);
    if (model.is_text(id)) ids.push_back(id);
  }
  if (static_cast<std::int64_t>(ids.size()) < count)
    throw std::invalid_argument("[heads] the vocabulary has no tokens of text");
  return ids;
}

}  // namespace attn::inspect

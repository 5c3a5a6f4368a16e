// What attn.look() and attn.view() return.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "attn/record.h"

namespace attn::python {

// What a page shows, one record or an encoder-decoder's three, and the page itself when asked.
struct Page {
  std::shared_ptr<const AttentionRecord> record;
  std::shared_ptr<const TranslationRecord> translation;
  std::string title;

  std::string html() const;
  std::string write(const std::string& path) const;
  // "encoder", "decoder" or "cross"; none where there is one record.
  const AttentionRecord& part(const std::optional<std::string>& name) const;
  // The last: what queries are of, and keys.
  const AttentionRecord& shown() const { return translation ? translation->cross : *record; }
};

inline Page make_page(std::shared_ptr<const AttentionRecord> record, const std::string& title) {
  return {std::move(record), {}, title};
}
inline Page make_page(std::shared_ptr<const TranslationRecord> record, const std::string& title) {
  return {{}, std::move(record), title};
}

}  // namespace attn::python

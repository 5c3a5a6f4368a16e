// Looking into a record: statistics of every head, findings, and the page.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attn/context.h"
#include "attn/record.h"

namespace attn {

// Means over the queries that see at least one key, of one head. What compares the places of a
// query and a key (previous, next, self, distance) is NaN in cross-attention, where they are of two
// texts.
struct HeadStatistics {
  int layer = 0, head = 0;      // as the model counts them
  double entropy = 0;           // nats
  double relative_entropy = 0;  // over ln(visible keys); 0 for a row with one key
  double previous = 0;          // mass on the token before (over queries that have one)
  double next = 0;
  double self = 0;
  double first = 0;     // mass on the first key's token
  double special = 0;   // mass on special tokens
  double distance = 0;  // mean |q - k|, in tokens
  double max_probability = 0;
};

// layers x heads, in order.
std::vector<HeadStatistics> head_statistics(const AttentionRecord& record,
                                            const Context& context = Context());

// The same of heads that spread evenly over the keys that they may see: what the numbers above are
// to be compared with.
std::vector<HeadStatistics> uniform_statistics(const AttentionRecord& record,
                                               const Context& context = Context());

// Sentences for people, each of another kind, with the evidence and what an even head would show:
// "Head 2.7 looks at the previous token: 83 % of its mass (uniform: 4 %)". The strongest first.
std::vector<std::string> findings(const AttentionRecord& record,
                                  const std::vector<HeadStatistics>& statistics,
                                  std::size_t count = 3, const Context& context = Context());

// One attention row [key tokens] of a layer, as the model counts them; computed from the record
// (float64 inside).
std::vector<double> attention_row(const AttentionRecord& record, int layer, int head,
                                  std::int64_t query);

// Bytes that a page may take.
inline constexpr double kPageLimit = 100e6;

// One self-contained HTML file: no network request, works from file://. Carries the queries and
// keys in float16, 5 bytes a pair of them (2.5 MB a million), from which it computes every row.
// Layers for which `limit` bytes have no room are pictures of 128 x 128 cells and up to 16 exact
// rows of each head. Throws std::invalid_argument for a record with a custom score function, which
// a page cannot carry.
std::string page(const AttentionRecord& record, const std::string& title = "",
                 const Context& context = Context(), double limit = kPageLimit);
// Three tabs: encoder, decoder, cross.
std::string page(const TranslationRecord& record, const std::string& title = "",
                 const Context& context = Context(), double limit = kPageLimit);
// Written beside the target (where a symbolic link leads) and renamed, so that a full disk leaves
// no half page. Throws attn::Error. Returns the absolute path.
std::string write_page(const AttentionRecord& record, const std::string& path,
                       const std::string& title = "", const Context& context = Context(),
                       double limit = kPageLimit);
std::string write_page(const TranslationRecord& record, const std::string& path,
                       const std::string& title = "", const Context& context = Context(),
                       double limit = kPageLimit);

}  // namespace attn

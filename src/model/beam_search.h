// Beam search, as Hugging Face's generate() does it: in each step every running text is continued
// by every token, and the most probable `beams` of all continuations run on; those that end are
// kept aside. With one beam that is greedy decoding. (transformers/generation/utils.py,
// _beam_search; generation/logits_process.py for the rules.)
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace attn {

// When a search ends that has `beams` ended texts.
enum class EarlyStopping : std::uint8_t {
  no,    // when no running text, as long as it is now, scores above the worst of them
  yes,   // at once
  never  // as `no`, but a running text may get as long as it can, if length is rewarded
};

struct SearchSettings {
  std::int64_t beams = 1;
  // An ended text's score is its log-probability divided by its tokens to this power.
  double length_penalty = 1;
  EarlyStopping early_stopping = EarlyStopping::no;
  std::int64_t max_tokens = 0;  // the end included
  std::vector<std::int32_t> ends = {};
  // Rules of models, which hide tokens.
  std::int64_t min_tokens = 0;             // none may end before
  std::int64_t no_repeat_ngram = 0;        // no so many tokens in a row twice; 0: no rule
  std::vector<std::int32_t> banned = {};   // never
  std::optional<std::int32_t> first = {};  // the only one that may come first
  std::vector<std::int32_t> last = {};     // the only ones that may come as token max_tokens
  bool renormalize = false;                // probabilities of what is left sum to 1
};

// A text that ended, or had no room to go on.
struct FoundText {
  std::vector<std::int32_t> ids;  // without the end
  bool ended = false;
  double log_probability = 0;  // the end's included
  double score = 0;
};

class BeamSearch {
 public:
  // A running text. `parent` is its place among those of the step before.
  struct Beam {
    std::size_t parent = 0;
    std::vector<std::int32_t> ids;  // from the start token on
    double log_probability = 0;
  };

  // Throws std::invalid_argument for a setting without meaning.
  BeamSearch(SearchSettings settings, std::int32_t start);

  // At most `beams`, the most probable first; each ends with the token to continue.
  const std::vector<Beam>& running() const { return running_; }
  // Takes the logits [running][vocabulary] that follow the running texts.
  void advance(std::span<const float> logits);
  bool done() const { return done_; }
  // At most `beams`, the best score first. Once it is done there is at least one, unless the rules
  // left no token.
  const std::vector<FoundText>& found() const { return found_; }

 private:
  void apply_rules(const Beam& beam, std::vector<float>& log_probabilities) const;
  bool is_end(std::int32_t token) const;
  void keep(FoundText text);

  SearchSettings settings_;
  std::vector<Beam> running_;
  std::vector<FoundText> found_;
  bool done_ = false;
};

}  // namespace attn

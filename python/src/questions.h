// What is asked of attention and answered beside its output, as Python gives and gets it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "arrays.h"
#include "attn/attention.h"
#include "attn/model.h"

namespace attn::python {

// One number a query.
struct RowQuestion {
  const char* name;
  Tensor Observed::*place;
};
inline constexpr std::array<RowQuestion, 7> kRowQuestions{{
    {"lse", &Observed::lse},
    {"max_logit", &Observed::max_logit},
    {"entropy", &Observed::entropy},
    {"relative_entropy", &Observed::relative_entropy},
    {"max_probability", &Observed::max_probability},
    {"mean_variance", &Observed::mean_variance},
    {"value_weighted", &Observed::value_weighted},
}};
// The other answers, in the order in which they are told.
inline constexpr std::array kOtherAnswers{
    "column_mass",    "top_keys", "top_weights",     "distances",    "offsets",
    "offset_queries", "key_sets", "picture_largest", "picture_mean", "rows"};

struct Questions {
  std::array<bool, kRowQuestions.size()> rowwise{};
  bool column_mass = false;
  std::int64_t top_k = 0;
  std::optional<std::array<std::int64_t, 3>> distances;  // first, step, bins
  std::vector<std::int64_t> offsets;
  std::vector<std::vector<std::int64_t>> key_sets;
  std::optional<std::array<std::int64_t, 2>> picture;  // rows, columns: of the whole matrix
  std::vector<std::int64_t> rows;

  // As a call of Questions.
  std::string text() const;
};

// Values by name; None for what was not asked.
struct Answers {
  std::vector<std::pair<std::string, nb::object>> values;

  nb::object get(const std::string& name) const {
    for (const auto& [key, value] : values) {
      if (key == name) return value;
    }
    return nb::none();
  }
};

// Memory for the answers to `questions`, and the questions as the library takes them.
class Asked {
 public:
  // `s`: of the call; `type`: what floats are answered in.
  Asked(const Questions& questions, Kind kind, DType type, const AttentionShape& s);
  // Of a model's heads for a text of `tokens`, which look at `keys` others where that is given:
  // NumPy, [layers, heads, ...].
  Asked(const Questions& questions, const ModelInfo& model, std::int64_t tokens,
        std::optional<std::int64_t> keys = {});

  const Observed& observed() const { return observed_; }
  Answers answers() const;

 private:
  // [B, Hq, inner...] of the type that is computed in; `row`: one number each, whose width is not a
  // dimension for Python.
  Tensor floats(const char* name, std::vector<std::int64_t> inner, bool row = false);
  // [B, Hq, n] float64, summed over queries.
  Tensor sums(const char* name, std::int64_t n);
  Tensor place(const char* name, DType type, const std::vector<std::int64_t>& inner,
               const Shape& shape);

  Kind kind_;
  DType type_;
  std::array<std::int64_t, 2> lead_;
  Observed observed_;
  std::vector<std::pair<std::string, Output>> outputs_;
};

// Keywords that no other argument took, as a Questions, which refuses unknown ones.
Questions questions_of(const nb::kwargs& keywords);

}  // namespace attn::python

// attn.Questions and attn.Answers.
#include "questions.h"

#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>

#include "bindings.h"

namespace attn::python {

using namespace nb::literals;

namespace {

std::string list(const std::vector<std::int64_t>& numbers) {
  std::string text;
  for (const std::int64_t n : numbers) text += (text.empty() ? "" : ", ") + std::to_string(n);
  return "[" + text + "]";
}

}  // namespace

std::string Questions::text() const {
  std::string text;
  const auto add = [&](const std::string& question, const std::string& value) {
    text += (text.empty() ? "" : ", ") + question + "=" + value;
  };
  for (std::size_t i = 0; i < rowwise.size(); ++i) {
    if (rowwise[i]) add(kRowQuestions[i].name, "True");
  }
  if (column_mass) add("column_mass", "True");
  if (top_k != 0) add("top_k", std::to_string(top_k));
  if (distances) add("distances", list({distances->begin(), distances->end()}));
  if (!offsets.empty()) add("offsets", list(offsets));
  if (!key_sets.empty()) {
    std::string sets;
    for (const auto& set : key_sets) sets += (sets.empty() ? "" : ", ") + list(set);
    add("key_sets", "[" + sets + "]");
  }
  if (picture) add("picture", list({picture->begin(), picture->end()}));
  if (!rows.empty()) add("rows", list(rows));
  return "Questions(" + text + ")";
}

Asked::Asked(const Questions& questions, Kind kind, DType type, const AttentionShape& s)
    : kind_(kind), type_(type), lead_{s.batch, s.q_heads} {
  for (std::size_t i = 0; i < kRowQuestions.size(); ++i) {
    if (questions.rowwise[i]) {
      observed_.*kRowQuestions[i].place = floats(kRowQuestions[i].name, {s.q_len}, true);
    }
  }
  if (questions.column_mass) observed_.column_mass = sums("column_mass", s.k_len);
  if (questions.top_k > 0) {
    const std::int64_t k = questions.top_k;
    outputs_.emplace_back("top_keys", new_integers(kind_, {s.batch, s.q_heads, s.q_len, k}));
    const Tensor& keys = outputs_.back().second.view;
    observed_.top = {
        .k = k,
        .weights = floats("top_weights", {s.q_len, k}),
        .keys = {static_cast<std::int32_t*>(keys.data), static_cast<std::size_t>(keys.size())}};
  }
  if (questions.distances) {
    const auto [first, step, bins] = *questions.distances;
    observed_.distances = {
        .first = first, .step = step, .bins = bins, .mass = sums("distances", bins)};
  }
  if (!questions.offsets.empty()) {
    const auto n = static_cast<std::int64_t>(questions.offsets.size());
    observed_.offsets = {.offsets = questions.offsets,
                         .mass = sums("offsets", n),
                         .queries = sums("offset_queries", n)};
  }
  if (!questions.key_sets.empty()) {
    const auto n = static_cast<std::int64_t>(questions.key_sets.size());
    observed_.key_sets = {.sets = questions.key_sets, .mass = floats("key_sets", {s.q_len, n})};
  }
  if (questions.picture) {
    const std::int64_t rows = std::min((*questions.picture)[0], s.q_len);
    const std::int64_t columns = std::min((*questions.picture)[1], s.k_len);
    observed_.picture = {.q_end = s.q_len,
                         .k_end = s.k_len,
                         .rows = rows,
                         .columns = columns,
                         .largest = floats("picture_largest", {rows, columns}),
                         .mean = floats("picture_mean", {rows, columns})};
  }
  if (!questions.rows.empty()) {
    const auto n = static_cast<std::int64_t>(questions.rows.size());
    observed_.rows = {.queries = questions.rows, .probabilities = floats("rows", {n, s.k_len})};
  }
}

Asked::Asked(const Questions& questions, const ModelInfo& model, std::int64_t tokens,
             std::optional<std::int64_t> keys)
    : Asked(questions, Kind::numpy, DType::f32,
            {.batch = model.layers,
             .q_heads = model.heads,
             .q_len = tokens,
             .k_len = keys.value_or(tokens)}) {}

Answers Asked::answers() const {
  Answers a;
  for (const auto& [name, output] : outputs_) a.values.emplace_back(name, output.object());
  return a;
}

Tensor Asked::floats(const char* name, std::vector<std::int64_t> inner, bool row) {
  return place(
      name, type_, inner,
      row ? Shape{lead_[0], lead_[1], inner[0], 1} : Shape{lead_[0], lead_[1], inner[0], inner[1]});
}
Tensor Asked::sums(const char* name, std::int64_t n) {
  return place(name, DType::f64, {n}, {lead_[0], lead_[1], 1, n});
}
Tensor Asked::place(const char* name, DType type, const std::vector<std::int64_t>& inner,
                    const Shape& shape) {
  std::vector<std::int64_t> dimensions(lead_.begin(), lead_.end());
  dimensions.insert(dimensions.end(), inner.begin(), inner.end());
  for (const std::int64_t n : dimensions) {
    if (n < 0) {
      throw std::invalid_argument(std::string("[observe] ") + name + " has " + std::to_string(n) +
                                  " entries");
    }
  }
  Output out = new_output(kind_, type, dimensions);
  out.view.shape = shape;
  out.view.strides = strides_bhld(shape);
  outputs_.emplace_back(name, out);
  return out.view;
}

Questions questions_of(const nb::kwargs& keywords) {
  return nb::cast<Questions>(nb::type<Questions>()(**keywords));
}

void bind_questions(nb::module_& m) {
  nb::class_<Questions>(m, "Questions", R"(What to ask of an attention call, beside its output.

Answered tile by tile, never with an Lq x Lk matrix; probabilities are those before dropout, with
the sink in the denominator. Answers, [batch, heads, ...], of a model [layers, heads, ...]:

lse, max_logit, entropy (nats), relative_entropy (over ln(visible keys)), max_probability,
mean_variance (of p (1 - p)), value_weighted (sum of p |v|): one number a query, [B, H, Lq].
column_mass: what each key receives from all queries, [B, H, Lk].
top_k: the k largest weights of each query, as top_keys (int32, -1 past the visible ones) and
top_weights, [B, H, Lq, k].
distances=(first, step, bins): mass by distance q - k, [B, H, bins]; bin 0 is below first, the last
bin holds the rest.
offsets=[1, ...]: mass at exactly these distances q - k, [B, H, n], and offset_queries, how many
queries see a key there.
key_sets=[[0], [3, 7], ...]: mass of each query into sets of keys, [B, H, Lq, n].
picture=(rows, columns): the matrix pooled to that size at most, as picture_largest and
picture_mean.
rows=[0, ...]: the probabilities of these queries, [B, H, n, Lk].)")
      .def(
          "__init__",
          [](Questions* self, bool lse, bool max_logit, bool entropy, bool relative_entropy,
             bool max_probability, bool mean_variance, bool value_weighted, bool column_mass,
             std::int64_t top_k, std::optional<std::array<std::int64_t, 3>> distances,
             nb::handle offsets, std::vector<std::vector<std::int64_t>> key_sets,
             std::optional<std::array<std::int64_t, 2>> picture, nb::handle rows) {
            if (top_k < 0) {
              throw std::invalid_argument("[observe] top_k is " + std::to_string(top_k) +
                                          ", must be 0 (none) or more");
            }
            new (self) Questions{.rowwise = {lse, max_logit, entropy, relative_entropy,
                                             max_probability, mean_variance, value_weighted},
                                 .column_mass = column_mass,
                                 .top_k = top_k,
                                 .distances = distances,
                                 .offsets = import_integers(offsets, "[observe] offsets"),
                                 .key_sets = std::move(key_sets),
                                 .picture = picture,
                                 .rows = import_integers(rows, "[observe] rows")};
          },
          nb::kw_only(), "lse"_a = false, "max_logit"_a = false, "entropy"_a = false,
          "relative_entropy"_a = false, "max_probability"_a = false, "mean_variance"_a = false,
          "value_weighted"_a = false, "column_mass"_a = false, "top_k"_a = 0,
          "distances"_a = nb::none(), "offsets"_a = nb::none(),
          "key_sets"_a = std::vector<std::vector<std::int64_t>>{}, "picture"_a = nb::none(),
          "rows"_a = nb::none())
      .def("__repr__", &Questions::text);

  nb::class_<Answers> answers(m, "Answers",
                              "What was asked, by name; None for what was not. See Questions.");
  const auto add = [&answers](const char* name) {
    answers.def_prop_ro(name,
                        [name](const Answers& a) { return nb::borrow<nb::any>(a.get(name)); });
  };
  for (const RowQuestion& question : kRowQuestions) add(question.name);
  for (const char* name : kOtherAnswers) add(name);
  answers
      .def_prop_ro(
          "names",
          [](const Answers& a) {
            std::vector<std::string> names;
            for (const auto& [name, value] : a.values) names.push_back(name);
            return names;
          },
          "Of the answers that there are.")
      .def("__repr__", [](const Answers& a) {
        std::string text;
        for (const auto& [name, value] : a.values) {
          const nb::object shape =
              nb::module_::import_("builtins").attr("list")(value.attr("shape"));
          text += (text.empty() ? "" : ", ") + name + " " + nb::cast<std::string>(nb::str(shape));
        }
        return "Answers(" + text + ")";
      });
}

}  // namespace attn::python

// attn.LanguageModel, but for generation, and attn.TextScore.
#include "language_models.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <utility>

#include "attn/language_model.h"
#include "bindings.h"
#include "pages.h"
#include "questions.h"

namespace attn::python {

using namespace nb::literals;

nb::object load_language_model(const std::string& path, const Context& context,
                               const std::string& rope_scaling) {
  LanguageModelOptions options;
  if (!rope_scaling.empty()) options.rope_scaling = RopeScaling::from_text(rope_scaling);
  std::shared_ptr<PyLanguageModel> model;
  {
    nb::gil_scoped_release release;
    model = std::make_shared<PyLanguageModel>(LanguageModel::load(path, context, options));
  }
  return nb::cast(model);
}

DType cache_type(const std::string& name) {
  if (name == "float32") return DType::f32;
  if (name == "bfloat16") return DType::bf16;
  if (name == "int8") return DType::i8;
  throw std::invalid_argument("[generate] kv_cache is '" + name +
                              "', must be float32, bfloat16 or int8");
}

namespace {

// f() without the GIL, one caller at a time.
template <class F>
auto run(PyLanguageModel& m, const F& f) {
  nb::gil_scoped_release release;
  const std::lock_guard one_at_a_time(m.busy);
  return f();
}

// [rows, width] float32.
nb::any matrix(const std::vector<float>& values, std::size_t rows, std::int64_t width) {
  const Output out = new_output(Kind::numpy, DType::f32, {static_cast<std::int64_t>(rows), width});
  if (!values.empty()) std::memcpy(out.view.data, values.data(), values.size() * sizeof(float));
  return nb::borrow<nb::any>(out.object());
}

nb::any logits(PyLanguageModel& m, nb::handle text_or_ids) {
  const Ids ids = ids_of(m, text_or_ids);
  return matrix(run(m, [&] { return m.model.logits(ids); }), ids.size(), m.model.info().vocabulary);
}

nb::any hidden(PyLanguageModel& m, nb::handle text_or_ids) {
  const Ids ids = ids_of(m, text_or_ids);
  return matrix(run(m, [&] { return m.model.hidden(ids); }), ids.size(), m.model.info().width);
}

nb::any embed(PyLanguageModel& m, nb::handle given) {
  const std::vector<std::string> texts = texts_of(given);
  std::vector<float> all;
  for (const auto& one : run(m, [&] { return m.model.embed(texts); }))
    all.insert(all.end(), one.begin(), one.end());
  return matrix(all, texts.size(), m.model.info().width);
}

Answers observe(PyLanguageModel& m, nb::handle text_or_ids, const nb::kwargs& questions) {
  const Ids ids = ids_of(m, text_or_ids);
  const Asked asked(questions_of(questions), m.model.info(), static_cast<std::int64_t>(ids.size()));
  run(m, [&] { return m.model.observe(ids, asked.observed()); });
  return asked.answers();
}

nb::any losses(const TextScore& s) {
  const Output out =
      new_output(Kind::numpy, DType::f32, {static_cast<std::int64_t>(s.losses.size())});
  std::memcpy(out.view.data, s.losses.data(), s.losses.size() * sizeof(float));
  return nb::borrow<nb::any>(out.object());
}

TextScore score(PyLanguageModel& m, nb::handle text_or_ids, std::int64_t window, std::int64_t step,
                std::optional<std::int64_t> sinks,
                const std::vector<std::pair<std::int64_t, std::int64_t>>& ablate,
                const std::string& ablate_with, const std::string& kv_cache) {
  if (ablate_with != "zero" && ablate_with != "mean") {
    throw std::invalid_argument("[score] ablate_with is '" + ablate_with +
                                "', must be zero or mean");
  }
  const Ids ids = ids_of(m, text_or_ids);
  ScoreOptions options;
  options.window = window;
  options.step = step;
  options.sinks = sinks;
  options.cache = cache_type(kv_cache);
  options.progress = [](std::int64_t, std::int64_t) {
    nb::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();  // Ctrl-C
  };
  nb::gil_scoped_release release;
  const std::lock_guard one_at_a_time(m.busy);
  HeadAblation ablation;
  for (const auto& head : ablate) ablation.heads.push_back({head.first, head.second});
  options.ablation = ablate_with == "mean" && !ablate.empty()
                         ? m.model.mean_ablation(ablation.heads, ids, options)
                         : ablation;
  return m.model.score(ids, options);
}

Page view(PyLanguageModel& m, nb::handle text_or_ids, std::int64_t max_length,
          const std::vector<std::int64_t>& layers, std::optional<std::int64_t> generated,
          std::string title) {
  Ids ids = ids_of(m, text_or_ids);
  if (max_length < 0) throw std::invalid_argument("[view] max_length is below 0");
  const bool cut = max_length > 0 && static_cast<std::int64_t>(ids.size()) > max_length;
  if (cut) ids.resize(static_cast<std::size_t>(max_length));
  std::shared_ptr<AttentionRecord> record;
  {
    nb::gil_scoped_release release;
    const std::lock_guard one_at_a_time(m.busy);
    record = std::make_shared<AttentionRecord>(m.model.record(ids, layers, generated.value_or(-1)));
    record->truncated = cut;
  }
  if (title.empty()) {  // how the text begins
    for (std::size_t i = 0; i < std::min<std::size_t>(record->tokens.size(), 16); ++i)
      title += record->tokens[i].text;
  }
  return make_page(std::move(record), title);
}

}  // namespace

void bind_language_models(nb::module_& m) {
  nb::class_<TextScore>(m, "TextScore", "How well a language model foresees a text.")
      .def_prop_ro(
          "losses", &losses,
          "[tokens - 1] float32: -ln of the probability that each token but the first had.")
      .def_ro("top", &TextScore::top, "The token that was held for the most probable, of each.")
      .def_ro("mean_loss", &TextScore::mean_loss, "Nats a token.")
      .def_ro("perplexity", &TextScore::perplexity, "e to the mean loss.")
      .def("__repr__", [](const TextScore& s) {
        return "TextScore(perplexity " + std::to_string(s.perplexity) + ", " +
               std::to_string(s.losses.size()) + " tokens)";
      });

  nb::class_<PyLanguageModel> model(m, "LanguageModel", "A language model, loaded by attn.load().");
  bind_generation(m, model);
  model
      .def(
          "encode",
          [](const PyLanguageModel& x, const std::string& text) { return x.model.encode(text); },
          "text"_a, "The text's token ids, special ones that texts begin with included.")
      .def(
          "decode",
          [](const PyLanguageModel& x, const Ids& ids) { return text_of(x.model.decode(ids)); },
          "ids"_a, "The text that tokens stand for, without special ones.")
      .def(
          "tokens",
          [](const PyLanguageModel& x, nb::handle text_or_ids) {
            nb::list pieces;
            for (const std::int32_t id : ids_of(x, text_or_ids))
              pieces.append(text_of(x.model.piece(id)));
            return pieces;
          },
          "text_or_ids"_a, "The vocabulary's spelling of each token.")
      .def("logits", &logits, "text_or_ids"_a, "[tokens, vocabulary] float32.")
      .def("hidden", &hidden, "text_or_ids"_a,
           "The last hidden states, after the last norm, [tokens, width] float32.")
      .def("embed", &embed, "texts"_a,
           "One vector a text, [texts, width] float32: the mean of its hidden states, scaled to "
           "length 1.")
      .def("observe", &observe, "text_or_ids"_a, "questions"_a,
           R"(What every head does, as Answers: [layers, heads, ...]. See Questions.

    seen = model.observe("The cat sat on the mat.", entropy=True, top_k=8)
    seen.entropy, seen.top_keys, seen.top_weights

value_weighted weighs values before the output projection.)")
      .def("score", &score, "text_or_ids"_a, nb::kw_only(), "window"_a = 0, "step"_a = 0,
           "sinks"_a = nb::none(),
           "ablate"_a = std::vector<std::pair<std::int64_t, std::int64_t>>{},
           "ablate_with"_a = "zero", "kv_cache"_a = "float32",
           R"(How well the model foresees a text, or token ids; returns a TextScore.

window: tokens that are seen at once (0: 2048, or the model's positions); each window begins step
tokens after the one before (0: half a window), and a token counts in the first that holds it. With
sinks the text runs once, step tokens at a time (0: 1), through a cache of window tokens that keeps
the first and the last. ablate: heads as (layer, head), counted from 0, whose output becomes zero,
or its mean over this text.)")
      .def("view", &view, "text_or_ids"_a, nb::kw_only(), "max_length"_a = 0,
           "layers"_a = std::vector<std::int64_t>{}, "generated"_a = nb::none(), "title"_a = "",
           R"(The page of what every head attends to, as attn.look() shows it.

max_length: cut to so many tokens. layers: only these, counted from 0. generated: the first token
that the model wrote itself, which the page follows:

    ids = model.encode(prompt)
    model.view(ids + model.generate(ids).ids, generated=len(ids)))")
      .def_prop_ro("path", [](const PyLanguageModel& x) { return x.model.info().path; })
      .def_prop_ro("family", [](const PyLanguageModel& x) { return x.model.info().family; })
      .def_prop_ro("layers", [](const PyLanguageModel& x) { return x.model.info().layers; })
      .def_prop_ro("heads", [](const PyLanguageModel& x) { return x.model.info().heads; })
      .def_prop_ro("kv_heads", [](const PyLanguageModel& x) { return x.model.info().kv_heads; })
      .def_prop_ro("width", [](const PyLanguageModel& x) { return x.model.info().width; })
      .def_prop_ro("vocabulary", [](const PyLanguageModel& x) { return x.model.info().vocabulary; })
      .def_prop_ro("max_length", [](const PyLanguageModel& x) { return x.model.info().max_length; })
      .def_prop_ro("parameters", [](const PyLanguageModel& x) { return x.model.info().parameters; })
      .def("__repr__", [](const PyLanguageModel& x) {
        const ModelInfo& i = x.model.info();
        return "LanguageModel(" + i.family + ", " + std::to_string(i.layers) + " layers, " +
               std::to_string(i.heads) + " heads, " + i.path + ")";
      });
}

}  // namespace attn::python

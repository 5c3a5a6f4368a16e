// attn.TranslationModel and attn.Translation.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <mutex>
#include <optional>

#include "attn/translation_model.h"
#include "bindings.h"
#include "pages.h"
#include "questions.h"

namespace attn::python {

using namespace nb::literals;

// A context serves one caller at a time, and so does a model.
struct PyTranslationModel {
  TranslationModel model;
  std::mutex busy;
};

nb::object load_translation_model(const std::string& path, const Context& context) {
  std::shared_ptr<PyTranslationModel> model;
  {
    nb::gil_scoped_release release;
    model = std::make_shared<PyTranslationModel>(TranslationModel::load(path, context));
  }
  return nb::cast(model);
}

namespace {

Translation translate(PyTranslationModel& m, nb::handle text, std::optional<std::int64_t> beams,
                      std::optional<double> length_penalty,
                      std::optional<std::int64_t> max_tokens) {
  const Ids ids = ids_of(m, text);
  nb::gil_scoped_release release;
  const std::lock_guard one_at_a_time(m.busy);
  return m.model.translate(
      ids, {.beams = beams, .length_penalty = length_penalty, .max_tokens = max_tokens});
}

// A target and whether the model made it: text, token ids, or, without either, its translation.
struct Target {
  Ids ids;
  bool generated = false;
};
Target target_of(PyTranslationModel& m, const Ids& source, nb::handle given) {
  if (nb::isinstance<nb::str>(given))
    return {m.model.encode_target(nb::cast<std::string>(given)), false};
  if (!given.is_none()) return {list_of_ids(given), false};
  nb::gil_scoped_release release;
  const std::lock_guard one_at_a_time(m.busy);
  return {m.model.translate(source).ids, true};
}

Page view(PyTranslationModel& m, nb::handle text, nb::handle target,
          const std::vector<std::int64_t>& layers, std::string title) {
  const Ids source = ids_of(m, text);
  const Target to = target_of(m, source, target);
  if (title.empty() && nb::isinstance<nb::str>(text))
    title = nb::cast<std::string>(text) + " \u2192 " + m.model.decode(to.ids);
  std::shared_ptr<TranslationRecord> record;
  {
    nb::gil_scoped_release release;
    const std::lock_guard one_at_a_time(m.busy);
    record =
        std::make_shared<TranslationRecord>(m.model.record(source, to.ids, layers, to.generated));
  }
  return make_page(std::move(record), title);
}

struct TranslationAnswers {
  Ids source, target;
  Answers encoder, decoder, cross;
};

TranslationAnswers observe(PyTranslationModel& m, nb::handle text, nb::handle target,
                           const nb::kwargs& keywords) {
  const Questions questions = questions_of(keywords);
  TranslationAnswers out;
  out.source = ids_of(m, text);
  out.target = target_of(m, out.source, target).ids;
  const auto sources = static_cast<std::int64_t>(out.source.size()),
             targets = static_cast<std::int64_t>(out.target.size()) + 1;  // and the start
  const ModelInfo &encoder = m.model.info(), &decoder = m.model.decoder_info();
  const Asked of_encoder(questions, encoder, sources), of_decoder(questions, decoder, targets),
      of_cross(questions, decoder, targets, sources);
  {
    nb::gil_scoped_release release;
    const std::lock_guard one_at_a_time(m.busy);
    m.model.observe(out.source, out.target,
                    {of_encoder.observed(), of_decoder.observed(), of_cross.observed()});
  }
  out.encoder = of_encoder.answers();
  out.decoder = of_decoder.answers();
  out.cross = of_cross.answers();
  return out;
}

}  // namespace

void bind_translation_models(nb::module_& m) {
  nb::class_<TranslationAnswers>(m, "TranslationAnswers",
                                 "What the heads of an encoder-decoder answered.")
      .def_ro("encoder", &TranslationAnswers::encoder, "Source tokens look at source tokens.")
      .def_ro("decoder", &TranslationAnswers::decoder,
              "Target tokens, the start before them, look at themselves.")
      .def_ro("cross", &TranslationAnswers::cross,
              "Target tokens, the start before them, look at source tokens.")
      .def_ro("source", &TranslationAnswers::source, "Token ids.")
      .def_ro("target", &TranslationAnswers::target, "Token ids, without start and end.");

  nb::class_<Translation>(m, "Translation", "What an encoder-decoder made of a text.")
      .def_prop_ro("text", [](const Translation& t) { return text_of(t.text); })
      .def_ro("ids", &Translation::ids, "Its tokens, without start and end.")
      .def_prop_ro(
          "tokens",
          [](const Translation& t) {
            nb::list pieces;
            for (const std::string& piece : t.tokens) pieces.append(text_of(piece));
            return pieces;
          },
          "The vocabulary's spelling of each token.")
      .def_ro("score", &Translation::score,
              "log_probability divided by the number of tokens to the length penalty.")
      .def_ro("log_probability", &Translation::log_probability,
              "Of all tokens, the end's included.")
      .def_ro("ended", &Translation::ended, "By its end, not by max_tokens.")
      .def("__repr__", [](const Translation& t) {
        return "Translation(" + std::to_string(t.ids.size()) + " tokens)";
      });

  nb::class_<PyTranslationModel>(m, "TranslationModel",
                                 "An encoder-decoder, loaded by attn.load().")
      .def(
          "encode",
          [](const PyTranslationModel& x, const std::string& text) { return x.model.encode(text); },
          "text"_a, "A source's token ids, special ones included.")
      .def(
          "decode",
          [](const PyTranslationModel& x, const Ids& ids) { return text_of(x.model.decode(ids)); },
          "ids"_a, "The text that target tokens stand for, without special ones.")
      .def(
          "tokens",
          [](const PyTranslationModel& x, nb::handle text_or_ids) {
            nb::list pieces;
            for (const std::int32_t id : ids_of(x, text_or_ids))
              pieces.append(text_of(x.model.piece(id)));
            return pieces;
          },
          "text_or_ids"_a, "The vocabulary's spelling of each token of a source.")
      .def("translate", &translate, "text"_a, nb::kw_only(), "beams"_a = nb::none(),
           "length_penalty"_a = nb::none(), "max_tokens"_a = nb::none(),
           R"(Translates a text or token ids; returns a Translation.

beams: texts that run side by side, 1 is greedy. length_penalty: above 1 prefers longer texts.
max_tokens: of the target, its end included. None: as the model's generation_config.json says.)")
      .def(
          "encode_target",
          [](const PyTranslationModel& x, const std::string& text) {
            return x.model.encode_target(text);
          },
          "text"_a, "A target's token ids, without start and end.")
      .def("observe", &observe, "text"_a, "target"_a = nb::none(), "questions"_a,
           R"(What every head does while a target is scored, as TranslationAnswers. See Questions.

    seen = model.observe("A dog runs.", entropy=True, top_k=3)
    seen.cross.entropy, seen.cross.top_keys  # [layers, heads, target tokens + 1, ...]

target: a text or token ids; None: the model's own translation. Questions about rows, offsets and keys
are asked of encoder, decoder and cross alike. value_weighted weighs values before the output
projection.)")
      .def(
          "view", &view, "text"_a, "target"_a = nb::none(), nb::kw_only(),
          "layers"_a = std::vector<std::int64_t>{}, "title"_a = "",
          "The page of what every head attends to, with a tab each for encoder, decoder and cross. "
          "target: a text or token ids; None: the model's own translation. layers: only these.")
      .def_prop_ro("path", [](const PyTranslationModel& x) { return x.model.info().path; })
      .def_prop_ro("family", [](const PyTranslationModel& x) { return x.model.info().family; })
      .def_prop_ro(
          "layers", [](const PyTranslationModel& x) { return x.model.info().layers; },
          "Of the encoder.")
      .def_prop_ro("heads", [](const PyTranslationModel& x) { return x.model.info().heads; })
      .def_prop_ro("width", [](const PyTranslationModel& x) { return x.model.info().width; })
      .def_prop_ro(
          "vocabulary", [](const PyTranslationModel& x) { return x.model.info().vocabulary; },
          "Of the target.")
      .def_prop_ro("parameters",
                   [](const PyTranslationModel& x) { return x.model.info().parameters; })
      .def("__repr__", [](const PyTranslationModel& x) {
        const ModelInfo& i = x.model.info();
        return "TranslationModel(" + i.family + ", " + std::to_string(i.layers) + " layers, " +
               std::to_string(i.heads) + " heads, " + i.path + ")";
      });
}

}  // namespace attn::python

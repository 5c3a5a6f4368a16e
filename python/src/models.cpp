// attn.view, attn.load, attn.look.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <filesystem>
#include <memory>
#include <optional>
#include <stdexcept>

#include "attn/language_model.h"
#include "attn/model.h"
#include "attn/translation_model.h"
#include "bindings.h"
#include "pages.h"
#include "questions.h"

namespace attn::python {

using namespace nb::literals;

nb::str text_of(std::string_view bytes) {
  PyObject* text =
      PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "replace");
  if (text == nullptr) throw nb::python_error();
  return nb::steal<nb::str>(text);
}

Ids list_of_ids(nb::handle ids) {
  Ids list;
  if (!nb::try_cast(ids, list)) throw nb::type_error("give a text, or a list of token ids");
  return list;
}

std::vector<std::string> texts_of(nb::handle texts) {
  if (nb::isinstance<nb::str>(texts)) return {nb::cast<std::string>(texts)};
  return nb::cast<std::vector<std::string>>(texts);
}

namespace {

// [H, L, D] or [1, H, L, D] of float32 or float64, as contiguous float32.
struct Heads {
  std::int64_t heads = 0, length = 0, width = 0;
  std::vector<float> values;
};

Heads import_heads(nb::handle object, const std::string& what) {
  const Input in = import_broadcast(object, what);
  if (in.array.ndim() < 3 || in.view.batch() != 1) {
    throw std::invalid_argument(what + " has shape " + to_string(in.view.shape) +
                                ", must be [heads, tokens, width] of one text");
  }
  const Doubles d = as_doubles(in.view);
  return {in.view.heads(), in.view.length(), in.view.width(), {d.values.begin(), d.values.end()}};
}

// One array, or a list or tuple with one a layer.
std::vector<nb::object> layers_of(nb::handle object) {
  if (nb::isinstance<nb::list>(object) || nb::isinstance<nb::tuple>(object)) {
    std::vector<nb::object> layers;
    for (nb::handle layer : object) layers.push_back(nb::borrow(layer));
    return layers;
  }
  return {nb::borrow(object)};
}

// One value for all layers, or a list or tuple with one a layer.
std::vector<nb::object> each_layer(nb::handle object, std::size_t layers, const char* what) {
  std::vector<nb::object> given = layers_of(object);
  if (given.size() != 1 && given.size() != layers) {
    throw std::invalid_argument("[view] there are " + std::to_string(given.size()) + " " + what +
                                "s, must be 1 or one for each of the " + std::to_string(layers) +
                                " layers");
  }
  if (given.size() == 1) given.resize(layers, nb::object(given[0]));
  return given;
}

std::string layer_name(const char* what, std::size_t layer, std::size_t layers) {
  return layers == 1 ? std::string("[view] ") + what
                     : std::string("[view] ") + what + "[" + std::to_string(layer) + "]";
}

void check_equal(const std::string& what, std::int64_t value, const char* quantity,
                 std::int64_t expected) {
  if (value != expected) {
    throw std::invalid_argument(what + " has " + quantity + " " + std::to_string(value) +
                                ", must have " + std::to_string(expected));
  }
}

// What a page keeps: biases outlive the caller's arrays.
struct KeptRecord {
  AttentionRecord record;
  std::deque<Doubles> biases;
};

std::vector<RecordToken> tokens_of(const std::vector<std::string>& texts,
                                   const std::vector<std::int64_t>& special,
                                   const std::vector<std::int64_t>& words) {
  const auto length = static_cast<std::int64_t>(texts.size());
  if (!words.empty()) {
    check_equal("[view] words", static_cast<std::int64_t>(words.size()), "entries", length);
  }
  std::vector<RecordToken> tokens;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::int64_t word = words.empty() ? static_cast<std::int64_t>(i) : words[i];
    tokens.push_back({.text = texts[i], .word = static_cast<std::int32_t>(word)});
  }
  for (const std::int64_t i : special) {
    if (i < 0 || i >= length) {
      throw std::invalid_argument("[view] special token " + std::to_string(i) +
                                  " is not among the " + std::to_string(length) + " tokens");
    }
    tokens[static_cast<std::size_t>(i)].special = true;
    tokens[static_cast<std::size_t>(i)].word = -1;
  }
  return tokens;
}

// ||v|| of every token, a query head's from its key head.
std::vector<float> norms_of(const Heads& values, std::int64_t group) {
  std::vector<float> norms;
  for (std::int64_t h = 0; h < values.heads * group; ++h) {
    const float* row = values.values.data() + (h / group) * values.length * values.width;
    for (std::int64_t t = 0; t < values.length; ++t, row += values.width) {
      double sum = 0;
      for (std::int64_t d = 0; d < values.width; ++d) sum += double{row[d]} * row[d];
      norms.push_back(static_cast<float>(std::sqrt(sum)));
    }
  }
  return norms;
}

Page view(nb::handle q, nb::handle k, const std::vector<std::string>& tokens, nb::handle mask,
          nb::handle score, std::optional<double> scale, nb::handle v,
          const std::vector<std::int64_t>& special, const std::vector<std::int64_t>& words,
          const std::string& title) {
  const std::vector<nb::object> qs = layers_of(q), ks = layers_of(k);
  const std::vector<nb::object> vs = v.is_none() ? std::vector<nb::object>{} : layers_of(v);
  if (qs.empty() || ks.size() != qs.size() || (!vs.empty() && vs.size() != qs.size())) {
    throw std::invalid_argument("[view] q has " + std::to_string(qs.size()) + " layers, k has " +
                                std::to_string(ks.size()) +
                                (vs.empty() ? "" : ", v has " + std::to_string(vs.size())));
  }
  const std::vector<nb::object> masks = each_layer(mask, qs.size(), "Mask");
  const std::vector<nb::object> scores = each_layer(score, qs.size(), "Score");
  auto kept = std::make_shared<KeptRecord>();
  AttentionRecord& record = kept->record;
  record.model = title;
  record.tokens = tokens_of(tokens, special, words);
  const auto length = static_cast<std::int64_t>(tokens.size());
  for (std::size_t i = 0; i < qs.size(); ++i) {
    const std::string q_name = layer_name("q", i, qs.size());
    const std::string k_name = layer_name("k", i, qs.size());
    Heads queries = import_heads(qs[i], q_name), keys = import_heads(ks[i], k_name);
    if (i == 0) {
      record.heads = queries.heads;
      record.kv_heads = keys.heads;
      record.width = queries.width;
      if (keys.heads < 1 || queries.heads < 1 || queries.heads % keys.heads != 0) {
        throw std::invalid_argument(q_name + " has heads " + std::to_string(queries.heads) +
                                    ", must be a multiple of k's " + std::to_string(keys.heads));
      }
    }
    for (const auto& [name, given] : {std::pair(q_name, queries.length), {k_name, keys.length}}) {
      if (given != length) {
        throw std::invalid_argument("[view] there are " + std::to_string(length) + " tokens, " +
                                    name.substr(std::string_view("[view] ").size()) + " has " +
                                    std::to_string(given));
      }
    }
    check_equal(q_name, queries.heads, "heads", record.heads);
    check_equal(k_name, keys.heads, "heads", record.kv_heads);
    check_equal(q_name, queries.width, "width", record.width);
    check_equal(k_name, keys.width, "width", record.width);
    CallOptions call = call_options("[view]", {masks[i]}, {scores[i]}, scale, 0, nb::none(),
                                    nb::none(), {nb::none()});
    if (!call.mask.predicates.empty()) {
      throw std::invalid_argument(
          "[view] a page keeps its mask: a predicate cannot be kept, give Mask.dense()");
    }
    if (call.bias) {
      kept->biases.push_back(as_doubles(call.bias->view));
      call.options.score.bias = kept->biases.back().view;
    }
    LayerRecord layer{.q = std::move(queries.values),
                      .k = std::move(keys.values),
                      .value_norm = {},
                      .mask = call.options.mask,
                      .score = call.options.score};
    if (!vs.empty()) {
      const std::string v_name = layer_name("v", i, qs.size());
      const Heads values = import_heads(vs[i], v_name);
      check_equal(v_name, values.length, "tokens", length);
      check_equal(v_name, values.heads, "heads", record.kv_heads);
      layer.value_norm = norms_of(values, record.heads / record.kv_heads);
    }
    record.layers.push_back(std::move(layer));
  }
  return make_page(std::shared_ptr<const AttentionRecord>(kept, &record), title);
}

// A context serves one caller at a time, and so does a model.
struct PyModel {
  Model model;
  std::unique_ptr<std::mutex> busy = std::make_unique<std::mutex>();
};

nb::any matrix(const float* values, std::size_t rows, std::size_t columns) {
  const Output out =
      new_output(Kind::numpy, DType::f32,
                 {static_cast<std::int64_t>(rows), static_cast<std::int64_t>(columns)});
  if (rows * columns > 0) std::memcpy(out.view.data, values, rows * columns * sizeof(float));
  return nb::borrow<nb::any>(out.object());
}

nb::any embed(const PyModel& m, nb::handle texts) {
  const std::vector<std::string> list = texts_of(texts);
  std::vector<float> flat;
  {
    nb::gil_scoped_release release;
    const std::lock_guard one_at_a_time(*m.busy);
    std::vector<Encoding> encodings;
    for (const std::string& text : list) encodings.push_back(m.model.encode(text));
    for (const std::vector<float>& vector : m.model.embed(encodings)) {
      flat.insert(flat.end(), vector.begin(), vector.end());
    }
  }
  const std::size_t columns =
      list.empty() ? static_cast<std::size_t>(m.model.info().width) : flat.size() / list.size();
  return matrix(flat.data(), list.size(), columns);
}

using GlobalTokens = std::optional<std::vector<std::int64_t>>;

nb::any hidden(const PyModel& m, const std::string& text, const std::optional<std::string>& pair,
               const GlobalTokens& global_tokens) {
  std::vector<float> states;
  std::size_t tokens = 0;
  {
    nb::gil_scoped_release release;
    const std::lock_guard one_at_a_time(*m.busy);
    Encoding encoding = m.model.encode(text, pair);
    encoding.global_tokens = global_tokens;
    tokens = encoding.ids.size();
    states = m.model.hidden(encoding);
  }
  return matrix(states.data(), tokens, tokens == 0 ? 0 : states.size() / tokens);
}

Answers observe(const PyModel& m, const std::string& text, const std::optional<std::string>& pair,
                const nb::kwargs& questions) {
  const Encoding encoding = m.model.encode(text, pair);
  const Asked asked(questions_of(questions), m.model.info(),
                    static_cast<std::int64_t>(encoding.ids.size()));
  {
    nb::gil_scoped_release release;
    const std::lock_guard one_at_a_time(*m.busy);
    m.model.observe(encoding, asked.observed());
  }
  return asked.answers();
}

Page look(const PyModel& m, const std::string& text, const std::optional<std::string>& pair,
          std::int64_t max_length, const std::vector<std::int64_t>& layers,
          const GlobalTokens& global_tokens, const std::string& title) {
  std::shared_ptr<AttentionRecord> record;
  {
    nb::gil_scoped_release release;
    const std::lock_guard one_at_a_time(*m.busy);
    Encoding encoding = m.model.encode(text, pair, max_length);
    encoding.global_tokens = global_tokens;
    record = std::make_shared<AttentionRecord>(m.model.record(encoding, layers));
  }
  return make_page(std::move(record), title.empty() ? text : title);
}

}  // namespace

void bind_models(nb::module_& m) {
  m.def("view", &view, "q"_a, "k"_a, "tokens"_a, nb::kw_only(), "mask"_a = nb::none(),
        "score"_a = nb::none(), "scale"_a = nb::none(), "v"_a = nb::none(),
        "special"_a = std::vector<std::int64_t>{}, "words"_a = std::vector<std::int64_t>{},
        "title"_a = "attention",
        R"(A page from anybody's tensors.

q [heads, tokens, width] and k [kv_heads, tokens, width] of one text, as attention reads them
(rotated), or lists with one array a layer; tokens: their texts. mask and score: one for all layers,
or lists with one a layer. v (optional, [kv_heads, tokens, Dv]) gives the norms for the
value-weighted view. special: indices of tokens such as [CLS]; words: the word that each token
belongs to, as a number.)");

  nb::class_<PyModel>(m, "Model", "A model, loaded by attn.load().")
      .def("embed", &embed, "texts"_a, "One vector a text, [texts, width] float32.")
      .def(
          "hidden", &hidden, "text"_a, "pair"_a = nb::none(), nb::kw_only(),
          "global_tokens"_a = nb::none(),
          "The last hidden states, [tokens, width] float32. global_tokens: of a Longformer, tokens "
          "that see, and are seen by, all of the text; the first, unless given.")
      .def("observe", &observe, "text"_a, "pair"_a = nb::none(), "questions"_a,
           R"(What every head does, as Answers: [layers, heads, ...]. See Questions.

    seen = model.observe("The cat sat on the mat.", entropy=True, top_k=8)
    seen.entropy, seen.top_keys, seen.top_weights

value_weighted weighs values before the output projection.)")
      .def(
          "tokens",
          [](const PyModel& model, const std::string& text,
             const std::optional<std::string>& pair) {
            std::vector<std::string> texts;
            for (const RecordToken& t : model.model.encode(text, pair).tokens) {
              texts.push_back(t.text);
            }
            return texts;
          },
          "text"_a, "pair"_a = nb::none(), "The text's tokens, special ones included.")
      .def("view", &look, "text"_a, "pair"_a = nb::none(), nb::kw_only(), "max_length"_a = 0,
           "layers"_a = std::vector<std::int64_t>{}, "global_tokens"_a = nb::none(), "title"_a = "",
           "The page of what every head attends to; layers: only these; global_tokens as in "
           "hidden().")
      .def_prop_ro("path", [](const PyModel& x) { return x.model.info().path; })
      .def_prop_ro("family", [](const PyModel& x) { return x.model.info().family; })
      .def_prop_ro("layers", [](const PyModel& x) { return x.model.info().layers; })
      .def_prop_ro("heads", [](const PyModel& x) { return x.model.info().heads; })
      .def_prop_ro("width", [](const PyModel& x) { return x.model.info().width; })
      .def_prop_ro("max_length", [](const PyModel& x) { return x.model.info().max_length; })
      .def_prop_ro("parameters", [](const PyModel& x) { return x.model.info().parameters; })
      .def("__repr__", [](const PyModel& x) {
        const ModelInfo& i = x.model.info();
        return "Model(" + i.family + ", " + std::to_string(i.layers) + " layers, " +
               std::to_string(i.heads) + " heads, " + i.path + ")";
      });
  m.def(
      "load",
      [](nb::handle path, int threads, const std::string& isa, bool offline,
         const std::string& rope_scaling) -> nb::object {
        const auto name = nb::cast<std::string>(nb::module_::import_("os").attr("fspath")(path));
        const Context own({.threads = threads, .isa = isa_from_name(isa)});
        std::string place;
        std::optional<PyModel> encoder;
        bool translates = false;
        {
          nb::gil_scoped_release release;
          place = std::filesystem::is_regular_file(name)
                      ? name
                      : resolve_model(name, {.offline = offline});
          translates = is_translation_model(place);
          if (!translates && !is_language_model(place))
            encoder.emplace(PyModel{Model::load(place, own)});
        }
        if (!encoder && !translates) return load_language_model(place, own, rope_scaling);
        if (!rope_scaling.empty())
          throw std::invalid_argument("[load] rope_scaling is for language models");
        return translates ? load_translation_model(place, own) : nb::cast(std::move(*encoder));
      },
      "path"_a, nb::kw_only(), "threads"_a = 0, "isa"_a = "automatic", "offline"_a = false,
      "rope_scaling"_a = "",
      nb::sig("def load(path: object, *, threads: int = 0, isa: str = 'automatic', "
              "offline: bool = False, rope_scaling: str = '') -> Model | LanguageModel | "
              "TranslationModel"),
      "A model from a folder in Hugging Face layout, a GGUF file, or by a known name such as "
      "minilm or smollm2, which is obtained when it is not in the cache (offline: only the cache). "
      "An encoder is a Model, a language model a LanguageModel, an encoder-decoder a "
      "TranslationModel. rope_scaling stretches the positions of a language model past its "
      "context: "
      "\"yarn:4\", or linear, ntk, dynamic.");

  m.def(
      "look",
      [](nb::handle model, nb::handle text, const nb::kwargs& options) -> nb::object {
        return nb::borrow(model).attr("view")(text, **options);
      },
      "model"_a, "text"_a, "options"_a,
      nb::sig("def look(model: Model | LanguageModel | TranslationModel, text: object, **options) "
              "-> Page"),
      "The page of what every head of a model attends to in a text; in a notebook it shows itself. "
      "Options as of the model's view(); of an encoder-decoder there are three tabs, and target: "
      "the "
      "translation to look at, in place of its own.");
}

}  // namespace attn::python

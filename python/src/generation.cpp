// LanguageModel.generate, LanguageModel.generate_batch and attn.Generation.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "language_models.h"

namespace attn::python {

using namespace nb::literals;

namespace {

// With the model's sizes, by which its attention has a shape.
struct PyGeneration : Generation {
  std::int64_t layers = 0, heads = 0;
};

PyGeneration with_sizes(Generation got, const ModelInfo& info) {
  return {std::move(got), info.layers, info.heads};
}

// What was asked for by top_keys: [tokens, layers, heads] and [tokens, layers, heads, top_keys].
struct PyAttention {
  nb::any entropy, sink, top_keys, top_weights;
};

template <class T>
nb::any stacked(const PyGeneration& g, std::vector<T> TokenAttention::*part, bool several) {
  std::vector<std::int64_t> shape = {static_cast<std::int64_t>(g.attention.size()), g.layers,
                                     g.heads};
  if (several) {
    const auto top = static_cast<std::int64_t>((g.attention.front().*part).size());
    shape.push_back(top / (g.layers * g.heads));
  }
  const Output out = std::is_same_v<T, float> ? new_output(Kind::numpy, DType::f32, shape)
                                              : new_integers(Kind::numpy, shape);
  T* to = static_cast<T*>(out.view.data);
  for (const TokenAttention& a : g.attention)
    to = std::copy((a.*part).begin(), (a.*part).end(), to);
  return nb::borrow<nb::any>(out.object());
}

nb::object attention_of(const PyGeneration& g) {
  if (g.attention.empty()) return nb::none();
  return nb::cast(PyAttention{
      stacked(g, &TokenAttention::entropy, false), stacked(g, &TokenAttention::sink, false),
      stacked(g, &TokenAttention::keys, true), stacked(g, &TokenAttention::weights, true)});
}

Ids prompt_ids(const PyLanguageModel& m, nb::handle prompt, bool chat, const std::string& system) {
  if (!system.empty() && !chat) throw std::invalid_argument("[generate] system needs chat=True");
  return chat ? m.model.encode_chat(system, nb::cast<std::string>(prompt)) : ids_of(m, prompt);
}

GenerationOptions options_of(std::int64_t max_tokens, const SamplerOptions& sampler,
                             const std::vector<std::string>& stop, const std::string& kv_cache,
                             std::int64_t window, std::int64_t sinks) {
  GenerationOptions options;
  options.max_tokens = max_tokens;
  options.sampler = sampler;
  options.stop = stop;
  options.cache = cache_type(kv_cache);
  options.window = window;
  options.sinks = sinks;
  return options;
}

void check_signals() {
  if (PyErr_CheckSignals() != 0) throw nb::python_error();  // Ctrl-C
}

PyGeneration generate(PyLanguageModel& m, nb::handle prompt, std::int64_t max_tokens,
                      double temperature, std::int64_t top_k, double top_p, double min_p,
                      double repetition_penalty, std::uint64_t seed,
                      const std::vector<std::string>& stop, bool chat, const std::string& system,
                      const std::string& kv_cache, std::int64_t window, std::int64_t sinks,
                      std::int64_t top_keys, nb::handle on_text) {
  const Ids ids = prompt_ids(m, prompt, chat, system);
  GenerationOptions options =
      options_of(max_tokens, {repetition_penalty, temperature, top_k, top_p, min_p, seed}, stop,
                 kv_cache, window, sinks);
  options.top_keys = top_keys;
  nb::gil_scoped_release release;
  const std::lock_guard one_at_a_time(m.busy);
  return with_sizes(m.model.generate(ids, options,
                                     [&](std::string_view part) {
                                       nb::gil_scoped_acquire acquire;
                                       check_signals();
                                       if (!on_text.is_none()) on_text(text_of(part));
                                     }),
                    m.model.info());
}

std::vector<PyGeneration> generate_batch(PyLanguageModel& m, const std::vector<nb::object>& prompts,
                                         std::int64_t max_tokens, double temperature,
                                         std::int64_t top_k, double top_p, double min_p,
                                         double repetition_penalty, std::uint64_t seed,
                                         const std::vector<std::string>& stop, bool chat,
                                         const std::string& system, const std::string& kv_cache,
                                         std::int64_t window, std::int64_t sinks,
                                         std::int64_t side_by_side, nb::handle on_text) {
  std::vector<Ids> ids;
  for (const nb::object& prompt : prompts) ids.push_back(prompt_ids(m, prompt, chat, system));
  GenerationOptions options =
      options_of(max_tokens, {repetition_penalty, temperature, top_k, top_p, min_p, seed}, stop,
                 kv_cache, window, sinks);
  options.side_by_side = side_by_side;
  nb::gil_scoped_release release;
  const std::lock_guard one_at_a_time(m.busy);
  std::vector<Generation> all =
      m.model.generate_batch(ids, options, [&](std::size_t index, std::string_view part) {
        nb::gil_scoped_acquire acquire;
        check_signals();
        if (!on_text.is_none()) on_text(index, text_of(part));
      });
  std::vector<PyGeneration> out;
  for (Generation& got : all) out.push_back(with_sizes(std::move(got), m.model.info()));
  return out;
}

}  // namespace

void bind_generation(nb::module_& m, nb::class_<PyLanguageModel>& model) {
  nb::class_<PyAttention>(m, "GenerationAttention",
                          R"(Where every head looked when each token was chosen.

That is the row of the token before it, as it ran; keys count from the first token of the prompt.)")
      .def_ro("entropy", &PyAttention::entropy, "Nats, [tokens, layers, heads].")
      .def_ro("sink", &PyAttention::sink, "Mass on the first token, [tokens, layers, heads].")
      .def_ro("top_keys", &PyAttention::top_keys,
              "The largest weight's first, -1: no more; [tokens, layers, heads, top_keys].")
      .def_ro("top_weights", &PyAttention::top_weights, "[tokens, layers, heads, top_keys].");

  nb::class_<PyGeneration>(m, "Generation", "What a language model added to a prompt.")
      .def_prop_ro("text", [](const PyGeneration& g) { return text_of(g.text); })
      .def_ro("ids", &PyGeneration::ids, "Its tokens, without the one that ended it.")
      .def_prop_ro(
          "end",
          [](const PyGeneration& g) {
            constexpr const char* kEnds[] = {"end token", "stop text", "max tokens"};
            return kEnds[static_cast<int>(g.end)];
          },
          "Why it ended: \"end token\", \"stop text\" or \"max tokens\".")
      .def_ro("prompt_tokens", &PyGeneration::prompt_tokens)
      .def_ro("prompt_seconds", &PyGeneration::prompt_seconds, "Until the first token.")
      .def_ro("seconds", &PyGeneration::seconds, "After the first token.")
      .def_prop_ro("attention", &attention_of,
                   nb::sig("def attention(self) -> GenerationAttention | None"),
                   "Where every head looked; None unless asked for by top_keys.")
      .def("__repr__", [](const PyGeneration& g) {
        return "Generation(" + std::to_string(g.ids.size()) + " tokens)";
      });

  model
      .def("generate", &generate, "prompt"_a, nb::kw_only(), "max_tokens"_a = 128,
           "temperature"_a = 0.0, "top_k"_a = 0, "top_p"_a = 1.0, "min_p"_a = 0.0,
           "repetition_penalty"_a = 1.0, "seed"_a = 0, "stop"_a = std::vector<std::string>{},
           "chat"_a = false, "system"_a = "", "kv_cache"_a = "float32", "window"_a = 0,
           "sinks"_a = 4, "top_keys"_a = 0, "on_text"_a = nb::none(),
           R"(Continues a prompt, a text or token ids; returns a Generation.

temperature 0 takes the most probable token each time; above, tokens are drawn, from the top_k most
probable (0: all), the fewest that have top_p probability together, those with min_p of the most
probable's probability. repetition_penalty above 1 makes tokens less probable that are there
already. stop: texts that end the text where they begin. chat: the prompt is a question to an
instruct model (ChatML), system what it is told first. kv_cache: float32, bfloat16 or int8. window
above 0: remember so many tokens, the first sinks and the last others, past the context. top_keys
above 0: the result's attention tells where every head looked, so many keys of each. on_text is
called with each piece of text as soon as it is certain.)")
      .def("generate_batch", &generate_batch, "prompts"_a, nb::kw_only(), "max_tokens"_a = 128,
           "temperature"_a = 0.0, "top_k"_a = 0, "top_p"_a = 1.0, "min_p"_a = 0.0,
           "repetition_penalty"_a = 1.0, "seed"_a = 0, "stop"_a = std::vector<std::string>{},
           "chat"_a = false, "system"_a = "", "kv_cache"_a = "float32", "window"_a = 0,
           "sinks"_a = 4, "side_by_side"_a = GenerationOptions{}.side_by_side,
           "on_text"_a = nb::none(),
           R"(Continues prompts of any lengths side by side; returns a Generation each.

Faster than one after the other. Arguments as of generate(), which samples each prompt alike; numbers
agree to rounding. side_by_side: prompts that run at a time, memory grows with them. on_text is called
with a prompt's index and a piece of text.)");
}

}  // namespace attn::python

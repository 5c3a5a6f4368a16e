// The classes that several bindings pass around, and one function a file that registers its words.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "arrays.h"
#include "attn/attention.h"
#include "attn/record.h"

namespace attn::python {

// A Python callable inside a mask. It is called from worker threads, whose exceptions must not
// leave them: the first one waits here until the call that evaluated the mask asks.
struct Predicate {
  nb::object function;
  std::mutex mutex;
  std::exception_ptr error;

  explicit Predicate(nb::object f) : function(std::move(f)) {}
  ~Predicate();
};

struct PyMask {
  Mask mask;
  std::vector<std::shared_ptr<Predicate>> predicates = {};

  // Rethrows what a predicate threw since the last call.
  void check() const;
};

struct PyScore {
  Score score;
  nb::object bias = nb::none();  // seen anew at every call
};

// What a call takes as its mask (a Mask, its text, or what Mask.dense takes), score (a Score or its
// text) and dropout (a Dropout), or None. Converted by call_options, whose errors say more than
// nanobind's.
struct MaskArgument {
  nb::handle object;
};
struct ScoreArgument {
  nb::handle object;
};
struct DropoutArgument {
  nb::handle object;
};
PyMask dense_mask(nb::handle visible);

// A context of the calling thread, kept between calls with its workspace.
const Context& context(int threads, const std::string& isa);

// The keyword arguments that attention, plan and the oracle share. `bias` keeps the score's bias
// alive as long as the options are used.
struct CallOptions {
  AttentionOptions options;
  PyMask mask;
  std::optional<Input> bias;
};
CallOptions call_options(const char* function, MaskArgument mask, ScoreArgument score,
                         std::optional<double> scale, std::int64_t query_start,
                         nb::handle q_positions, nb::handle k_positions, DropoutArgument dropout);

// float64 for float64, else float32: what log-sum-exp, bias and observed values have.
constexpr DType arithmetic_type(DType type) { return type == DType::f64 ? type : DType::f32; }

// Arguments of the oracle, which computes in float64 and answers in float64, whatever came in.
struct ReferenceInputs {
  Doubles q, k, bias;
  CallOptions call;

  ReferenceInputs(const char* function, const Input& qi, const Input& ki, CallOptions options);
};

// Where a call writes its output, and its log-sum-exp when that is asked.
struct Results {
  Output out;
  std::optional<Output> lse;

  // `given`: an array to write into, or None.
  Results(Kind kind, DType type, const ConstTensor& q, std::int64_t v_width, bool with_lse,
          nb::handle given = nb::none());
  Observed observed() const { return lse ? Observed{.lse = lse->view} : Observed{}; }
  // out, or (out, lse).
  nb::object object() const;
};

void bind_additive(nb::module_& m);
// Where a recurrence writes: its output, and the last states when they are asked for.
struct StateResults {
  Output out;
  std::optional<Output> state;

  // Dimensions of the states: none when they are not asked for.
  StateResults(Kind kind, DType type, const std::vector<std::int64_t>& out_dimensions,
               const std::vector<std::int64_t>& state_dimensions);
  Tensor state_view() const { return state ? state->view : Tensor{}; }
  // out, or (out, state).
  nb::any object() const;
};

void bind_masks(nb::module_& m);
void bind_scores(nb::module_& m);
void bind_attention(nb::module_& m);
void bind_gradient(nb::module_& m);
void bind_questions(nb::module_& m);
void bind_observe(nb::module_& m);
void bind_positions(nb::module_& m);
void bind_decay(nb::module_& m);
void bind_recurrent(nb::module_& m);
void bind_linear_attention(nb::module_& m);
void bind_mamba2(nb::module_& m);
void bind_convolution(nb::module_& m);
void bind_selective_scan(nb::module_& m);
void bind_wkv4(nb::module_& m);
void bind_models(nb::module_& m);
void bind_pages(nb::module_& m);
void bind_language_models(nb::module_& m);
void bind_translation_models(nb::module_& m);

using Ids = std::vector<std::int32_t>;

// Bytes as text; a part of a character becomes U+FFFD.
nb::str text_of(std::string_view bytes);
// Token ids; TypeError for anything that is no list of them.
Ids list_of_ids(nb::handle ids);
// A text, encoded by the model that `m` holds, or token ids.
template <class PyModel>
Ids ids_of(const PyModel& m, nb::handle text_or_ids) {
  return nb::isinstance<nb::str>(text_or_ids) ? m.model.encode(nb::cast<std::string>(text_or_ids))
                                              : list_of_ids(text_or_ids);
}

// One text, or several.
std::vector<std::string> texts_of(nb::handle texts);

// A LanguageModel from a folder or GGUF file.
nb::object load_language_model(const std::string& path, const Context& context,
                               const std::string& rope_scaling);
nb::object load_translation_model(const std::string& path, const Context& context);

}  // namespace attn::python

// Anything is taken; the names are for signatures.
namespace nanobind::detail {

template <>
struct type_caster<attn::python::MaskArgument> {
  NB_TYPE_CASTER(attn::python::MaskArgument,
                 make_caster<attn::python::PyMask>::Name + const_name(" | str | object"))
  bool from_python(handle source, std::uint8_t, cleanup_list*) noexcept {
    value.object = source;
    return true;
  }
};

template <>
struct type_caster<attn::python::ScoreArgument> {
  NB_TYPE_CASTER(attn::python::ScoreArgument,
                 make_caster<attn::python::PyScore>::Name + const_name(" | str"))
  bool from_python(handle source, std::uint8_t, cleanup_list*) noexcept {
    value.object = source;
    return true;
  }
};

template <>
struct type_caster<attn::python::DropoutArgument> {
  NB_TYPE_CASTER(attn::python::DropoutArgument, make_caster<attn::Dropout>::Name)
  bool from_python(handle source, std::uint8_t, cleanup_list*) noexcept {
    value.object = source;
    return true;
  }
};

}  // namespace nanobind::detail

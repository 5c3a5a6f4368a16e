// What calls share: contexts, options, places for results.
#include <map>
#include <stdexcept>

#include "bindings.h"

namespace attn::python {

const Context& context(int threads, const std::string& isa) {
  thread_local std::map<std::pair<int, Isa>, Context> contexts;
  const std::pair key(threads, isa_from_name(isa));
  auto found = contexts.find(key);
  if (found == contexts.end()) {
    found = contexts.emplace(key, Context({.threads = threads, .isa = key.second})).first;
  }
  return found->second;
}

namespace {

[[noreturn]] void refuse(const char* function, const char* argument, nb::handle given,
                         const std::string& wanted) {
  throw nb::type_error((std::string(function) + " " + argument + " is a " + class_name(given) +
                        ", must be " + wanted)
                           .c_str());
}

PyMask mask_of(const char* function, nb::handle given) {
  if (given.is_none()) return {};
  if (nb::isinstance<PyMask>(given)) return nb::cast<PyMask>(given);
  if (nb::isinstance<nb::str>(given)) return {Mask::parse(nb::cast<std::string>(given))};
  if (nb::ndarray_check(given)) return dense_mask(given);
  refuse(function, "mask", given, "an attn.Mask, its text (\"causal\") or an array of bools");
}

PyScore score_of(const char* function, nb::handle given) {
  if (given.is_none()) return {};
  if (nb::isinstance<PyScore>(given)) return nb::cast<PyScore>(given);
  if (nb::isinstance<nb::str>(given)) return {Score::parse(nb::cast<std::string>(given))};
  refuse(function, "score", given, "an attn.Score or its text (\"alibi\")");
}

// A number alone would drop the same pairs at every call, which is not what training means.
Dropout dropout_of(const char* function, nb::handle given) {
  if (given.is_none()) return {};
  if (nb::isinstance<Dropout>(given)) return nb::cast<Dropout>(given);
  refuse(function, "dropout", given, "attn.Dropout(p, seed=...), with another seed at every step");
}

}  // namespace

CallOptions call_options(const char* function, MaskArgument mask, ScoreArgument score,
                         std::optional<double> scale, std::int64_t query_start,
                         nb::handle q_positions, nb::handle k_positions, DropoutArgument dropout) {
  CallOptions call;
  call.mask = mask_of(function, mask.object);
  call.options.mask = call.mask.mask;
  const PyScore given = score_of(function, score.object);
  call.options.score = given.score;
  if (!given.bias.is_none()) {
    call.bias = import_broadcast(given.bias, std::string(function) + " bias");
    call.options.score.bias = call.bias->view;
  }
  if (scale) {
    if (call.options.score.scale) {
      throw std::invalid_argument(std::string(function) + " scale is " + std::to_string(*scale) +
                                  " in the call and " + std::to_string(*call.options.score.scale) +
                                  " in the score: give one");
    }
    call.options.score.scale = scale;
  }
  call.options.dropout = dropout_of(function, dropout.object);
  call.options.query_start = query_start;
  call.options.q_positions = import_integers(q_positions, std::string(function) + " q_positions");
  call.options.k_positions = import_integers(k_positions, std::string(function) + " k_positions");
  return call;
}

ReferenceInputs::ReferenceInputs(const char* function, const Input& qi, const Input& ki,
                                 CallOptions options)
    : q(as_doubles(qi.view)), k(as_doubles(ki.view)), call(std::move(options)) {
  if (arithmetic_type(qi.view.dtype) != arithmetic_type(ki.view.dtype)) {
    throw std::invalid_argument(std::string(function) + " k is " + name(ki.view.dtype) + ", q is " +
                                name(qi.view.dtype));
  }
  if (call.bias) {
    bias = as_doubles(call.bias->view);
    call.options.score.bias = bias.view;
  }
}

Results::Results(Kind kind, DType type, const ConstTensor& q, std::int64_t v_width, bool with_lse,
                 nb::handle given) {
  const Shape shape{q.batch(), q.heads(), q.length(), v_width};
  out = given.is_none() ? new_output(kind, type, {shape.begin(), shape.end()})
                        : import_output(given, "[attention] out", type, shape);
  if (with_lse) {
    lse = new_output(kind, arithmetic_type(type), {q.batch(), q.heads(), q.length()});
  }
}

nb::object Results::object() const {
  if (!lse) return out.object();
  return nb::make_tuple(out.object(), lse->object());
}

StateResults::StateResults(Kind kind, DType type, const std::vector<std::int64_t>& out_dimensions,
                           const std::vector<std::int64_t>& state_dimensions)
    : out(new_output(kind, type, out_dimensions)) {
  if (!state_dimensions.empty()) state = new_output(kind, type, state_dimensions);
}

nb::any StateResults::object() const {
  if (!state) return nb::borrow<nb::any>(out.object());
  return nb::borrow<nb::any>(nb::make_tuple(out.object(), state->object()));
}

}  // namespace attn::python

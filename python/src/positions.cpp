// attn.rope, attn.sinusoidal, attn.alibi_slopes, attn.t5_bucket, attn.RopeScaling.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <numeric>
#include <stdexcept>

#include "attn/position.h"
#include "bindings.h"

namespace attn::python {

using namespace nb::literals;

namespace {

RopeLayout layout_from_name(const std::string& layout) {
  if (layout == "half") return RopeLayout::half;
  if (layout == "interleaved") return RopeLayout::interleaved;
  throw std::invalid_argument("[rope] layout is '" + layout + "', must be half or interleaved");
}

// The caller's array stays as it is: a copy is rotated.
nb::any rotated(nb::handle x, nb::handle positions, double base, const std::string& layout,
                double fraction, const RopeScaling* scaling, std::int64_t sequence_length,
                bool inverse) {
  const Input in = import_tensor(x, "[rope] x");
  const ConstTensor& from = in.view;
  const std::vector<std::int64_t> at = import_integers(positions, "[rope] positions");
  const RopeOptions options{.base = base,
                            .layout = layout_from_name(layout),
                            .fraction = fraction,
                            .scaling = scaling != nullptr ? *scaling : RopeScaling{}};
  if (from.strides[3] != 1) {
    throw std::invalid_argument("[rope] x has stride " + std::to_string(from.strides[3]) +
                                " along its width, must be 1 (its rows contiguous)");
  }
  const Output out = new_output(kind_of(x), from.dtype, {from.shape.begin(), from.shape.end()});
  const std::size_t element = size_of(from.dtype);
  const auto bytes = static_cast<std::size_t>(from.width()) * element;
  {
    nb::gil_scoped_release release;
    for (std::int64_t b = 0; b < from.batch(); ++b) {
      for (std::int64_t h = 0; h < from.heads(); ++h) {
        for (std::int64_t l = 0; l < from.length(); ++l) {
          const auto e = static_cast<std::int64_t>(element);
          std::memcpy(static_cast<char*>(out.view.data) + out.view.offset(b, h, l) * e,
                      static_cast<const char*>(from.data) + from.offset(b, h, l) * e, bytes);
        }
      }
    }
    (inverse ? rope_inverse : rope)(out.view, at, options, sequence_length);
  }
  return nb::borrow<nb::any>(out.object());
}

nb::any sinusoidal_table(nb::handle positions, std::int64_t d_model, double base) {
  std::vector<std::int64_t> at = import_integers(positions, "[sinusoidal] positions");
  if (PyLong_Check(positions.ptr())) {  // a length
    if (at[0] < 0) throw std::invalid_argument("[sinusoidal] length is negative");
    at.resize(static_cast<std::size_t>(at[0]));
    std::iota(at.begin(), at.end(), 0);
  }
  if (d_model < 1) {
    throw std::invalid_argument("[sinusoidal] d_model is " + std::to_string(d_model) +
                                ", must be 1 or more");
  }
  const Output out =
      new_output(Kind::numpy, DType::f32, {static_cast<std::int64_t>(at.size()), d_model});
  sinusoidal(at, d_model, static_cast<float*>(out.view.data), base);
  return nb::borrow<nb::any>(out.object());
}

nb::any slopes(std::int64_t heads, double max_bias) {
  const std::vector<float> values = alibi_slopes(heads, max_bias);
  const Output out =
      new_output(Kind::numpy, DType::f32, {static_cast<std::int64_t>(values.size())});
  if (!values.empty()) std::memcpy(out.view.data, values.data(), values.size() * sizeof(float));
  return nb::borrow<nb::any>(out.object());
}

}  // namespace

void bind_positions(nb::module_& m) {
  nb::class_<RopeScaling>(m, "RopeScaling", "How RoPE is stretched past its training length.")
      .def_static("linear", &RopeScaling::linear, "factor"_a, "Position interpolation.")
      .def_static("ntk", &RopeScaling::ntk, "factor"_a, "NTK-aware: a larger base.")
      .def_static("dynamic_ntk", &RopeScaling::dynamic_ntk, "factor"_a, "original_length"_a,
                  "A base that grows with the sequence.")
      .def_static(
          "yarn",
          [](double factor, std::int64_t original_length, double beta_fast, double beta_slow,
             bool truncate, double attention_factor, double mscale, double mscale_all_dim,
             bool paper_ramp) {
            RopeScaling s = RopeScaling::yarn(factor, original_length);
            s.beta_fast = beta_fast;
            s.beta_slow = beta_slow;
            s.truncate = truncate;
            s.attention_factor = attention_factor;
            s.mscale = mscale;
            s.mscale_all_dim = mscale_all_dim;
            s.paper_ramp = paper_ramp;
            return s;
          },
          "factor"_a, "original_length"_a, nb::kw_only(), "beta_fast"_a = 32.0, "beta_slow"_a = 1.0,
          "truncate"_a = true, "attention_factor"_a = 0.0, "mscale"_a = 0.0,
          "mscale_all_dim"_a = 0.0, "paper_ramp"_a = false, "YaRN.")
      .def_static("llama3", &RopeScaling::llama3, "factor"_a = 8.0, "low_freq_factor"_a = 1.0,
                  "high_freq_factor"_a = 4.0, "original_length"_a = 8192, "LLaMA 3.1.")
      .def_static(
          "divided", &RopeScaling::divided, "divisors"_a,
          "Every frequency divided by its own number, [rotary width / 2], as GGUF files keep "
          "LLaMA 3.1's.");

  m.def("rope", &rotated, "x"_a, "positions"_a = nb::none(), nb::kw_only(), "base"_a = 10000.0,
        "layout"_a = "half", "fraction"_a = 1.0, "scaling"_a = nb::none(), "sequence_length"_a = 0,
        "inverse"_a = false, R"(Rotary position embedding of x [B, H, L, D].

Returns a rotated copy. positions: [L], default 0, 1, ... layout: half (GPT-NeoX, Hugging Face LLaMA)
or interleaved (GPT-J). fraction: of the width that rotates.)");
  m.def("sinusoidal", &sinusoidal_table, "positions"_a, "d_model"_a, "base"_a = 10000.0,
        "The sinusoidal table [positions, d_model], float32; positions: a length or integers.");
  m.def("alibi_slopes", &slopes, "heads"_a, "max_bias"_a = 8.0, "ALiBi's slopes, [heads].");
  m.def("t5_bucket", &t5_bucket, "relative"_a, nb::kw_only(), "bidirectional"_a = true,
        "buckets"_a = 32, "max_distance"_a = 128, "T5's bucket of k_pos - q_pos.");
}

}  // namespace attn::python

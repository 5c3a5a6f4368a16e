// attn.Score, attn.T5Bias, attn.Dropout.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "bindings.h"

namespace attn::python {

using namespace nb::literals;

namespace {

// What a pickle holds.
using T5State = std::tuple<std::vector<float>, int, int, bool>;
using ScoreState =
    std::tuple<std::optional<double>, double, nb::object, std::optional<std::vector<float>>,
               std::optional<T5Bias>, std::vector<float>>;
using DropoutState = std::tuple<double, std::uint64_t, std::uint32_t, std::vector<std::uint32_t>>;

}  // namespace

void bind_scores(nb::module_& m) {
  nb::class_<T5Bias>(m, "T5Bias", R"(The T5 relative position bias.

table [buckets, heads]: one learned value a bucket of k_pos - q_pos and head.)")
      .def(
          "__init__",
          [](T5Bias* self, nb::handle table, bool bidirectional, int max_distance) {
            const AnyArray array = import_array(
                nb::module_::import_("numpy").attr("asarray")(table), "[score] t5 table", 2);
            if (array.ndim() != 2) {
              throw std::invalid_argument("[score] t5 table must be [buckets, heads]");
            }
            new (self) T5Bias{.table = import_floats(table, "[score] t5 table", 2),
                              .buckets = static_cast<int>(array.shape(0)),
                              .max_distance = max_distance,
                              .bidirectional = bidirectional};
          },
          "table"_a, nb::kw_only(), "bidirectional"_a = true, "max_distance"_a = 128)
      .def("__getstate__",
           [](const T5Bias& t) {
             return T5State(t.table, t.buckets, t.max_distance, t.bidirectional);
           })
      .def("__setstate__", [](T5Bias& t, const T5State& state) {
        const auto& [table, buckets, max_distance, bidirectional] = state;
        new (&t) T5Bias{.table = table,
                        .buckets = buckets,
                        .max_distance = max_distance,
                        .bidirectional = bidirectional};
      });

  nb::class_<PyScore>(m, "Score", R"(How a visible pair is scored.

s = scale * q.k; s = soft_cap * tanh(s / soft_cap); s += bias, ALiBi, T5; then the mask, then
softmax. A sink, one logit a head, adds to the denominator only.

scale: default 1/sqrt(width). soft_cap: 0 for none. bias: an array that broadcasts to
[B, H, Lq, Lk], of q's type, kept without a copy; -inf hides. alibi: True for the published slopes,
or one slope a head. t5: a T5Bias. sinks: one number a head.)")
      .def(
          "__init__",
          [](PyScore* self, std::optional<double> scale, double soft_cap, nb::object bias,
             nb::object alibi, const T5Bias* t5, nb::handle sinks) {
            PyScore score;
            score.score.scale = scale;
            score.score.soft_cap = soft_cap;
            if (!bias.is_none()) {
              import_broadcast(bias, "[score] bias");  // refuse here what cannot be read later
              score.bias = std::move(bias);
            }
            if (PyBool_Check(alibi.ptr())) {
              if (nb::cast<bool>(alibi)) score.score.alibi_slopes.emplace();
            } else if (!alibi.is_none()) {
              score.score.alibi_slopes = import_floats(alibi, "[score] alibi");
              if (score.score.alibi_slopes->empty()) {
                throw std::invalid_argument(
                    "[score] alibi has no slopes; True means the published ones");
              }
            }
            if (t5 != nullptr) score.score.t5 = *t5;
            score.score.sinks = import_floats(sinks, "[score] sinks");
            new (self) PyScore(std::move(score));
          },
          nb::kw_only(), "scale"_a = nb::none(), "soft_cap"_a = 0.0, "bias"_a = nb::none(),
          "alibi"_a = false, "t5"_a = nb::none(), "sinks"_a = nb::none())
      .def("__str__",
           [](const PyScore& s) {
             Score shown = s.score;
             // The bias joins at the call; only its presence shows.
             static const float kPresent = 0;
             if (!s.bias.is_none()) shown.bias = {&kPresent, {1, 1, 1, 1}};
             return shown.to_string();
           })
      .def("__getstate__",
           [](const PyScore& s) {
             return ScoreState(s.score.scale, s.score.soft_cap, s.bias, s.score.alibi_slopes,
                               s.score.t5, s.score.sinks);
           })
      .def("__setstate__",
           [](PyScore& s, const ScoreState& state) {
             const auto& [scale, soft_cap, bias, alibi_slopes, t5, sinks] = state;
             new (&s) PyScore{.score = {.scale = scale,
                                        .soft_cap = soft_cap,
                                        .alibi_slopes = alibi_slopes,
                                        .t5 = t5,
                                        .sinks = sinks},
                              .bias = bias};
           })
      .def("__repr__",
           [](nb::handle self) { return "Score(" + nb::cast<std::string>(nb::str(self)) + ")"; });

  nb::class_<Dropout>(m, "Dropout", R"(Dropout of probabilities: which pairs are dropped.

p: how many, 0 to below 1 (in steps of 1/65536); the others are scaled by 1/(1 - p). The same seed,
offset and streams drop the same pairs, forward and backward, on every machine, whatever the threads.
streams: one number a sequence; default its index in the batch. Give a sequence its own to have it
treated alike alone and in a batch.)")
      .def(
          "__init__",
          [](Dropout* self, double p, std::uint64_t seed, std::uint32_t offset,
             nb::handle streams) {
            Dropout dropout{.p = p, .seed = seed, .offset = offset};
            for (const std::int64_t s : import_integers(streams, "[dropout] streams")) {
              dropout.streams.push_back(static_cast<std::uint32_t>(s));
            }
            new (self) Dropout(std::move(dropout));
          },
          "p"_a, nb::kw_only(), "seed"_a = 0, "offset"_a = 0, "streams"_a = nb::none())
      .def("__getstate__",
           [](const Dropout& d) { return DropoutState(d.p, d.seed, d.offset, d.streams); })
      .def("__setstate__",
           [](Dropout& d, const DropoutState& state) {
             const auto& [p, seed, offset, streams] = state;
             new (&d) Dropout{.p = p, .seed = seed, .offset = offset, .streams = streams};
           })
      .def_ro("p", &Dropout::p)
      .def_ro("seed", &Dropout::seed)
      .def_ro("offset", &Dropout::offset)
      .def("__repr__", [](const Dropout& d) {
        return "Dropout(" + nb::cast<std::string>(nb::str(nb::float_(d.p))) +
               ", seed=" + std::to_string(d.seed) + ", offset=" + std::to_string(d.offset) + ")";
      });
}

}  // namespace attn::python

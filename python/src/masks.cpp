// attn.Mask.
#include <nanobind/operators.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cstring>
#include <stdexcept>

#include "attn/mask.h"
#include "bindings.h"

namespace attn::python {

using namespace nb::literals;

namespace {

Geometry geometry(std::int64_t q_len, std::int64_t k_len, std::int64_t batch, std::int64_t heads,
                  std::int64_t query_start, nb::handle q_positions, nb::handle k_positions) {
  return {.batch = batch,
          .heads = heads,
          .q_len = q_len,
          .k_len = k_len,
          .query_start = query_start,
          .q_positions = import_integers(q_positions, "[mask] q_positions"),
          .k_positions = import_integers(k_positions, "[mask] k_positions")};
}

// f(mask), without the GIL, so that a predicate on a worker thread can take it.
template <class F>
auto evaluate(const PyMask& m, F f) {
  auto result = [&] {
    nb::gil_scoped_release release;
    return f(m.mask);
  }();
  m.check();
  return result;
}

// The matrix of a mask, row by row.
std::vector<std::uint8_t> matrix(const Mask& mask, const Geometry& g) {
  if (g.q_len < 0 || g.k_len < 0 || g.batch < 0 || g.heads < 0) {
    throw std::invalid_argument("[mask] a length, batch or heads is negative");
  }
  const auto width = static_cast<std::size_t>(g.k_len);
  std::vector<std::uint8_t> cells(static_cast<std::size_t>(g.batch * g.heads * g.q_len) * width);
  std::uint8_t* row = cells.data();
  for (std::int64_t b = 0; b < g.batch; ++b) {
    for (std::int64_t h = 0; h < g.heads; ++h) {
      for (std::int64_t q = 0; q < g.q_len; ++q, row += width) {
        for (const Interval& i : mask.row(g, b, h, q)) {
          for (std::int64_t k = i.begin; k < i.end; k += i.step) row[k] = 1;
        }
      }
    }
  }
  return cells;
}

using Bools = nb::ndarray<nb::numpy, bool, nb::ndim<4>>;

template <class T>
T as_python(const Geometry&, T value) {
  return value;
}
Bools as_python(const Geometry& g, std::vector<std::uint8_t> cells) {
  auto* kept = new std::vector<std::uint8_t>(std::move(cells));
  const nb::capsule owner(
      kept, [](void* p) noexcept { delete static_cast<std::vector<std::uint8_t>*>(p); });
  return Bools(kept->data(),
               {static_cast<std::size_t>(g.batch), static_cast<std::size_t>(g.heads),
                static_cast<std::size_t>(g.q_len), static_cast<std::size_t>(g.k_len)},
               owner);
}

PyMask joined(Mask mask, std::initializer_list<const PyMask*> parts) {
  PyMask joint{std::move(mask)};
  for (const PyMask* part : parts) {
    joint.predicates.insert(joint.predicates.end(), part->predicates.begin(),
                            part->predicates.end());
  }
  return joint;
}

// Bytes, nonzero = visible, of an array of bools or integers.
struct Visible {
  AnyArray array;                       // kept alive
  std::vector<std::uint8_t> copy = {};  // of wider integers
  const std::uint8_t* data = nullptr;
  std::int64_t shape[4] = {}, strides[4] = {};
};

Visible import_visible(nb::handle object) {
  Visible in{.array = import_array(object, "[mask] visible", 4)};
  const AnyArray& array = in.array;
  const auto code = static_cast<nb::dlpack::dtype_code>(array.dtype().code);
  if (code != nb::dlpack::dtype_code::Bool && code != nb::dlpack::dtype_code::Int &&
      code != nb::dlpack::dtype_code::UInt) {
    throw std::invalid_argument(
        "[mask] visible must be bool or integers, nonzero where a query may see a key; an additive "
        "float mask is a Score(bias=...)");
  }
  const std::size_t missing = 4 - array.ndim();
  for (std::size_t i = 0; i < 4; ++i) {
    in.shape[i] = i < missing ? 1 : static_cast<std::int64_t>(array.shape(i - missing));
    in.strides[i] = i < missing ? 0 : array.stride(i - missing);
  }
  const auto bytes = static_cast<std::int64_t>(array.itemsize());
  in.data = static_cast<const std::uint8_t*>(static_cast<const void*>(array.data()));
  if (bytes == 1) return in;

  // Wider integers: nonzero in any byte.
  const auto& shape = in.shape;
  const auto& strides = in.strides;
  for (std::int64_t b = 0; b < shape[0]; ++b) {
    for (std::int64_t h = 0; h < shape[1]; ++h) {
      for (std::int64_t q = 0; q < shape[2]; ++q) {
        for (std::int64_t k = 0; k < shape[3]; ++k) {
          const auto* at =
              in.data + bytes * (b * strides[0] + h * strides[1] + q * strides[2] + k * strides[3]);
          std::uint64_t value = 0;
          std::memcpy(&value, at, static_cast<std::size_t>(bytes));
          in.copy.push_back(value != 0);
        }
      }
    }
  }
  in.data = in.copy.data();
  std::int64_t step = 1;
  for (int i = 3; i >= 0; step *= in.shape[i--]) in.strides[i] = step;
  return in;
}

std::tuple<PyMask, std::int64_t> recognized(nb::handle object) {
  const Visible in = import_visible(object);
  RecognizedMask found = [&] {
    nb::gil_scoped_release release;
    return recognize(in.data, in.shape, in.strides);
  }();
  return {PyMask{std::move(found.mask)}, found.query_start};
}

PyMask predicate(nb::callable function) {
  auto state = std::make_shared<Predicate>(std::move(function));
  Mask mask = Mask::predicate([state](std::int64_t batch, std::int64_t head, std::int64_t q,
                                      std::span<std::uint8_t> visible) {
    nb::gil_scoped_acquire acquire;
    try {
      const nb::object numpy = nb::module_::import_("numpy");
      const nb::object keys = numpy.attr("arange")(visible.size());
      const nb::object answer = numpy.attr("asarray")(state->function(batch, head, q, keys));
      const nb::object flags = numpy.attr("ascontiguousarray")(
          numpy.attr("broadcast_to")(answer, visible.size()).attr("astype")("bool"));
      const AnyArray row = import_array(flags, "[mask] the predicate's answer", 1);
      std::memcpy(visible.data(), row.data(), visible.size());
    } catch (...) {
      const std::lock_guard lock(state->mutex);
      if (!state->error) state->error = std::current_exception();
    }
  });
  return {std::move(mask), {std::move(state)}};
}

// A predicate may refer to the mask that holds it, as a function in a module does through its
// globals: Python's collector must see that. It counts references, and a predicate has one whoever
// shares it, so it is shown only where nobody does: held by this mask and by the closure inside.
bool held_alone(const std::shared_ptr<Predicate>& predicate) { return predicate.use_count() == 2; }

int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  if (!nb::inst_ready(self)) return 0;
  for (const auto& predicate : nb::inst_ptr<PyMask>(self)->predicates) {
    if (held_alone(predicate)) Py_VISIT(predicate->function.ptr());
  }
  return 0;
}

int clear(PyObject* self) {
  for (const auto& predicate : nb::inst_ptr<PyMask>(self)->predicates) {
    if (held_alone(predicate)) nb::object(std::move(predicate->function)).reset();
  }
  return 0;
}

PyType_Slot mask_slots[] = {{Py_tp_traverse, reinterpret_cast<void*>(&traverse)},
                            {Py_tp_clear, reinterpret_cast<void*>(&clear)},
                            {0, nullptr}};

PyMask listed(const std::vector<PyMask>& masks, Mask (*join)(std::vector<Mask>)) {
  PyMask joint;
  std::vector<Mask> plain;
  for (const PyMask& m : masks) {
    plain.push_back(m.mask);
    joint.predicates.insert(joint.predicates.end(), m.predicates.begin(), m.predicates.end());
  }
  joint.mask = join(std::move(plain));
  return joint;
}

PaddingSide side_from_name(const std::string& side) {
  if (side == "right") return PaddingSide::right;
  if (side == "left") return PaddingSide::left;
  throw std::invalid_argument("[mask] side is '" + side + "', must be right or left");
}

// A method that asks the whole geometry: f(mask, geometry), a plain value.
template <class F>
void question(nb::class_<PyMask>& mask, const char* name, const char* doc, F f) {
  mask.def(
      name,
      [f](const PyMask& a, std::int64_t q_len, std::int64_t k_len, std::int64_t batch,
          std::int64_t heads, std::int64_t query_start, nb::handle q_positions,
          nb::handle k_positions) {
        const Geometry g =
            geometry(q_len, k_len, batch, heads, query_start, q_positions, k_positions);
        return as_python(g, evaluate(a, [&](const Mask& x) { return f(x, g); }));
      },
      "q_len"_a, "k_len"_a, nb::kw_only(), "batch"_a = 1, "heads"_a = 1, "query_start"_a = 0,
      "q_positions"_a = nb::none(), "k_positions"_a = nb::none(), doc);
}

using Picture = std::string (Mask::*)(const Geometry&, std::int64_t, std::int64_t,
                                      std::int64_t) const;

void picture(nb::class_<PyMask>& mask, const char* name, const char* doc, std::int64_t side,
             Picture draw) {
  mask.def(
      name,
      [draw](const PyMask& a, std::int64_t q_len, std::int64_t k_len, std::int64_t cells,
             std::int64_t batch, std::int64_t heads, std::int64_t query_start,
             nb::handle q_positions, nb::handle k_positions, std::int64_t batch_index,
             std::int64_t head_index) {
        const Geometry g =
            geometry(q_len, k_len, batch, heads, query_start, q_positions, k_positions);
        return evaluate(
            a, [&](const Mask& x) { return (x.*draw)(g, cells, batch_index, head_index); });
      },
      "q_len"_a, "k_len"_a, nb::kw_only(), "cells"_a = side, "batch"_a = 1, "heads"_a = 1,
      "query_start"_a = 0, "q_positions"_a = nb::none(), "k_positions"_a = nb::none(),
      "batch_index"_a = 0, "head_index"_a = 0, doc);
}

}  // namespace

PyMask dense_mask(nb::handle visible) {
  const Visible in = import_visible(visible);
  return {Mask::dense(in.data, in.shape, in.strides)};
}

Predicate::~Predicate() {
  nb::gil_scoped_acquire acquire;
  function = nb::object();
  error = nullptr;
}

void PyMask::check() const {
  for (const auto& predicate : predicates) {
    std::exception_ptr error;
    {
      const std::lock_guard lock(predicate->mutex);
      std::swap(error, predicate->error);
    }
    if (error) std::rethrow_exception(error);
  }
}

void bind_masks(nb::module_& m) {
  nb::class_<PyMask> mask(m, "Mask", nb::type_slots(mask_slots), R"(Which keys a query may see.

An immutable value that knows no lengths. Combine with & and |. Queries stand at query_start + i and
keys at j unless positions are given. The default is full(). Pickled as text, which dense and
predicate masks do not have.)");
  mask.def(nb::init<>())
      .def_static(
          "full", [] { return PyMask{Mask::full()}; }, "Everything.")
      .def_static(
          "causal", [] { return PyMask{Mask::causal()}; }, "k_pos <= q_pos.")
      .def_static(
          "window",
          [](std::int64_t left, std::int64_t right) { return PyMask{Mask::window(left, right)}; },
          "left"_a, "right"_a,
          "q_pos - left <= k_pos <= q_pos + right; a negative side is unlimited.")
      .def_static(
          "dilated_window",
          [](std::int64_t left, std::int64_t right, std::int64_t step) {
            return PyMask{Mask::dilated_window(left, right, step)};
          },
          "left"_a, "right"_a, "step"_a,
          "Offsets -left*step, ..., -step, 0, step, ..., right*step.")
      .def_static(
          "global_tokens",
          [](nb::handle positions) {
            return PyMask{Mask::global_tokens(import_integers(positions, "[mask] positions"))};
          },
          "positions"_a, "Pairs whose query or key stands at one of these positions.")
      .def_static(
          "blocks",
          [](std::int64_t size, std::vector<std::pair<std::int64_t, std::int64_t>> visible) {
            return PyMask{Mask::blocks(size, std::move(visible))};
          },
          "size"_a, "visible_blocks"_a, "The listed (query block, key block) squares.")
      .def_static(
          "block_window",
          [](std::int64_t size, std::int64_t left, std::int64_t right) {
            return PyMask{Mask::block_window(size, left, right)};
          },
          "size"_a, "left"_a, "right"_a,
          "Keys from left blocks of size positions before the query's own to right blocks after "
          "it; a negative side is unlimited.")
      .def_static(
          "global_blocks",
          [](std::int64_t size, std::int64_t first, std::int64_t last) {
            return PyMask{Mask::global_blocks(size, first, last)};
          },
          "size"_a, "first"_a, "last"_a,
          "Pairs whose query or key stands in one of the first or last blocks of size positions.")
      .def_static(
          "random_blocks",
          [](std::int64_t size, std::int64_t count, std::uint64_t seed, std::int64_t band,
             std::int64_t first, std::int64_t last) {
            return PyMask{Mask::random_blocks({size, count, seed, band, first, last})};
          },
          "size"_a = 64, "count"_a = 3, "seed"_a = 0, nb::kw_only(), "band"_a = 1, "first"_a = 1,
          "last"_a = 1,
          "Each row of blocks sees count key blocks drawn at random, each head its own; never one "
          "within band of it, nor one of the first or last blocks, whose rows draw none.")
      .def_static(
          "longformer",
          [](std::int64_t w, nb::handle global_positions, std::int64_t dilation) {
            return PyMask{Mask::longformer(
                w, import_integers(global_positions, "[mask] global_positions"), dilation)};
          },
          "w"_a, "global_positions"_a = nb::list(), "dilation"_a = 1,
          "w keys on each side, dilation apart, and global tokens (arXiv 2004.05150). Hugging "
          "Face's attention_window is 2 w.")
      .def_static(
          "bigbird",
          [](std::int64_t size, std::int64_t random, std::uint64_t seed) {
            return PyMask{Mask::bigbird(size, random, seed)};
          },
          "size"_a = 64, "random"_a = 3, "seed"_a = 0,
          "Internal BigBird (arXiv 2007.14062): first and last block global, neighbours, random "
          "blocks.")
      .def_static(
          "bigbird_extended",
          [](std::int64_t global_tokens, std::int64_t size, std::int64_t random,
             std::uint64_t seed) {
            return PyMask{Mask::bigbird_extended(global_tokens, size, random, seed)};
          },
          "global_tokens"_a, "size"_a = 64, "random"_a = 3, "seed"_a = 0,
          "Extended BigBird: the first global_tokens positions are global in place of whole "
          "blocks.")
      .def_static(
          "documents",
          [](nb::handle lengths) {
            return PyMask{Mask::documents(import_integers(lengths, "[mask] lengths"))};
          },
          "lengths"_a, "Packed documents: a query sees its own document only.")
      .def_static(
          "prefix", [](std::int64_t n) { return PyMask{Mask::prefix(n)}; }, "n"_a,
          "Keys at positions below n, from everywhere.")
      .def_static(
          "padding",
          [](nb::handle lengths, const std::string& side) {
            return PyMask{
                Mask::padding(import_integers(lengths, "[mask] lengths"), side_from_name(side))};
          },
          "lengths"_a, "side"_a = "right",
          "Sequence b has lengths[b] real keys; the padded ones, right or left, are hidden.")
      .def_static("dense", &dense_mask, "visible"_a,
                  "True or nonzero = may see; any shape that broadcasts to [B, H, Lq, Lk]. Copied.")
      .def_static("recognize", &recognized, "visible"_a,
                  "(mask, query_start) of bytes as in dense(): causal, window, padding or those "
                  "together when they show just that, at this query_start; else dense.")
      .def_static("predicate", &predicate, "function"_a,
                  "function(batch, head, q, k) -> bools, where k is the array of all key indices. "
                  "Called once a row; must be pure.")
      .def_static(
          "per_head",
          [](const std::vector<PyMask>& masks) { return listed(masks, &Mask::per_head); },
          "masks"_a, "One mask a query head.")
      .def_static(
          "per_batch",
          [](const std::vector<PyMask>& masks) { return listed(masks, &Mask::per_batch); },
          "masks"_a, "One mask a batch entry.")
      .def_static(
          "parse", [](const std::string& text) { return PyMask{Mask::parse(text)}; }, "text"_a,
          "The inverse of str(): \"causal & window(255, 0)\".")
      .def(
          "__and__",
          [](const PyMask& a, const PyMask& b) {
            return joined(a.mask & b.mask, {&a, &b});
          },
          nb::is_operator())
      .def(
          "__or__",
          [](const PyMask& a, const PyMask& b) {
            return joined(a.mask | b.mask, {&a, &b});
          },
          nb::is_operator())
      .def("__str__", [](const PyMask& a) { return a.mask.to_string(); })
      .def("__repr__", [](const PyMask& a) { return "Mask(" + a.mask.to_string() + ")"; })
      .def("__copy__", [](nb::handle self) { return nb::borrow(self); })
      .def("__deepcopy__", [](nb::handle self, nb::handle) { return nb::borrow(self); })
      .def("__getstate__",
           [](const PyMask& a) {
             const std::string text = a.mask.to_string();
             try {
               Mask::parse(text);
             } catch (const std::invalid_argument&) {
               throw nb::type_error(("[mask] " + text +
                                     " cannot be pickled: dense and predicate masks have no text, "
                                     "make them where they are used")
                                        .c_str());
             }
             return text;
           })
      .def("__setstate__",
           [](PyMask& a, const std::string& text) { new (&a) PyMask{Mask::parse(text)}; })
      .def("_repr_svg_", [](const PyMask& a) -> nb::object {
        // Per-head and per-batch masks fit no single picture; str() is shown instead.
        try {
          return nb::cast(evaluate(
              a, [](const Mask& x) { return x.svg({.q_len = 32, .k_len = 32}, 32, 0, 0); }));
        } catch (const std::invalid_argument&) {
          return nb::none();
        }
      });

  question(mask, "pairs", "Visible pairs, summed over batch and heads.",
           [](const Mask& x, const Geometry& g) { return x.pairs(g); });
  question(mask, "sees_future", "Does any query see a key at a later position?",
           [](const Mask& x, const Geometry& g) { return x.sees_future(g); });
  question(mask, "visible",
           "The whole matrix of bools, [batch, heads, q_len, k_len]: for looking at small cases.",
           &matrix);
  mask.def(
      "empty_rows",
      [](const PyMask& a, std::int64_t q_len, std::int64_t k_len, std::int64_t batch,
         std::int64_t heads, std::int64_t query_start, nb::handle q_positions,
         nb::handle k_positions, std::int64_t batch_index, std::int64_t head_index) {
        const Geometry g =
            geometry(q_len, k_len, batch, heads, query_start, q_positions, k_positions);
        return evaluate(a, [&](const Mask& x) { return x.empty_rows(g, batch_index, head_index); });
      },
      "q_len"_a, "k_len"_a, nb::kw_only(), "batch"_a = 1, "heads"_a = 1, "query_start"_a = 0,
      "q_positions"_a = nb::none(), "k_positions"_a = nb::none(), "batch_index"_a = 0,
      "head_index"_a = 0, "Indices of the queries that see no key.");
  picture(mask, "ascii", "A picture in characters; rows are queries.", 32, &Mask::ascii);
  picture(mask, "svg", "A picture as SVG; rows are queries.", 64, &Mask::svg);
}

}  // namespace attn::python

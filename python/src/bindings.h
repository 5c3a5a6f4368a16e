// The classes that several bindings pass around, and one function a file that registers its words.
#pragma once

#include <nanobind/nanobind.h>

#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "arrays.h"
#include "attn/attention.h"

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

// A context of the calling thread, kept between calls with its workspace.
const Context& context(int threads, const std::string& isa);

// The keyword arguments that attention, plan and the oracle share. `bias` keeps the score's bias
// alive as long as the options are used.
struct CallOptions {
  AttentionOptions options;
  PyMask mask;
  std::optional<Input> bias;
};
CallOptions call_options(const char* function, const PyMask* mask, const PyScore* score,
                         std::optional<double> scale, std::int64_t query_start,
                         nb::handle q_positions, nb::handle k_positions);

void bind_masks(nb::module_& m);
void bind_scores(nb::module_& m);
void bind_attention(nb::module_& m);
void bind_positions(nb::module_& m);
void bind_models(nb::module_& m);

}  // namespace attn::python

// Rows of attn/implied.h for the bindings of the recurrences.
#pragma once

#include <string>

#include "attn/implied.h"
#include "bindings.h"

namespace attn::python {

// Weights of chosen queries (None: of all), [heads, queries, tokens] float64 of `kind`.
nb::any implied_rows(Kind kind, const ImpliedAttention& implied, nb::handle queries,
                     const Context& where);

}  // namespace attn::python

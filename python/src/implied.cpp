#include "implied.h"

#include <numeric>

namespace attn::python {

nb::any implied_rows(Kind kind, const ImpliedAttention& implied, nb::handle queries,
                     const Context& where) {
  std::vector<std::int64_t> chosen(static_cast<std::size_t>(implied.tokens()));
  std::iota(chosen.begin(), chosen.end(), 0);
  if (!queries.is_none()) chosen = import_integers(queries, "[implied] queries");
  const std::int64_t heads = implied.heads(), tokens = implied.tokens();
  const Output out =
      new_output(kind, DType::f64, {heads, static_cast<std::int64_t>(chosen.size()), tokens});
  auto* row = static_cast<double*>(out.view.data);
  {
    nb::gil_scoped_release release;
    for (std::int64_t h = 0; h < heads; ++h) {
      for (const std::int64_t q : chosen) {
        implied.row(h, q, row, where);
        row += tokens;
      }
    }
  }
  return nb::borrow<nb::any>(out.object());
}

}  // namespace attn::python

#include "model/layer_observed.h"

#include <stdexcept>
#include <string>

namespace attn {

namespace {

void refuse(const std::string& what, std::int64_t has, std::int64_t layers) {
  throw std::invalid_argument("[observe] " + what + " has " + std::to_string(has) +
                              " entries for " + std::to_string(layers) + " layers");
}

}  // namespace

Observed observed_of_layer(const Observed& all, std::int64_t layer, std::int64_t layers) {
  Observed one = all;
  const auto pick = [&](const char* what, Tensor& t) {
    if (t.empty()) return;
    if (t.batch() != layers) refuse(what, t.batch(), layers);
    t.data = static_cast<char*>(t.data) +
             layer * t.strides[0] * static_cast<std::int64_t>(size_of(t.dtype));
    t.shape[0] = 1;
  };
  pick("lse", one.lse);
  pick("max_logit", one.max_logit);
  pick("entropy", one.entropy);
  pick("relative_entropy", one.relative_entropy);
  pick("max_probability", one.max_probability);
  pick("mean_variance", one.mean_variance);
  pick("column_mass", one.column_mass);
  pick("top.weights", one.top.weights);
  pick("distances.mass", one.distances.mass);
  pick("offsets.mass", one.offsets.mass);
  pick("offsets.queries", one.offsets.queries);
  pick("key_sets.mass", one.key_sets.mass);
  pick("picture.largest", one.picture.largest);
  pick("picture.mean", one.picture.mean);
  pick("rows.probabilities", one.rows.probabilities);
  pick("value_weighted", one.value_weighted);
  const auto keys = static_cast<std::int64_t>(all.top.keys.size());
  if (keys % layers != 0) refuse("top.keys", keys, layers);
  const auto each = static_cast<std::size_t>(keys / layers);
  one.top.keys = all.top.keys.subspan(static_cast<std::size_t>(layer) * each, each);
  return one;
}

}  // namespace attn

#include "model/window.h"

#include <stdexcept>
#include <string>

namespace attn {

void require_window(const TransformerConfig& model, const char* who, std::int64_t window,
                    std::int64_t sinks, std::int64_t together) {
  const auto text = [](std::int64_t n) { return std::to_string(n); };
  const auto fail = [&](const std::string& what) {
    throw std::invalid_argument(std::string(who) + " " + what);
  };
  if (!model.rope && !model.alibi) {
    fail("the model learned its " + text(model.positions) +
         " positions one by one: a window cannot go past them");
  }
  if (model.latent) {
    fail(
        "keys of latent attention turn in part, and do not with their place in the cache: there is "
        "no window");
  }
  if (sinks < 0) fail("sinks is " + text(sinks) + ", must be 0 or more");
  if (window > model.positions) {
    fail("a window of " + text(window) + " tokens is more than the model's " +
         text(model.positions) + " positions");
  }
  if (together > window || sinks > window - together) {
    fail("a window of " + text(window) + " tokens has no room for " + text(sinks) + " sinks and " +
         text(together) + (together == 1 ? " token" : " tokens") + " that run at a time");
  }
}

}  // namespace attn

#include "shape.h"

#include <charconv>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace attn::cli {

AttentionShape parse_shape(const std::string& command, const std::string& text) {
  std::vector<std::int64_t> n;
  const char* at = text.data();
  const char* const end = at + text.size();
  bool good = !text.empty();
  while (good && at != end) {
    std::int64_t value = 0;
    const auto [next, error] = std::from_chars(at, end, value);
    good = error == std::errc() && value > 0 && (next == end || *next == ',' || *next == 'x');
    n.push_back(value);
    at = next;
    if (good && at != end && ++at == end) good = false;  // ends with a comma
  }
  if (!good || n.size() < 6 || n.size() > 7) {
    throw std::invalid_argument(command + ": --shape is '" + text +
                                "', must be six positive numbers B,Hq,Hkv,Lq,Lk,D (and Dv, if "
                                "values are of another width); see attn " +
                                command + " --help");
  }
  return {.batch = n[0],
          .q_heads = n[1],
          .kv_heads = n[2],
          .q_len = n[3],
          .k_len = n[4],
          .width = n[5],
          .v_width = n.back(),  // without a seventh number the width
          .dtype = DType::f32};
}

}  // namespace attn::cli

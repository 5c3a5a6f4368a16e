#include "mask/fit.h"

#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "mask/node.h"

namespace attn {
namespace {

[[noreturn]] void fail(const std::string& what) { throw std::invalid_argument("[mask] " + what); }

}  // namespace

const Geometry& checked(const Geometry& geometry) {
  const auto extent = [](const char* name, std::int64_t value) {
    if (value < 0) fail("geometry has " + std::string(name) + " " + std::to_string(value));
  };
  extent("batch", geometry.batch);
  extent("heads", geometry.heads);
  extent("q_len", geometry.q_len);
  extent("k_len", geometry.k_len);
  const auto positions = [](const std::string& name, const std::vector<std::int64_t>& list,
                            std::int64_t length) {
    if (!list.empty() && static_cast<std::int64_t>(list.size()) != length) {
      fail("geometry has " + std::to_string(list.size()) + " " + name + "_positions for " + name +
           "_len " + std::to_string(length));
    }
  };
  positions("q", geometry.q_positions, geometry.q_len);
  positions("k", geometry.k_positions, geometry.k_len);
  if (geometry.q_positions.empty() &&
      geometry.query_start > std::numeric_limits<std::int64_t>::max() - geometry.q_len) {
    fail("query_start " + std::to_string(geometry.query_start) + " with q_len " +
         std::to_string(geometry.q_len) + " passes the largest position");
  }
  return geometry;
}

void check_fits(const Mask& mask, const Geometry& geometry, const Keys& keys) {
  const auto parts = [&](const std::vector<Mask>& masks) {
    for (const Mask& part : masks) check_fits(part, geometry, keys);
  };
  const auto list = [&](const std::vector<Mask>& masks, const char* name, const char* axis,
                        std::int64_t extent) {
    if (static_cast<std::int64_t>(masks.size()) != extent) {
      fail(std::string(name) + " has " + std::to_string(masks.size()) + " masks for " + axis + " " +
           std::to_string(extent));
    }
    parts(masks);
  };
  const auto increasing = [&](const char* name) {
    if (keys.increasing()) return;
    const std::int64_t j = keys.disorder();
    fail(std::string(name) + " needs increasing key positions, but key " + std::to_string(j) +
         " at " + std::to_string(keys.position(j)) + " follows " +
         std::to_string(keys.position(j - 1)) + "; write it as a predicate");
  };
  std::visit(
      [&](const auto& node) {
        using T = std::decay_t<decltype(node)>;
        if constexpr (std::is_same_v<T, Mask::Node::Causal>) {
          increasing("causal");
        } else if constexpr (std::is_same_v<T, Mask::Node::Window>) {
          increasing("window");
        } else if constexpr (std::is_same_v<T, Mask::Node::DilatedWindow>) {
          increasing("dilated_window");
        } else if constexpr (std::is_same_v<T, Mask::Node::Padding>) {
          const auto count = static_cast<std::int64_t>(node.lengths.size());
          if (count != 1 && count != geometry.batch) {
            fail("padding has " + std::to_string(count) + " lengths for batch " +
                 std::to_string(geometry.batch));
          }
          for (const std::int64_t length : node.lengths) {
            if (length > geometry.k_len) {
              fail("padding length " + std::to_string(length) + " is above k_len " +
                   std::to_string(geometry.k_len));
            }
          }
        } else if constexpr (std::is_same_v<T, Mask::Node::Dense>) {
          const std::int64_t extents[4] = {geometry.batch, geometry.heads, geometry.q_len,
                                           geometry.k_len};
          for (std::size_t axis = 0; axis < 4; ++axis) {
            if (node.shape[axis] != 1 && node.shape[axis] != extents[axis]) {
              fail("dense has " + std::to_string(node.shape[axis]) + " on axis " +
                   std::to_string(axis) + " where the geometry has " +
                   std::to_string(extents[axis]));
            }
          }
        } else if constexpr (std::is_same_v<T, Mask::Node::PerHead>) {
          list(node.masks, "per_head", "heads", geometry.heads);
        } else if constexpr (std::is_same_v<T, Mask::Node::PerBatch>) {
          list(node.masks, "per_batch", "batch", geometry.batch);
        } else if constexpr (std::is_same_v<T, Mask::Node::All> ||
                             std::is_same_v<T, Mask::Node::Any>) {
          parts(node.masks);
        }
      },
      mask.node().data);
}

}  // namespace attn

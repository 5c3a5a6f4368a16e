// Golden files of models: their configuration, weights and what Transformers made of them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "made_weights.h"
#include "model/file.h"
#include "model/json.h"

namespace attn {

inline Json read_golden(const std::string& name) {
  const std::string path = std::string(ATTN_TEST_DATA) + "/" + name;
  return Json::parse(read_file(path), path);
}

inline TensorShapes shapes_of(const Json& tensors) {
  TensorShapes shapes;
  for (std::size_t t = 0; t < tensors.names.size(); ++t) {
    std::vector<std::int64_t>& shape = shapes[tensors.names[t]];
    for (const Json& n : tensors.items[t].items) shape.push_back(n.integer);
  }
  return shapes;
}

// JSON as text again; the cases hold no string that needs an escape.
inline std::string written(const Json& json) {
  switch (json.kind) {
    case Json::Kind::null: return "null";
    case Json::Kind::boolean: return json.boolean ? "true" : "false";
    case Json::Kind::integer: return std::to_string(json.integer);
    case Json::Kind::real: {
      char text[32];
      std::snprintf(text, sizeof text, "%.17g", json.real);
      return text;
    }
    case Json::Kind::text: return "\"" + json.text + "\"";
    default: break;
  }
  const bool object = json.is(Json::Kind::object);
  std::string out(1, object ? '{' : '[');
  for (std::size_t i = 0; i < json.items.size(); ++i) {
    if (i > 0) out += ",";
    if (object) out += "\"" + json.names[i] + "\":";
    out += written(json.items[i]);
  }
  return out + (object ? "}" : "]");
}

inline std::vector<std::int32_t> ids_of(const Json& list) {
  std::vector<std::int32_t> ids;
  for (const Json& id : list.items) ids.push_back(static_cast<std::int32_t>(id.integer));
  return ids;
}

// Within 1e-4 of the largest of the expected numbers.
inline void expect_close(const float* got, const Json& expected, const std::string& what) {
  double largest = 0;
  for (const Json& x : expected.items) largest = std::max(largest, std::abs(x.real));
  for (std::size_t i = 0; i < expected.items.size(); ++i)
    ASSERT_NEAR(got[i], expected.items[i].real, 1e-4 * largest) << what << " " << i;
}

}  // namespace attn

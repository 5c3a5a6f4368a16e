// Golden files of models: their configuration, weights and what Transformers made of them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "folder.h"
#include "made_weights.h"
#include "model/families.h"
#include "model/file.h"
#include "model/json.h"
#include "model/transformer.h"
#include "model/weights.h"

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

// `got` [tokens, width]: the file has of it the rows that the run names, under `name`. `how` is
// said when one is wrong.
inline void expect_rows(const Json& run, const std::string& name, std::span<const float> got,
                        std::size_t tokens, const std::string& how = "") {
  const std::vector<Json>&rows = run.find("rows")->items, &expected = run.find(name)->items;
  ASSERT_FALSE(rows.empty());
  ASSERT_EQ(rows.size(), expected.size());
  const std::size_t width = expected[0].items.size();
  ASSERT_EQ(got.size(), tokens * width) << name;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto row = static_cast<std::size_t>(rows[i].integer);
    ASSERT_LT(row, tokens);
    expect_close(
        got.data() + row * width, expected[i],
        name + ", " + std::to_string(tokens) + " tokens" + how + ", row " + std::to_string(row));
  }
}

// The case's `greedy` goes on from its second run. `next(ids)` reads some more tokens and returns
// the logits after the last one.
inline void expect_greedy(
    const Json& given,
    const std::function<std::vector<float>(const std::vector<std::int32_t>&)>& next) {
  std::vector<std::int32_t> ids = ids_of(*given.find("runs")->items[1].find("ids")), got;
  const std::vector<std::int32_t> expected = ids_of(*given.find("greedy"));
  while (got.size() < expected.size()) {
    const std::vector<float> logits = next(ids);
    got.push_back(
        static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    ids = {got.back()};
  }
  EXPECT_EQ(got, expected);
}

inline void expect_greedy(const Json& given, const Transformer& model) {
  const Context context({.threads = 1});
  KvCache cache(model.cache_options(64), context);
  const SequenceId id = cache.create();
  expect_greedy(given, [&](const std::vector<std::int32_t>& ids) {
    const auto hidden = model.hidden(ids, cache, id, context);
    return model.logits(std::span(hidden).last(static_cast<std::size_t>(model.config().width)),
                        context);
  });
}

// A case's configuration, and the same with the first `from` replaced.
inline std::string config_of(const Json& given) { return written(*given.find("config")); }
inline std::string changed_config(const Json& given, const std::string& from,
                                  const std::string& to) {
  std::string config = config_of(given);
  const std::size_t at = config.find(from);
  if (at == std::string::npos) throw std::logic_error(from + " is not in " + config);
  return config.replace(at, from.size(), to);
}

// A file with a case's weights.
struct GoldenWeights {
  explicit GoldenWeights(const Json& given)
      : weights(
            folder.write("model.safetensors", made_weights(shapes_of(*given.find("tensors"))))) {}

  TestFolder folder;
  Weights weights;
};

// A case's transformer, which points into the file.
struct GoldenTransformer : GoldenWeights {
  explicit GoldenTransformer(const Json& given)
      : GoldenWeights(given), model(load(config_of(given), weights)) {}

  Transformer model;

 private:
  static Transformer load(const std::string& config, Weights& weights) {
    DescribedModel described = load_described(config, "config.json", weights);
    return Transformer(described.config, std::move(described.weights));
  }
};

}  // namespace attn

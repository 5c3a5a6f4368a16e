#include "model/pooling.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string_view>

#include "attn/error.h"
#include "model/fields.h"
#include "model/file.h"
#include "model/json.h"

namespace attn {
namespace {

// 1_Pooling/config.json: exactly one of the modes that we know.
Pooling parse_pooling(std::string_view json, const std::string& source) {
  const Json tree = Json::parse(json, source);
  const Fields fields(tree, source);
  std::optional<Pooling> found;
  static const std::string kPrefix = "pooling_mode_";
  for (std::size_t i = 0; i < tree.names.size(); ++i) {
    const std::string& name = tree.names[i];
    const Json& value = tree.items[i];
    if (name.compare(0, kPrefix.size(), kPrefix) != 0) continue;
    if (!value.is(Json::Kind::boolean) || !value.boolean) continue;
    if (found) fields.fail(name, "is true beside another mode; joined vectors are not known");
    if (name == "pooling_mode_mean_tokens") {
      found = Pooling::mean;
    } else if (name == "pooling_mode_cls_token") {
      found = Pooling::cls;
    } else if (name == "pooling_mode_max_tokens") {
      found = Pooling::max;
    } else {
      fields.fail(name, "is true, which is not known (mean, cls and max are)");
    }
  }
  // Later versions name the mode instead.
  if (const auto mode = fields.text("pooling_mode"); mode && !found) {
    if (*mode == "mean") found = Pooling::mean;
    if (*mode == "cls") found = Pooling::cls;
    if (*mode == "max") found = Pooling::max;
    if (!found) fields.fail("pooling_mode", "\"" + *mode + "\" is not known (mean, cls, max)");
  }
  if (!found) throw Error(source + ": no pooling mode is set");
  return *found;
}

}  // namespace

// modules.json: a transformer, then perhaps pooling, then perhaps normalisation.
PoolingConfig read_pooling(const std::string& folder) {
  PoolingConfig config;
  const std::string source = folder + "/modules.json";
  const auto json = read_file_if_present(source);
  if (!json) return config;
  const Json tree = Json::parse(*json, source);
  if (!tree.is(Json::Kind::array)) {
    throw Error(source + ": holds " + tree.kind_name() + ", must be an array");
  }
  for (const Json& item : tree.items) {
    const Fields module(item, source);
    const std::string type = module.needed_text("type");
    const std::string kind = type.substr(type.rfind('.') + 1);
    if (kind == "Transformer") {
      const std::string path = module.text("path").value_or("");
      if (!path.empty())
        module.fail("path", "of the transformer is \"" + path + "\", must be \"\"");
    } else if (kind == "Pooling") {
      const std::string path = module.needed_text("path");
      if (path.empty() || path.front() == '/' || path.find("..") != std::string::npos) {
        module.fail("path", "\"" + path + "\" leaves the folder");
      }
      const std::string file = folder + "/" + path + "/config.json";
      config.pooling = parse_pooling(read_file(file), file);
    } else if (kind == "Normalize") {
      config.normalize = true;
    } else {
      module.fail("type", "\"" + type + "\" is not known (Transformer, Pooling, Normalize)");
    }
  }
  return config;
}

std::vector<float> pool(const float* hidden, std::int64_t tokens, std::int64_t width,
                        const PoolingConfig& config) {
  std::vector<float> out(hidden, hidden + width);  // the first token, [CLS]
  if (config.pooling == Pooling::max) {
    for (std::int64_t t = 1; t < tokens; ++t) {
      for (std::int64_t j = 0; j < width; ++j) {
        float& largest = out[static_cast<std::size_t>(j)];
        largest = std::max(largest, hidden[t * width + j]);
      }
    }
  } else if (config.pooling == Pooling::mean) {
    for (std::int64_t j = 0; j < width; ++j) {
      double sum = 0;
      for (std::int64_t t = 0; t < tokens; ++t) sum += hidden[t * width + j];
      out[static_cast<std::size_t>(j)] = static_cast<float>(sum / static_cast<double>(tokens));
    }
  }
  if (config.normalize) {
    double square = 0;
    for (const float x : out) square += static_cast<double>(x) * x;
    const double length = std::max(std::sqrt(square), 1e-12);
    for (float& x : out) x = static_cast<float>(x / length);
  }
  return out;
}

}  // namespace attn

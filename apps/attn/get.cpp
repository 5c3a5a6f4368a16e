// attn get: models by name.
#include <fmt/format.h>

#include <algorithm>

#include "arguments.h"
#include "attn/model.h"
#include "json.h"
#include "models.h"
#include "terminal.h"

namespace attn::cli {

namespace {

std::string size_text(const KnownModel& m) {
  return m.bytes > 0 ? bytes_text(static_cast<double>(m.bytes)) : "built in";
}

std::string table(const std::vector<KnownModel>& models) {
  std::size_t name = 4, kind = 4, size = 4, licence = 7;
  for (const KnownModel& m : models) {
    name = std::max(name, m.name.size());
    kind = std::max(kind, m.kind.size());
    size = std::max(size, size_text(m).size());
    licence = std::max(licence, m.licence.size());
  }
  const auto line = [&](const std::string& a, const std::string& b, const std::string& c,
                        const std::string& d, const std::string& e) {
    return fmt::format("{:<{}}  {:<{}}  {:>{}}  {:<{}}  {}", a, name, b, kind, c, size, d, licence,
                       e);
  };
  std::string out = bold(line("name", "kind", "size", "licence", "source")) + "\n";
  for (const KnownModel& m : models) {
    out += line(m.name, m.kind, size_text(m), m.licence, m.source) + "\n";
  }
  return out;
}

}  // namespace

void get(const GetOptions& options) {
  if (options.name.empty()) {
    print(options.common.json ? json(known_models()) : table(known_models()));
    return;
  }
  const std::string folder = get_model(options.name, options.offline);
  if (options.common.json) return print(json_folder(options.name, folder));
  if (options.path_only) return print(folder + "\n");
  std::string out = options.name;
  for (const KnownModel& m : known_models()) {
    if (m.name == options.name) {
      out += fmt::format(": {}, {}, {}, {}", m.kind, size_text(m), m.licence, m.source);
    }
  }
  print(out + "\n" + folder + "\n");
}

}  // namespace attn::cli

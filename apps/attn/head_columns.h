// The measures of a head by name, in the order in which tables have them.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "attn/heads.h"

namespace attn::cli {

struct HeadColumn {
  std::string name;   // in JSON and CSV, and what --sort takes
  std::string title;  // of the table for people
  int digits = 3;
  std::function<std::optional<double>(const HeadMeasures&)> value;
};

const std::vector<HeadColumn>& head_columns();
// Throws std::invalid_argument, with the names, for one that is not known.
const HeadColumn& head_column(const std::string& name);

}  // namespace attn::cli

// The one table of mechanisms: a new one is an entry, and a text in docs/mechanisms.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "attn/mechanism.h"
#include "measure/problem.h"

namespace attn::measuring {

struct Entry {
  Mechanism about;
  // Of what is not exact attention with a mask:
  std::function<std::unique_ptr<Problem>(const Workload&, const Context&)> make = {};
  // Its shape's v_width is set.
  std::function<MechanismCost(const AttentionShape&)> cost = {};
  bool steps = true;      // can be decoded
  bool gradients = true;  // can be run backward
};

const std::vector<Entry>& entries();
// Throws std::invalid_argument that lists the known names.
const Entry& entry(const std::string& name);
// Throws std::invalid_argument for a workload of a mechanism other than exact attention that cannot
// be run.
void check_mechanism(const Workload& workload);

}  // namespace attn::measuring

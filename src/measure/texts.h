// The texts of docs/mechanisms, compiled in.
#pragma once

#include <vector>

#include "attn/mechanism.h"

namespace attn::measuring {

const std::vector<MechanismText>& texts();

}  // namespace attn::measuring

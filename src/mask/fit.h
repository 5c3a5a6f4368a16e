// Whether a mask and a geometry make sense together.
#pragma once

#include "attn/mask.h"
#include "mask/keys.h"

namespace attn {

// The geometry, if it makes sense by itself; else throws std::invalid_argument "[mask] ...".
const Geometry& checked(const Geometry& geometry);

// Throws std::invalid_argument "[mask] ..." when any part of the mask, whether a row needs it or
// not, does not fit.
void check_fits(const Mask& mask, const Geometry& geometry, const Keys& keys);

}  // namespace attn

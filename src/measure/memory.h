// Resident memory of this process, as Linux counts it.
#pragma once

namespace attn::measuring {

// Gives freed memory back and forgets the peak. Returns the bytes that are resident now.
double forget_peak();
// The most bytes that were resident since.
double peak_bytes();

}  // namespace attn::measuring

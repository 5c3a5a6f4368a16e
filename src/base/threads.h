// How many threads a parallel region may start.
#pragma once

namespace attn {

// `wanted`; 1 in a process that was forked after its parent had started several: OpenMP's threads
// do not follow a fork, and a region that waits for them never ends.
int threads_to_start(int wanted);

}  // namespace attn

// What the parts of the emulation know of each other.
#pragma once
#include "cuda_runtime.h"

namespace emulation {

// Whether an illegal access has taken the emulated GPUs away; what calls return then.
bool faulted();
cudaError_t state();
// Runs what is queued and may run.
void drain();

}  // namespace emulation

// Chains that are compiled while a program runs, once for each, and kept on disk by their content.
#pragma once
#include "chain_source.h"
#include "kernels.h"

namespace baton {

// Launches a chain over n elements; false when nothing is there to compile it with, or BATON_CUDA_POINTWISE=interpreter.
bool launch_chain(Call& c, const ChainShape& shape, const ChainPorts& ports, long n);

}  // namespace baton

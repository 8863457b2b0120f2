// Prints the source of a chain with every instruction, inputs and outputs of both types, for a GPU. See cuda_chains_test.ts.
#include <stdio.h>

#include "../../../cuda/common/opcodes.h"
#include "../../../cuda/gpu/chain_source.h"

int main() {
  baton::ChainShape shape;
  shape.inputs = {{false, false}, {true, false}, {false, true}};
  shape.outputs = {{false, false}, {true, false}};
  for (int op = 0; op < baton::INSTRUCTIONS; op++) shape.steps.push_back({op, op < 3 ? op : op + 2, 1, 2, 0x3f800000u});
  shape.results = {3 + baton::INSTRUCTIONS - 1, 5};
  puts(shape.source(false).c_str());
}

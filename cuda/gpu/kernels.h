// What the runtime and the kernels know of each other.
#pragma once
#include <cuda_runtime.h>

#include "../common/group.h"
#include "../common/opcodes.h"
#include "../common/program.h"

namespace baton {

constexpr int ERROR_BYTES = 256;
// Of a device: logits, partial sums, registers of pointwise chains. Every kernel tiles itself to fit.
constexpr uint64_t SCRATCH_BYTES = 128 << 20;
// Behind it, the workspace of products by cuBLASLt.
constexpr uint64_t PRODUCT_BYTES = 32 << 20;
// And what the second stream has, whose work runs beside the other's: strided pieces on their way through NCCL.
constexpr uint64_t COPY_BYTES = 32 << 20;

// What can be wrong with the integers that kernels read. The texts are in faults.cu.
enum What { NOTHING, INDEX, SEGMENT, LAST_SEGMENT, NO_PAGE, NO_ROOM, NOT_FINITE, NOT_KEPT };
enum Index { TOKEN_ID, ROW, POSITION, SLOT, TARGET, PAGE_INDEX, KEPT };

// The first thing that was wrong in a job; in device memory, copied to the host when the job ends.
struct Fault {
  int set, operation, what, index;
  long long value[4];
};

class GpuDevice;

// One operation, ready to be launched: addresses, live sizes and where it goes.
struct Call {
  void* const* operand;
  const uint64_t* bytes;  // of each operand, at the largest symbols
  const Type* type;       // of its elements
  const double* attribute;
  int operands, attributes;
  int operation;          // its place in the program
  cudaStream_t stream;
  Fault* fault;
  char* scratch;
  GpuDevice* device;
  Group* const* groups;   // by axis; null where the job is in none
  const uint32_t* ranks;  // in each of them
  int axes;
  Group* stopped;         // set by a collective operation whose group has failed; it then writes no error
  char* error;            // ERROR_BYTES; what is wrong before anything is launched
};

typedef void (*Kernel)(Call&);
Kernel kernel_of(uint16_t opcode);

std::string fault_text(const Fault& fault);

}  // namespace baton

// What the runtime and the kernels know of each other. Every kernel source is compiled once per instruction set into a
// namespace of that name; plain data only is shared, because an inline function that two instruction sets instantiate
// would be merged by the linker and could run AVX-512 code on a machine without it.
#pragma once
#include <stdint.h>

#include "../common/group.h"
#include "pool.h"

namespace baton {

constexpr int ERROR_BYTES = 256;

// One operation, ready to run: addresses and live sizes.
struct Call {
  void* const* operand;
  const uint64_t* bytes;  // of each operand, at the largest symbols
  const double* attribute;
  int operands, attributes;
  Pool* pool;
  Group* const* groups;   // by axis; null where the job is in none
  const uint32_t* ranks;  // in each of them
  int axes;
  Group* stopped;  // set by a collective operation whose group has failed; it then writes no error
  char* error;  // ERROR_BYTES; a kernel that fails writes why, without touching memory outside its operands
  bool narrow;  // floats are stored in bf16 (widen.h): a kernel that goes on with what it stores rounds it before
};

typedef void (*Kernel)(Call&);

struct Instructions {
  const char* name;
  const Kernel* kernels;  // by opcode
  // One product, for `baton_gemm_bench`; mode 3 is m·n·k multiply-adds in registers, 4 reads n·k values m times.
  void (*product)(Pool&, uint32_t mode, long m, long n, long k, float* x, float* w, float* y);
};

namespace generic { extern const Instructions instructions; }
namespace avx2 { extern const Instructions instructions; }
namespace avx512 { extern const Instructions instructions; }

}  // namespace baton

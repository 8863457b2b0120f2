// The text of kernels/math.cuh, for kernels that are compiled while a program runs.
#include "chain_source.h"

asm(R"(
.section .rodata
.hidden baton_math_text
.globl baton_math_text
baton_math_text:
.incbin "gpu/kernels/math.cuh"
.byte 0
.text
)");
extern "C" const char baton_math_text[];

namespace baton {

const char* math_text() { return baton_math_text; }

}  // namespace baton

// The kernels by opcode: the list is the CPU's, so a kernel that is missing here does not link.
#include "kernels.h"

namespace baton {

#define KERNEL(code, name) void name(Call&);
#include "../common/kernel_list.h"
#undef KERNEL

Kernel kernel_of(uint16_t opcode) {
  switch (opcode) {
#define KERNEL(code, name) \
  case code: return name;
#include "../common/kernel_list.h"
#undef KERNEL
  }
  return nullptr;
}

}  // namespace baton

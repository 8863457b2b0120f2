// Which instruction set the kernels use: the best that the machine has, unless a test or BATON_ISA says otherwise.
#include <stdlib.h>
#include <string.h>

#include <atomic>

#include "runtime.h"

namespace baton {
namespace {

std::atomic<const Instructions*> selected{nullptr};

}  // namespace

bool select_instructions(uint32_t isa) {
  const Instructions* choice = nullptr;
  if (isa == 1) choice = &generic::instructions;
#if defined(__x86_64__)
  __builtin_cpu_init();
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (isa == 2 && avx2) choice = &avx2::instructions;
  if (isa == 3 && avx512) choice = &avx512::instructions;
#endif
  if (isa == 0) return select_instructions(3) || select_instructions(2) || select_instructions(1);
  if (choice) selected = choice;
  return choice != nullptr;
}

const Instructions& instructions() {
  if (!selected.load()) {
    const char* wanted = getenv("BATON_ISA");
    const char* names[] = {"", "generic", "avx2", "avx512"};
    for (uint32_t isa = 1; wanted && isa <= 3; isa++)
      if (!strcmp(wanted, names[isa])) select_instructions(isa);
    if (!selected.load()) select_instructions(0);
  }
  return *selected.load();
}

}  // namespace baton

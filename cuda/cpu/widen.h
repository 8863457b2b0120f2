// bf16 operands on the CPU: kernels compute in f32 and know nothing else, so an operation's bf16 operands are widened into
// memory of the device before it runs, and what it wrote is rounded on its way back. Exact and slow: it is here so that programs
// in bf16 can be checked without a GPU, whose kernels round at the same places.
#pragma once
#include <stdlib.h>

#include <memory>
#include <vector>

#include "../common/device.h"
#include "pool.h"

namespace baton {

class Widened {
 public:
  // Puts f32 copies in the place of the bf16 operands that `operands` is bound to; false when there is no memory for them.
  bool open(Pool& pool, const Operation& operation, Operands& operands);
  // Rounds what the operation wrote, to nearest, ties to even.
  void close(Pool& pool) const;

 private:
  struct Copy {
    uint16_t* home;
    float* wide;
    uint64_t elements;
    bool written;
  };
  struct Free {
    void operator()(char* p) const { free(p); }
  };
  std::vector<Copy> copies_;
  std::unique_ptr<char, Free> memory_;
  uint64_t bytes_ = 0;
};

}  // namespace baton

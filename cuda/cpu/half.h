// bf16, the upper half of an f32.
#pragma once
#include <stdint.h>

namespace baton {

// To nearest, ties to even. Of one source file only: instruction sets must not share it (kernels.h).
static inline uint16_t half_of(uint32_t bits) {
  // A NaN keeps its sign and upper payload and becomes quiet.
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace baton

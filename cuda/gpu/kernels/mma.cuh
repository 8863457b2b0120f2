// The tensor cores' bf16 product of 16 × 16 and 16 × 8 with fp32 sums (PTX mma.sync.m16n8k16), and its operands in registers.
//
// Lane l of a warp, with g = l / 4 and t = l % 4, holds of A (rows × k): a0 = (g, 2t…), a1 = (g + 8, 2t…), a2 = (g, 2t + 8…),
// a3 = (g + 8, 2t + 8…), two numbers each; of B (k × columns): b0 = (2t…, g), b1 = (2t + 8…, g); of the sums: (g, 2t), (g, 2t + 1),
// (g + 8, 2t), (g + 8, 2t + 1).
#pragma once
#include "kernel.cuh"

namespace baton {

// Two numbers in one register, the first in the lower half.
__device__ inline uint32_t pair_of(float low, float high) {
  bf16 v[2] = {__float2bfloat16_rn(low), __float2bfloat16_rn(high)};
  uint32_t out;
  memcpy(&out, v, 4);
  return out;
}
__device__ inline uint32_t pair_at(const bf16* p) { return *reinterpret_cast<const uint32_t*>(p); }

__device__ inline void mma(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef BATON_EMULATION
  struct Words {
    uint32_t a[4], b[2];
  } mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const char* shown = emulation::show(&mine, sizeof mine);
  auto of = [&](int l) { return reinterpret_cast<const Words*>(shown + 32 * l); };
  auto number = [](uint32_t word, int half) { return __int_as_float(int(half ? word & 0xffff0000u : word << 16)); };
  int g = int(threadIdx.x % 32) / 4, t = int(threadIdx.x % 4);
  for (int i = 0; i < 4; i++) {
    int row = g + (i >= 2 ? 8 : 0), column = 2 * t + i % 2;
    for (int k = 0; k < 16; k++) {
      int from = k % 8 / 2, half = k % 2;
      sum[i] += number(of(row % 8 * 4 + from)->a[(row >= 8) + (k >= 8 ? 2 : 0)], half) *
                number(of(column * 4 + from)->b[k >= 8], half);
    }
  }
#else
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

}  // namespace baton

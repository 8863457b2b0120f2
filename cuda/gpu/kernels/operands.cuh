// Where the elements of a product lie.
#pragma once
#include "kernel.cuh"

namespace baton {

__device__ inline float element(const Left& a, long i, long k) { return a.p[i * a.row + k * a.column]; }
__device__ inline float element(const Right& b, long k, long j) {
  switch (b.form) {
    case Right::rows: return b.p[k * b.ld + j];
    case Right::columns: return b.p[j * b.ld + k];
    case Right::panels: return b.p[(j >> 4) * 16 * b.ld + 16 * k + (j & 15)];
    default: return b.p[(k >> 4) * 16 * b.ld + 16 * j + (k & 15)];
  }
}
__device__ inline long place(const Target& c, long i, long j) {
  return c.panels ? (j >> 4) * 16 * c.ld + 16 * i + (j & 15) : i * c.ld + j;
}

// What a thread has of a warp's 64 × 32 sums by `mma`, added to what was there before; its first is that of `row` and `column`.
__device__ inline void store_sums(const float (&sum)[4][4][4], const Target& target, const Numbers& prior, long row, long column,
                                  long m, long n) {
  long width = target.panels ? parts(n, 16) * 16 : n;  // padding is written too
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        long r = row + 16 * i + (e >= 2 ? 8 : 0), q = column + 8 * j + e % 2;
        if (r >= m || q >= width) continue;
        long at = place(target, r, q);
        target.p.set(at, (prior.p ? prior[at] : 0.f) + sum[i][j][e]);
      }
}

}  // namespace baton

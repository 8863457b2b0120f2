// Where the elements of a product lie.
#pragma once
#include "kernel.cuh"

namespace baton {

__device__ inline float element(const Left& a, long i, long k) { return a.p[i * a.row + k * a.column]; }
__device__ inline float element(const Right& b, long k, long j) {
  switch (b.form) {
    case Right::rows: return b.p[k * b.ld + j];
    case Right::panels: return b.p[(j >> 4) * 16 * b.ld + 16 * k + (j & 15)];
    default: return b.p[(k >> 4) * 16 * b.ld + 16 * j + (k & 15)];
  }
}
__device__ inline long place(const Target& c, long i, long j) {
  return c.panels ? (j >> 4) * 16 * c.ld + 16 * i + (j & 15) : i * c.ld + j;
}

}  // namespace baton

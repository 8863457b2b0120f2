// A softmax that sees its row in tiles, as on the CPU: the running maximum, and sums in sixteen lanes that shrink when the
// maximum grows. A block takes a row; its threads make the exponentials, the first sixteen add them in order.
#pragma once
#include "kernel.cuh"

namespace baton {

constexpr long TILE = 1024;  // of a vocabulary

struct RowSoftmax {
  float top = -INF;
  float sum = 0, weighted = 0;  // of thread l < 16: Σ e and Σ e·s of lane l
};

// `from … to` of a block's scores are live; they become e = exp(s·scale − top). Returns the factor by which all before shrinks.
// `scaled` keeps s·scale when not null. Called by a whole block, with its stages in shared memory.
__device__ inline float absorb(RowSoftmax& z, float* s, float* scaled, long from, long to, float scale, float* share) {
  float own = -INF;
  for (long j = from + threadIdx.x; j < to; j += blockDim.x) {
    float x = s[j] * scale;
    s[j] = x;
    if (scaled) scaled[j] = x;
    own = most(own, x);
  }
  float peak = most(block_most(own, share), z.top);
  float shrink = z.top == peak ? 1.f : z.top == -INF ? 0.f : exp_of(z.top - peak);
  z.top = peak;
  for (long j = from + threadIdx.x; j < to; j += blockDim.x) s[j] = exp_of(s[j] - peak);
  __syncthreads();
  if (threadIdx.x < 16) {
    z.sum = z.sum * shrink;
    if (scaled) z.weighted = z.weighted * shrink;
    for (long j = (from & ~15L) + threadIdx.x; j < to; j += 16)
      if (j >= from) {
        z.sum = z.sum + s[j];
        if (scaled) z.weighted = fmaf(s[j], scaled[j], z.weighted);
      }
  }
  return shrink;
}

// The sum over the lanes, for the first warp of a block.
__device__ inline float lanes_total(float lane) { return fold16(threadIdx.x < 16 ? lane : 0.f); }

}  // namespace baton

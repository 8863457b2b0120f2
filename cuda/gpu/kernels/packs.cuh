// Numbers that are moved several at a time: sixteen bytes where everything lies on such a boundary, one number elsewhere.
#pragma once
#include "kernel.cuh"

namespace baton {

// PER neighbours in one access.
template <class T, int PER>
struct alignas(PER * sizeof(T) < 16 ? PER * sizeof(T) : 16) Pack {
  T v[PER];
};
// Numbers in sixteen bytes.
template <class T>
constexpr int WIDE = 16 / int(sizeof(T));

// The pack at an address; one that a GPU would not read from ends the emulation.
template <int PER, class T>
__device__ inline Pack<T, PER>* pack_at(T* p) {
#ifdef BATON_EMULATION
  if (reinterpret_cast<uintptr_t>(p) % alignof(Pack<T, PER>) != 0) __builtin_trap();
#endif
  return reinterpret_cast<Pack<T, PER>*>(p);
}
template <int PER, class T>
__device__ inline const Pack<T, PER>* pack_at(const T* p) { return pack_at<PER>(const_cast<T*>(p)); }

template <int PER, class T>
__device__ inline void read(const T* p, float (&v)[PER]) {
  Pack<T, PER> x = *pack_at<PER>(p);
#pragma unroll
  for (int e = 0; e < PER; e++) v[e] = number(x.v[e]);
}
template <int PER, class T>
__device__ inline void write(T* p, const float (&v)[PER]) {
  Pack<T, PER> x;
#pragma unroll
  for (int e = 0; e < PER; e++) x.v[e] = stored<T>(v[e]);
  *pack_at<PER>(p) = x;
}

// Whether all of these begin on a boundary of sixteen bytes; null does.
template <class... P>
inline bool aligned(const P*... p) {
  return (... && (reinterpret_cast<uintptr_t>(p) % 16 == 0));
}

// Σ over LANES threads side by side; all of them get it. `share` has a number for every warp of the block.
template <int LANES>
__device__ inline float sum_of(float a, float* share) {
  for (int half = (LANES < 32 ? LANES : 32) / 2; half; half /= 2) a = a + __shfl_xor_sync(ALL, a, half);
  if (LANES <= 32) return a;
  __syncthreads();
  if (threadIdx.x % 32 == 0) share[threadIdx.x / 32] = a;
  __syncthreads();
  a = 0;
  for (int w = 0; w < LANES / 32; w++) a = a + share[w];
  return a;
}

// ---- sums over rows, in columns.cu ---------------------------------------------------------------------------------

// Most parts that rows are cut into for a sum by columns, where their order need not be the CPU's.
constexpr long MOST_PARTS = 512;
// out[j] (+ prior[j]) = Σ of `count` rows of h floats, in their order.
void add_parts(Call& c, const float* parts, long count, long h, Numbers prior, OutNumbers out);
// The same of m rows of x, each times rows of y times a number of its own where there are such.
void sum_columns(Call& c, Numbers x, Numbers y, const float* scale, long m, long h, Numbers prior, OutNumbers out);

}  // namespace baton

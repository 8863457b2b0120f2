// What the fast attention kernels share: a warp's 32 rows against tiles of keys (or of queries), in two fragments of 16 rows.
#pragma once
#include "attention.cuh"
#include "fragments.cuh"

namespace baton {
namespace flash {

constexpr int FRAGMENTS = 2, OWN = 16 * FRAGMENTS;  // rows of a warp
constexpr float LOG2_E = 1.44269504f, LN_2 = .693147181f;

// Sizes as 32-bit integers: registers are scarce.
struct Shapes {
  int tokens, heads, kv, d, window;
  float scale;
  __device__ explicit Shapes(const AttentionShapes& z)
      : tokens(int(z.tokens)), heads(int(z.heads)), kv(int(z.kv)), d(int(z.d)), window(int(z.window)), scale(z.scale) {}
};

__device__ inline float power_2(float x) {
#ifdef BATON_EMULATION
  return exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// The keys that a query sees are from … query; nothing for rows past the end.
__device__ inline int first_key(const AttentionShapes& z, const int* ends, long token) {
  if (token >= z.tokens) return 1 << 30;
  long begin = SequencePlace(z, ends, token).begin;
  return int(z.window ? larger(begin, token - z.window + 1) : begin);
}
// The queries that see a key are key … last_query − 1.
__device__ inline int last_query(const AttentionShapes& z, const int* ends, long token) {
  if (token >= z.tokens) return 0;
  long end = SequencePlace(z, ends, token).end;
  return int(z.window ? smaller(end, token + z.window) : end);
}

// The columns of a tile that a row has to do with, counted from the tile's first one.
struct Span {
  int from, to;
};
// Masks the scores outside the spans of their rows; `span` is asked for each of this lane's rows of the warp's 32.
template <int TILES, class F>
__device__ void mask_outside(float (&s)[FRAGMENTS][TILES][4], F span) {
#ifndef BATON_EMULATION
  asm volatile("");  // tiles inside come past this: compilers would turn all of it into conditions of every tile
#endif
  int g = int(threadIdx.x % 32) / 4, t = int(threadIdx.x % 4);
#pragma unroll
  for (int i = 0; i < FRAGMENTS; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      Span of = span(16 * i + 8 * h + g);
      int from = of.from - 2 * t, to = of.to - 2 * t;
#pragma unroll
      for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int e = 0; e < 2; e++)
          if ((8 * j + e < from) | (8 * j + e > to)) s[i][j][2 * h + e] = -INF;
    }
}

// s += a warp's rows · rows of the other operandᵀ, over D; both lie in shared memory along D.
template <int D, int TILES>
__device__ void rows_by_rows(float (&s)[FRAGMENTS][TILES][4], const bf16* own, const bf16* other) {
  constexpr int STEP = SHARED_STEP<D>;
#pragma unroll
  for (int d = 0; d < D; d += 16) {
    uint32_t a[FRAGMENTS][4];
#pragma unroll
    for (int i = 0; i < FRAGMENTS; i++) load_left(a[i], own + 16 * i * STEP + d, STEP);
#pragma unroll
    for (int j = 0; j < TILES; j += 2) {
      uint32_t b[4];
      load_right(b, other + 8 * j * STEP + d, STEP);
#pragma unroll
      for (int i = 0; i < FRAGMENTS; i++) mma_pair(s[i][j], s[i][j + 1], a[i], b);
    }
  }
}

// sum += w · rows of the other operand, over 8·TILES of them; w are numbers of the warp's rows in registers.
template <int D, int TILES>
__device__ void weights_by_rows(float (&sum)[FRAGMENTS][D / 8][4], const float (&w)[FRAGMENTS][TILES][4], const bf16* other) {
  constexpr int STEP = SHARED_STEP<D>;
#pragma unroll
  for (int k = 0; k < TILES / 2; k++) {
    uint32_t a[FRAGMENTS][4];
#pragma unroll
    for (int i = 0; i < FRAGMENTS; i++) {
      const float *low = w[i][2 * k], *high = w[i][2 * k + 1];
      a[i][0] = pair_of(low[0], low[1]), a[i][1] = pair_of(low[2], low[3]);
      a[i][2] = pair_of(high[0], high[1]), a[i][3] = pair_of(high[2], high[3]);
    }
#pragma unroll
    for (int j = 0; j < D / 8; j += 2) {
      uint32_t b[4];
      load_right_turned(b, other + 16 * k * STEP + 8 * j, STEP);
#pragma unroll
      for (int i = 0; i < FRAGMENTS; i++) mma_pair(sum[i][j], sum[i][j + 1], a[i], b);
    }
  }
}

// Stores the sums of a warp's rows from `row` on, scaled row by row; `to` is the first number of row 0.
template <int TILES>
__device__ void store_rows(const float (&sum)[FRAGMENTS][TILES][4], bf16* to, long step, int row, int tokens, int columns,
                           const float (&scale)[FRAGMENTS][2]) {
  int g = int(threadIdx.x % 32) / 4, t = int(threadIdx.x % 4);
#pragma unroll
  for (int i = 0; i < FRAGMENTS; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      int r = row + 16 * i + 8 * h + g;
      if (r >= tokens) continue;
#pragma unroll
      for (int j = 0; j < TILES; j++)
        if (8 * j < columns)
          *reinterpret_cast<uint32_t*>(to + r * step + 8 * j + 2 * t) =
              pair_of(sum[i][j][2 * h] * scale[i][h], sum[i][j][2 * h + 1] * scale[i][h]);
    }
}

// Whether rows of these sizes can be brought 16 bytes at a time.
inline bool in_pieces(const AttentionShapes& z, std::initializer_list<const void*> all) {
  for (const void* p : all)
    if (reinterpret_cast<uintptr_t>(p) % 16) return false;
  return z.d % 8 == 0 && z.d <= 128 && z.tokens < 1 << 30;
}

// f of the smallest head size that is made for and holds d.
template <class F>
void by_head_size(long d, F f) {
  if (d <= 64) f(std::integral_constant<int, 64>());
  else if (d <= 80) f(std::integral_constant<int, 80>());
  else if (d <= 96) f(std::integral_constant<int, 96>());
  else f(std::integral_constant<int, 128>());
}

}  // namespace flash
}  // namespace baton

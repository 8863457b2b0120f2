// What feeds the tensor cores: copies from memory to shared memory that run beside arithmetic (PTX cp.async), and four 8 × 8 tiles
// of bf16 from shared memory to a warp's registers at once (ldmatrix). Both move 16 bytes, at multiples of 16. Rows in shared memory
// have an odd number of 16-byte pieces, so that the eight rows of a tile lie in different banks.
#pragma once
#include "mma.cuh"

namespace baton {

// Elements from row to row in shared memory, for rows of n.
template <int N>
constexpr int SHARED_STEP = N / 8 % 2 ? N : N + 8;

// 16 bytes, or zeros; `from` may be any valid address where they are not live.
__device__ inline void copy_beside(bf16* to, const bf16* from, bool live) {
#ifdef BATON_EMULATION
  emulation::copy_later(to, live ? from : nullptr, 16);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(unsigned(__cvta_generic_to_shared(to))), "l"(from), "r"(live ? 16 : 0)
               : "memory");
#endif
}
__device__ inline void commit_copies() {
#ifdef BATON_EMULATION
  emulation::commit_copies();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Until all but the newest groups of this thread's copies are there.
template <int NEWEST = 0>
__device__ void wait_for_copies() {
#ifdef BATON_EMULATION
  emulation::wait_for_copies(NEWEST);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(NEWEST) : "memory");
#endif
}

// Rows of `width` bf16 numbers of a matrix in memory, zero past the live rows and the width. All threads of the block take part.
template <int ROWS, int WIDTH, int THREADS>
__device__ void copy_rows_beside(bf16* to, const bf16* from, long step, int live, int width) {
  constexpr int PIECES = WIDTH / 8, STEP = SHARED_STEP<WIDTH>;
  int first = int(threadIdx.x);
  if constexpr (THREADS % PIECES == 0 && ROWS % (THREADS / PIECES) == 0) {
    // The same column every time, some rows further on.
    constexpr int EACH = THREADS / PIECES;
    int row = first / PIECES, column = first % PIECES * 8;
    const bf16* next = from + row * step + column;
    live = column < width ? live : 0;
#pragma unroll
    for (int e = 0; e < ROWS / EACH; e++, next += EACH * step) {
      bool there = row + e * EACH < live;
      copy_beside(to + (row + e * EACH) * STEP + column, there ? next : from, there);
    }
  } else {
#pragma unroll
    for (int e = 0; e < (ROWS * PIECES + THREADS - 1) / THREADS; e++) {
      int i = first + e * THREADS, row = i / PIECES, column = i % PIECES * 8;
      if (ROWS * PIECES % THREADS && i >= ROWS * PIECES) break;
      bool there = row < live && column < width;
      copy_beside(to + row * STEP + column, there ? from + row * step + column : from, there);
    }
  }
}

// Register i of a lane gets two numbers of tile i, whose rows are where lanes 8i … 8i + 7 point: of row lane / 4, the numbers
// 2 (lane % 4) and the next; `turned`: of the transposed tile.
template <bool TURNED>
__device__ void load_tiles(uint32_t (&out)[4], const bf16* row) {
#ifdef BATON_EMULATION
  const char* shown = emulation::show(&row, sizeof row);
  int g = int(threadIdx.x % 32) / 4, t = int(threadIdx.x % 4);
  auto at = [&](int tile, int row, int column) {
    const uint16_t* p;
    memcpy(&p, shown + 32 * (8 * tile + row), sizeof p);
    return uint32_t(p[column]);
  };
  for (int i = 0; i < 4; i++)
    out[i] = TURNED ? at(i, 2 * t, g) | at(i, 2 * t + 1, g) << 16 : at(i, g, 2 * t) | at(i, g, 2 * t + 1) << 16;
#else
  unsigned from = unsigned(__cvta_generic_to_shared(row));
  if (TURNED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(from)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(from)
                 : "memory");
#endif
}

// The A operand of 16 rows and 16 steps of k, of which `p` is the first number; `step` from row to row.
__device__ inline void load_left(uint32_t (&out)[4], const bf16* p, int step) {
  int lane = int(threadIdx.x % 32);
  load_tiles<false>(out, p + lane % 16 * step + lane / 16 * 8);
}
// The same from rows across k: row i is step i, and rows of the product lie side by side.
__device__ inline void load_left_turned(uint32_t (&out)[4], const bf16* p, int step) {
  int lane = int(threadIdx.x % 32);
  load_tiles<true>(out, p + (lane / 16 * 8 + lane % 8) * step + lane / 8 % 2 * 8);
}
// Two B operands, of 8 columns and 16 steps of k each, b0 and b1 of the first and then of the second, from rows along k: row j is
// column j of the product.
__device__ inline void load_right(uint32_t (&out)[4], const bf16* p, int step) {
  int lane = int(threadIdx.x % 32);
  load_tiles<false>(out, p + (lane / 16 * 8 + lane % 8) * step + lane / 8 % 2 * 8);
}
// The same from rows across k: row i is step i, and columns lie side by side.
__device__ inline void load_right_turned(uint32_t (&out)[4], const bf16* p, int step) {
  int lane = int(threadIdx.x % 32);
  load_tiles<true>(out, p + lane % 16 * step + lane / 16 * 8);
}

// Both products of a left operand with what load_right gives.
__device__ inline void mma_pair(float (&first)[4], float (&second)[4], const uint32_t (&a)[4], const uint32_t (&b)[4]) {
  uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
  mma(first, a, low);
  mma(second, a, high);
}

}  // namespace baton

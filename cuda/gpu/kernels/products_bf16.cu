// Matrix products on tensor cores: fp32 operands are rounded to bf16 on their way into shared memory, sums are fp32. Reads weights
// in panels as they lie.
#include "mma.cuh"
#include "operands.cuh"

namespace baton {
namespace {

constexpr int TILE_M = 128, TILE_N = 128, DEPTH = 32, STEP = DEPTH + 8;  // STEP: rows of a fragment fall into different banks
constexpr int THREADS = 256, EACH = TILE_M * DEPTH / THREADS;
static_assert(TILE_M == TILE_N, "both operands are loaded alike");

// Which element of a tile a thread loads: neighbours in memory for neighbours in the block.
struct Spot {
  int along, depth;
  __device__ Spot(int e, bool depth_first)
      : along(depth_first ? e / DEPTH : e % TILE_M), depth(depth_first ? e % DEPTH : e / TILE_M) {}
};

// Transposed panels hold 16 steps of k side by side, then the next column.
struct SpotOfPanels {
  int along, depth;
  __device__ explicit SpotOfPanels(int e) : along(e / 16 % TILE_N), depth(e % 16 + e / (16 * TILE_N) * 16) {}
};

// A warp makes 64 rows × 32 columns: 4 × 4 products of 16 × 8.
__global__ void __launch_bounds__(THREADS)
    multiply_bf16_kernel(Left left, Right right, Target target, const float* prior, long m, long n, long k) {
  __shared__ bf16 a[TILE_M][STEP], b[TILE_N][STEP];
  int tid = int(threadIdx.x), lane = tid % 32, warp = tid / 32, g = lane / 4, t = lane % 4;
  int row0 = warp / 4 * 64, column0 = warp % 4 * 32;
  long row = long(blockIdx.y) * TILE_M, column = long(blockIdx.x) * TILE_N;
  bool depth_first = left.column == 1;
  float sum[4][4][4] = {}, next_a[EACH], next_b[EACH];
  auto load = [&](long k0) {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      Spot at(tid + i * THREADS, depth_first);
      next_a[i] = row + at.along < m && k0 + at.depth < k ? element(left, row + at.along, k0 + at.depth) : 0.f;
      int e = tid + i * THREADS;
      int along, depth;
      if (right.form == Right::transposed) along = SpotOfPanels(e).along, depth = SpotOfPanels(e).depth;
      else along = Spot(e, false).along, depth = Spot(e, false).depth;
      next_b[i] = column + along < n && k0 + depth < k ? element(right, k0 + depth, column + along) : 0.f;
    }
  };
  auto store = [&] {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      int e = tid + i * THREADS;
      Spot at(e, depth_first);
      a[at.along][at.depth] = __float2bfloat16_rn(next_a[i]);
      if (right.form == Right::transposed) b[SpotOfPanels(e).along][SpotOfPanels(e).depth] = __float2bfloat16_rn(next_b[i]);
      else b[Spot(e, false).along][Spot(e, false).depth] = __float2bfloat16_rn(next_b[i]);
    }
  };
  load(0);
  for (long k0 = 0; k0 < k; k0 += DEPTH) {
    store();
    __syncthreads();
    if (k0 + DEPTH < k) load(k0 + DEPTH);  // under way while the tensor cores work
#pragma unroll
    for (int d = 0; d < DEPTH; d += 16) {
      uint32_t fa[4][4], fb[4][2];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const bf16 *p = &a[row0 + 16 * i + g][d + 2 * t], *q = &a[row0 + 16 * i + g + 8][d + 2 * t];
        fa[i][0] = pair_at(p), fa[i][1] = pair_at(q), fa[i][2] = pair_at(p + 8), fa[i][3] = pair_at(q + 8);
      }
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const bf16* p = &b[column0 + 8 * j + g][d + 2 * t];
        fb[j][0] = pair_at(p), fb[j][1] = pair_at(p + 8);
      }
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) mma(sum[i][j], fa[i], fb[j]);
    }
    __syncthreads();
  }
  long width = target.panels ? parts(n, 16) * 16 : n;  // padding is written too
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        long r = row + row0 + 16 * i + g + (e >= 2 ? 8 : 0), q = column + column0 + 8 * j + 2 * t + e % 2;
        if (r >= m || q >= width) continue;
        long at = place(target, r, q);
        target.p[at] = (prior ? prior[at] : 0.f) + sum[i][j][e];
      }
}

}  // namespace

void multiply_bf16(Call& c, Left left, Right right, Target target, const float* prior, long m, long n, long k) {
  launch(c, multiply_bf16_kernel, dim3(unsigned(parts(n, TILE_N)), unsigned(parts(m, TILE_M))), THREADS, 0, left, right, target, prior,
         m, n, k);
}

}  // namespace baton

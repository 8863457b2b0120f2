// Products of few rows with a weight in rows, both bf16, on tensor cores: decode steps, where nothing counts but how fast the weight comes
// from memory. A lane reads sixteen bytes of a row at a time and gives them to the tensor cores as they are: which step of k is which makes
// no difference as long as both operands agree. A row's bits depend on nothing but the row.
#include "mma.cuh"
#include "operands.cuh"

namespace baton {
namespace {

constexpr int MOST_ROWS = 128, GROUPS = 4, COLUMNS = 8 * GROUPS, DEPTH = 64, WARPS = 8, THREADS = 32 * WARPS;

// Eight steps of k of a row; zeros outside.
__device__ inline uint4 eight(const bf16* p, long row, long rows, long ld, long depth, long k) {
  return row < rows && depth < k ? *reinterpret_cast<const uint4*>(p + row * ld + depth) : uint4{0, 0, 0, 0};
}

// A block makes 16·TILES rows × 32 columns. Its warps share k out, so that as much of the weight is under way as if there were eight times as
// many columns, and add up at the end, in their order.
template <int TILES>
__global__ void __launch_bounds__(THREADS)
    few_kernel(const bf16* x, long x_ld, const bf16* w, long w_ld, Target target, long m, long n, long k) {
  constexpr int SUMS = 16 * TILES * COLUMNS;
  __shared__ float shared[WARPS][SUMS];
  int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32), g = lane / 4, t = lane % 4;
  long row = long(blockIdx.y) * 16 * TILES, column = long(blockIdx.x) * COLUMNS;
  float sum[TILES][GROUPS][4] = {};
  for (long k0 = long(warp) * DEPTH; k0 < k; k0 += long(WARPS) * DEPTH) {
    uint4 fw[2][GROUPS], fx[2][TILES][2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      long depth = k0 + 32 * h + 8 * t;
#pragma unroll
      for (int j = 0; j < GROUPS; j++) fw[h][j] = eight(w, column + 8 * j + g, n, w_ld, depth, k);
#pragma unroll
      for (int i = 0; i < TILES; i++)
#pragma unroll
        for (int lower = 0; lower < 2; lower++) fx[h][i][lower] = eight(x, row + 16 * i + g + 8 * lower, m, x_ld, depth, k);
    }
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
      for (int i = 0; i < TILES; i++) {
        uint4 upper = fx[h][i][0], lower = fx[h][i][1];
        uint32_t first[4] = {upper.x, lower.x, upper.y, lower.y}, second[4] = {upper.z, lower.z, upper.w, lower.w};
#pragma unroll
        for (int j = 0; j < GROUPS; j++) {
          uint32_t w0[2] = {fw[h][j].x, fw[h][j].y}, w1[2] = {fw[h][j].z, fw[h][j].w};
          mma(sum[i][j], first, w0);
          mma(sum[i][j], second, w1);
        }
      }
  }
#pragma unroll
  for (int i = 0; i < TILES; i++)
#pragma unroll
    for (int j = 0; j < GROUPS; j++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        shared[warp][(16 * i + g + (e >= 2 ? 8 : 0)) * COLUMNS + 8 * j + 2 * t + e % 2] = sum[i][j][e];
  __syncthreads();
  for (int e = int(threadIdx.x); e < SUMS; e += THREADS) {
    long r = row + e / COLUMNS, q = column + e % COLUMNS;
    if (r >= m || q >= n) continue;
    float s = shared[0][e];
    for (int from = 1; from < WARPS; from++) s = s + shared[from][e];
    target.p.set(place(target, r, q), with_bias(target, q, s));
  }
}

}  // namespace

bool multiply_few(Call& c, Left left, Right right, Target target, Numbers prior, long m, long n, long k) {
  if (m > MOST_ROWS || right.form != Right::columns || left.column != 1 || prior.p || target.panels) return false;
  if (!in_eights(left.p) || !in_eights(right.p) || left.row % 8 || right.ld % 8 || k % 8) return false;
  const bf16 *x = static_cast<const bf16*>(left.p.p), *w = static_cast<const bf16*>(right.p.p);
  unsigned columns = unsigned(parts(n, COLUMNS));
  if (m <= 16) launch(c, few_kernel<1>, dim3(columns), THREADS, 0, x, left.row, w, right.ld, target, m, n, k);
  else launch(c, few_kernel<2>, dim3(columns, unsigned(parts(m, 32))), THREADS, 0, x, left.row, w, right.ld, target, m, n, k);
  return true;
}

}  // namespace baton

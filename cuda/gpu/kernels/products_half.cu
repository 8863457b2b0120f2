// Matrix products on tensor cores of operands that are bf16 in memory, with fp32 sums. Numbers go from memory to shared memory eight
// at a time, as they are: along k where k is what is contiguous, across it otherwise, and fragments are put together from either.
#include "mma.cuh"
#include "operands.cuh"

namespace baton {
namespace {

constexpr int TILE = 128, DEPTH = 32, THREADS = 256;  // of rows and of columns, and steps of k at once
constexpr int EIGHTS = TILE * DEPTH / 8 / THREADS;    // of an operand, for each thread
// Rows of shared memory are padded, so that those of a fragment fall into different banks.
constexpr int ALONG_K = DEPTH + 8, ACROSS_K = TILE + 8;
constexpr int SHARED = TILE * ALONG_K > DEPTH * ACROSS_K ? TILE * ALONG_K : DEPTH * ACROSS_K;

// How an operand lies in memory: rows of the left one or columns of the right one with k contiguous, the same with k across, or one of
// the two forms of a weight in panels.
enum class Lie { along, across, panels, transposed };

template <Lie LIE>
struct Operand8 {
  static constexpr bool ALONG = LIE == Lie::along || LIE == Lie::transposed;  // eight numbers are eight steps of k
  const bf16* p;
  long ld, limit;  // numbers outside k and the limit of the other dim are zero

  // Place in a tile of the eight numbers with this index: neighbours in memory for neighbours in the block.
  __device__ static int other(int i) {
    if (LIE == Lie::along) return i / (DEPTH / 8);
    if (LIE == Lie::panels) return i / (2 * DEPTH) * 16 + i % 2 * 8;
    if (LIE == Lie::transposed) return i / 2 % TILE;
    return i % (TILE / 8) * 8;
  }
  __device__ static int depth(int i) {
    if (LIE == Lie::along) return i % (DEPTH / 8) * 8;
    if (LIE == Lie::panels) return i / 2 % DEPTH;
    if (LIE == Lie::transposed) return i / (2 * TILE) * 16 + i % 2 * 8;
    return i / (TILE / 8);
  }
  __device__ uint4 load(long other, long k, long depth) const {
    if (other >= limit || depth >= k) return {0, 0, 0, 0};
    long at = LIE == Lie::along        ? other * ld + depth
              : LIE == Lie::panels     ? other / 16 * 16 * ld + 16 * depth + other % 16
              : LIE == Lie::transposed ? depth / 16 * 16 * ld + 16 * other + depth % 16
                                       : depth * ld + other;
    return *reinterpret_cast<const uint4*>(p + at);
  }
  __device__ static void store(bf16* shared, int i, uint4 eight) {
    int at = ALONG ? other(i) * ALONG_K + depth(i) : depth(i) * ACROSS_K + other(i);
    *reinterpret_cast<uint4*>(shared + at) = eight;
  }
  // Steps k and k + 1 of one row or column.
  __device__ static uint32_t pair(const bf16* shared, int other, int depth) {
    if constexpr (ALONG) return pair_at(shared + other * ALONG_K + depth);
    const uint16_t* low = reinterpret_cast<const uint16_t*>(shared) + depth * ACROSS_K + other;
    return low[0] | uint32_t(low[ACROSS_K]) << 16;
  }
};

// A warp makes 64 rows × 32 columns: 4 × 4 products of 16 × 8.
template <Lie LEFT, Lie RIGHT>
__global__ void __launch_bounds__(THREADS)
    multiply_half_kernel(Operand8<LEFT> left, Operand8<RIGHT> right, Target target, Numbers prior, long m, long n, long k) {
  __shared__ __align__(16) bf16 a[SHARED], b[SHARED];
  int tid = int(threadIdx.x), lane = tid % 32, warp = tid / 32, g = lane / 4, t = lane % 4;
  int row0 = warp / 4 * 64, column0 = warp % 4 * 32;
  long row = long(blockIdx.y) * TILE, column = long(blockIdx.x) * TILE;
  float sum[4][4][4] = {};
  uint4 next_a[EIGHTS], next_b[EIGHTS];
  auto load = [&](long k0) {
#pragma unroll
    for (int e = 0; e < EIGHTS; e++) {
      int i = tid + e * THREADS;
      next_a[e] = left.load(row + left.other(i), k, k0 + left.depth(i));
      next_b[e] = right.load(column + right.other(i), k, k0 + right.depth(i));
    }
  };
  load(0);
  for (long k0 = 0; k0 < k; k0 += DEPTH) {
#pragma unroll
    for (int e = 0; e < EIGHTS; e++) left.store(a, tid + e * THREADS, next_a[e]), right.store(b, tid + e * THREADS, next_b[e]);
    __syncthreads();
    if (k0 + DEPTH < k) load(k0 + DEPTH);  // under way while the tensor cores work
#pragma unroll
    for (int d = 2 * t; d < DEPTH; d += 16) {
      uint32_t fa[4][4], fb[4][2];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int r = row0 + 16 * i + g;
        fa[i][0] = left.pair(a, r, d), fa[i][1] = left.pair(a, r + 8, d);
        fa[i][2] = left.pair(a, r, d + 8), fa[i][3] = left.pair(a, r + 8, d + 8);
      }
#pragma unroll
      for (int j = 0; j < 4; j++) {
        int q = column0 + 8 * j + g;
        fb[j][0] = right.pair(b, q, d), fb[j][1] = right.pair(b, q, d + 8);
      }
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) mma(sum[i][j], fa[i], fb[j]);
    }
    __syncthreads();
  }
  store_sums(sum, target, prior, row + row0 + g, column + column0 + 2 * t, m, n);
}

// ---- few rows ----------------------------------------------------------------------------------------------------

constexpr int FEW = 128;                  // rows of decode steps
constexpr int WARPS = THREADS / 32, COLUMNS = 32, STEP = COLUMNS + 8;

// A block makes 16·TILES rows × 32 columns, two panels. Its warps share k out, so that as much of the weight is under way as if
// there were eight times as many columns, and add up at the end, in their order.
template <int TILES>
__global__ void __launch_bounds__(THREADS)
    few_rows_kernel(const bf16* x, const bf16* w, Target target, long m, long n, long k) {
  constexpr int STAGE = DEPTH * STEP, SUMS = TILES * 16 * COLUMNS;
  __shared__ __align__(16) float shared[WARPS * (SUMS > STAGE / 2 ? SUMS : STAGE / 2)];
  int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32), g = lane / 4, t = lane % 4;
  long row = long(blockIdx.y) * 16 * TILES, column = long(blockIdx.x) * COLUMNS, width = parts(n, 16) * 16;
  bf16* mine = reinterpret_cast<bf16*>(shared) + warp * STAGE;
  float sum[TILES][4][4] = {};
  uint4 next[4];
  // Eight of 32 × 32 numbers: half a row of a panel.
  auto load = [&](long k0) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
      long i = lane + 32 * e, at = column + i / 64 * 16, depth = k0 + i / 2 % 32;
      next[e] = at < width && depth < k ? *reinterpret_cast<const uint4*>(w + at * k + 16 * depth + i % 2 * 8) : uint4{0, 0, 0, 0};
    }
  };
  long first = long(warp) * DEPTH, stride = long(WARPS) * DEPTH;
  load(first);
  for (long k0 = first; k0 < k; k0 += stride) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
      int i = lane + 32 * e;
      *reinterpret_cast<uint4*>(mine + i / 2 % 32 * STEP + i / 64 * 16 + i % 2 * 8) = next[e];
    }
    __syncwarp();
    if (k0 + stride < k) load(k0 + stride);
#pragma unroll
    for (int d = 2 * t; d < DEPTH; d += 16) {
      auto pair = [&](long r, long depth) { return r < m && depth < k ? pair_at(x + r * k + depth) : 0u; };
      uint32_t fb[4][2];
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const uint16_t* low = reinterpret_cast<const uint16_t*>(mine) + (d + 8 * h) * STEP + 8 * j + g;
          fb[j][h] = low[0] | uint32_t(low[STEP]) << 16;
        }
#pragma unroll
      for (int i = 0; i < TILES; i++) {
        long r = row + 16 * i + g;
        uint32_t fa[4] = {pair(r, k0 + d), pair(r + 8, k0 + d), pair(r, k0 + d + 8), pair(r + 8, k0 + d + 8)};
#pragma unroll
        for (int j = 0; j < 4; j++) mma(sum[i][j], fa, fb[j]);
      }
    }
    __syncwarp();
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < TILES; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        shared[warp * SUMS + (16 * i + g + (e >= 2 ? 8 : 0)) * COLUMNS + 8 * j + 2 * t + e % 2] = sum[i][j][e];
  __syncthreads();
  for (int e = int(threadIdx.x); e < TILES * 16 * COLUMNS; e += THREADS) {
    long r = row + e / COLUMNS, q = column + e % COLUMNS;
    if (r >= m || q >= n) continue;
    float s = shared[e];
    for (int from = 1; from < WARPS; from++) s = s + shared[from * SUMS + e];
    target.p.set(place(target, r, q), s);
  }
}

bool in_eights(Numbers p) { return p.half && reinterpret_cast<uintptr_t>(p.p) % 16 == 0; }

}  // namespace

bool multiply_half(Call& c, Left left, Right right, Target target, Numbers prior, long m, long n, long k) {
  if (!in_eights(left.p) || !in_eights(right.p)) return false;
  const bf16 *x = static_cast<const bf16*>(left.p.p), *w = static_cast<const bf16*>(right.p.p);
  bool rows = left.column == 1 && left.row % 8 == 0 && k % 8 == 0;
  if (rows && left.row == k && right.form == Right::panels && !prior.p && !target.panels && m <= FEW) {
    unsigned columns = unsigned(parts(n, COLUMNS));
    if (m <= 16) launch(c, few_rows_kernel<1>, dim3(columns, 1), THREADS, 0, x, w, target, m, n, k);
    else launch(c, few_rows_kernel<2>, dim3(columns, unsigned(parts(m, 32))), THREADS, 0, x, w, target, m, n, k);
    return true;
  }
  dim3 blocks(unsigned(parts(n, TILE)), unsigned(parts(m, TILE)));
  auto run = [&](auto kernel, auto a, auto b) { launch(c, kernel, blocks, THREADS, 0, a, b, target, prior, m, n, k); };
  const Operand8<Lie::along> a{x, left.row, m};
  bool right_across = right.form == Right::rows && right.ld % 8 == 0 && n % 8 == 0;
  if (rows && right.form == Right::panels) {
    run(multiply_half_kernel<Lie::along, Lie::panels>, a, Operand8<Lie::panels>{w, right.ld, parts(n, 16) * 16});
  } else if (rows && right.form == Right::transposed) {
    run(multiply_half_kernel<Lie::along, Lie::transposed>, a, Operand8<Lie::transposed>{w, right.ld, n});
  } else if (rows && right.form == Right::columns && right.ld % 8 == 0) {
    run(multiply_half_kernel<Lie::along, Lie::along>, a, Operand8<Lie::along>{w, right.ld, n});
  } else if (rows && right_across) {
    run(multiply_half_kernel<Lie::along, Lie::across>, a, Operand8<Lie::across>{w, right.ld, n});
  } else if (left.row == 1 && left.column % 8 == 0 && m % 8 == 0 && right_across) {
    run(multiply_half_kernel<Lie::across, Lie::across>, Operand8<Lie::across>{x, left.column, m},
        Operand8<Lie::across>{w, right.ld, n});
  } else {
    return false;
  }
  return true;
}

}  // namespace baton

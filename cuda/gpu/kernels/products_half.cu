// Matrix products on tensor cores of operands that are bf16 in memory, with fp32 sums. Numbers go from memory to shared memory sixteen
// bytes at a time, several tiles ahead of the tensor cores (cp.async), as they lie: along k where k is what is contiguous, across it
// otherwise; `ldmatrix` puts fragments together from either. Weights in panels are for products_bf16.cu: on GPUs they lie in rows.
#include "fragments.cuh"
#include "operands.cuh"

namespace baton {
namespace {

constexpr int TILE = 128, DEPTH = 32, THREADS = 256, STAGES = 4;  // of rows and of columns, and steps of k at once
constexpr int EIGHTS = TILE * DEPTH / 8 / THREADS;                // of an operand, for each thread
// Rows of shared memory are padded, so that the eight of a matrix fall into different banks.
constexpr int ALONG_K = DEPTH + 8, ACROSS_K = TILE + 8;
constexpr int SHARED = TILE * ALONG_K > DEPTH * ACROSS_K ? TILE * ALONG_K : DEPTH * ACROSS_K;

// Rows of the left operand or columns of the right one: step k of one is at p[i·ld + k], or at p[k·ld + i] across.
template <bool ALONG>
struct Side {
  const bf16* p;
  long ld, limit;  // numbers outside k and the limit of the other dim are zero

  // Place in a tile of the eight numbers with this index: neighbours in memory for neighbours in the block.
  __device__ static int other(int i) { return ALONG ? i / (DEPTH / 8) : i % (TILE / 8) * 8; }
  __device__ static int depth(int i) { return ALONG ? i % (DEPTH / 8) * 8 : i / (TILE / 8); }
  __device__ void fetch(bf16* shared, int i, long first, long k0, long k) const {
    long o = first + other(i), d = k0 + depth(i);
    bool live = o < limit && d < k;
    const bf16* from = live ? p + (ALONG ? o * ld + d : d * ld + o) : p;
    copy_beside(shared + (ALONG ? other(i) * ALONG_K + depth(i) : depth(i) * ACROSS_K + other(i)), from, live);
  }
  // From row or column `o` and step `d` on: a left operand, or two right ones.
  __device__ static void left(uint32_t (&out)[4], const bf16* shared, int o, int d) {
    if (ALONG) load_left(out, shared + o * ALONG_K + d, ALONG_K);
    else load_left_turned(out, shared + d * ACROSS_K + o, ACROSS_K);
  }
  __device__ static void right(uint32_t (&out)[4], const bf16* shared, int o, int d) {
    if (ALONG) load_right(out, shared + o * ALONG_K + d, ALONG_K);
    else load_right_turned(out, shared + d * ACROSS_K + o, ACROSS_K);
  }
};

// A warp makes 64 rows × 32 columns: 4 × 4 products of 16 × 8.
template <bool LEFT, bool RIGHT>
__global__ void __launch_bounds__(THREADS)
    multiply_half_kernel(Side<LEFT> left, Side<RIGHT> right, Target target, Numbers prior, long m, long n, long k) {
  DYNAMIC_SHARED(bf16, shared);
  int tid = int(threadIdx.x), lane = tid % 32, warp = tid / 32, g = lane / 4, t = lane % 4;
  int row0 = warp / 4 * 64, column0 = warp % 4 * 32;
  long row = long(blockIdx.y) * TILE, column = long(blockIdx.x) * TILE, steps = parts(k, DEPTH);
  float sum[4][4][4] = {};
  auto fetch = [&](long step) {
    bf16* a = shared + step % STAGES * 2 * SHARED;
    if (step < steps)
#pragma unroll
      for (int e = 0; e < EIGHTS; e++) {
        left.fetch(a, tid + e * THREADS, row, step * DEPTH, k);
        right.fetch(a + SHARED, tid + e * THREADS, column, step * DEPTH, k);
      }
    commit_copies();
  };
  for (long step = 0; step < STAGES - 1; step++) fetch(step);
  for (long step = 0; step < steps; step++) {
    wait_for_copies<STAGES - 2>();
    __syncthreads();
    fetch(step + STAGES - 1);  // where all have read what was there
    const bf16 *a = shared + step % STAGES * 2 * SHARED, *b = a + SHARED;
#pragma unroll
    for (int d = 0; d < DEPTH; d += 16) {
      uint32_t fa[4][4], fb[2][4];
#pragma unroll
      for (int i = 0; i < 4; i++) Side<LEFT>::left(fa[i], a, row0 + 16 * i, d);
#pragma unroll
      for (int j = 0; j < 2; j++) Side<RIGHT>::right(fb[j], b, column0 + 16 * j, d);
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 2; j++) mma_pair(sum[i][2 * j], sum[i][2 * j + 1], fa[i], fb[j]);
    }
  }
  store_sums(sum, target, prior, row + row0 + g, column + column0 + 2 * t, m, n);
}

}  // namespace

bool multiply_half(Call& c, Left left, Right right, Target target, Numbers prior, long m, long n, long k) {
  if (!in_eights(left.p) || !in_eights(right.p) || right.ld % 8 || (right.form != Right::columns && right.form != Right::rows)) return false;
  bool along = left.column == 1 && left.row % 8 == 0 && k % 8 == 0, across = left.row == 1 && left.column % 8 == 0 && m % 8 == 0;
  bool of_columns = right.form == Right::columns && k % 8 == 0, of_rows = right.form == Right::rows && n % 8 == 0;
  const bf16 *x = static_cast<const bf16*>(left.p.p), *w = static_cast<const bf16*>(right.p.p);
  dim3 blocks(unsigned(parts(n, TILE)), unsigned(parts(m, TILE)));
  auto run = [&](auto kernel, auto a, auto b) {
    launch(c, kernel, blocks, THREADS, STAGES * 2 * SHARED * sizeof(bf16), a, b, target, prior, m, n, k);
  };
  const Side<true> rows{x, left.row, m}, columns{w, right.ld, n};
  const Side<false> rows_across{x, left.column, m}, columns_across{w, right.ld, n};
  if (along && of_columns) run(multiply_half_kernel<true, true>, rows, columns);
  else if (along && of_rows) run(multiply_half_kernel<true, false>, rows, columns_across);
  else if (across && of_rows) run(multiply_half_kernel<false, false>, rows_across, columns_across);
  else return false;
  return true;
}

}  // namespace baton

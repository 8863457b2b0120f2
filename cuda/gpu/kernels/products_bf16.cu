// Matrix products on tensor cores of operands of any type and size: fp32 ones are rounded to bf16 on their way into shared memory,
// sums are fp32. Reads weights as they lie. What is bf16 already is faster in products_half.cu.
#include "mma.cuh"
#include "operands.cuh"

namespace baton {
namespace {

constexpr int TILE_M = 128, TILE_N = 128, DEPTH = 32, STEP = DEPTH + 8;  // STEP: rows of a fragment fall into different banks
constexpr int THREADS = 256, EACH = TILE_M * DEPTH / THREADS;
static_assert(TILE_M == TILE_N, "both operands are loaded alike");

// What a thread loads of a tile: element i of EACH is at place (along, depth), neighbours in memory for neighbours in the block.
enum class Order { depth_first, along_first, panels };

template <Order ORDER>
struct Spots {
  int along0, depth0;
  __device__ explicit Spots(int tid)
      : along0(ORDER == Order::depth_first ? tid / DEPTH : ORDER == Order::panels ? tid / 16 : tid % TILE_M),
        depth0(ORDER == Order::depth_first ? tid % DEPTH : ORDER == Order::panels ? tid % 16 : tid / TILE_M) {}
  // Transposed panels hold 16 steps of k side by side, then the next column.
  __device__ int along(int i) const {
    return along0 + (ORDER == Order::depth_first ? i * (THREADS / DEPTH) : ORDER == Order::panels ? i % 8 * 16 : 0);
  }
  __device__ int depth(int i) const {
    return depth0 + (ORDER == Order::depth_first ? 0 : ORDER == Order::panels ? i / 8 * 16 : i * (THREADS / TILE_M));
  }
};

// A warp makes 64 rows × 32 columns: 4 × 4 products of 16 × 8.
template <Order LEFT, Right::Form FORM>
__global__ void __launch_bounds__(THREADS)
    multiply_bf16_kernel(Left left, Right right, Target target, Numbers prior, long m, long n, long k) {
  __shared__ bf16 a[TILE_M][STEP], b[TILE_N][STEP];
  int tid = int(threadIdx.x), lane = tid % 32, warp = tid / 32, g = lane / 4, t = lane % 4;
  int row0 = warp / 4 * 64, column0 = warp % 4 * 32;
  long row = long(blockIdx.y) * TILE_M, column = long(blockIdx.x) * TILE_N;
  Spots<LEFT> of_a(tid);
  Spots<FORM == Right::transposed ? Order::panels : FORM == Right::columns ? Order::depth_first : Order::along_first> of_b(tid);
  float sum[4][4][4] = {}, next_a[EACH], next_b[EACH];
  auto load = [&](long k0) {
    int depth = int(smaller(k - k0, DEPTH)), rows = int(smaller(m - row, TILE_M)), columns = int(smaller(n - column, TILE_N));
    const Right form{FORM, right.p, right.ld};
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      int r = of_a.along(i), d = of_a.depth(i);
      next_a[i] = r < rows && d < depth ? element(left, row + r, k0 + d) : 0.f;
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      int q = of_b.along(i), d = of_b.depth(i);
      next_b[i] = q < columns && d < depth ? element(form, k0 + d, column + q) : 0.f;
    }
  };
  auto store = [&] {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      a[of_a.along(i)][of_a.depth(i)] = __float2bfloat16_rn(next_a[i]);
      b[of_b.along(i)][of_b.depth(i)] = __float2bfloat16_rn(next_b[i]);
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
  store_sums(sum, target, prior, row + row0 + g, column + column0 + 2 * t, m, n);
}

}  // namespace

void multiply_bf16(Call& c, Left left, Right right, Target target, Numbers prior, long m, long n, long k) {
  dim3 blocks(unsigned(parts(n, TILE_N)), unsigned(parts(m, TILE_M)));
  auto run = [&](auto kernel) { launch(c, kernel, blocks, THREADS, 0, left, right, target, prior, m, n, k); };
  auto with = [&](auto order) {
    constexpr Order LEFT = decltype(order)::value;
    if (right.form == Right::rows) run(multiply_bf16_kernel<LEFT, Right::rows>);
    else if (right.form == Right::columns) run(multiply_bf16_kernel<LEFT, Right::columns>);
    else if (right.form == Right::panels) run(multiply_bf16_kernel<LEFT, Right::panels>);
    else run(multiply_bf16_kernel<LEFT, Right::transposed>);
  };
  if (left.column == 1) with(std::integral_constant<Order, Order::depth_first>());
  else with(std::integral_constant<Order, Order::along_first>());
}

}  // namespace baton

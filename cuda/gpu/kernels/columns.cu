// Sums over rows, column by column: gradients of what all rows share. In the CPU's order they are one chain a column; elsewhere
// rows are cut into parts that are summed side by side, and the parts are added in their order.
#include "packs.cuh"

namespace baton {
namespace {

constexpr int LANES = 32, ROWS = 8;  // threads of a block beside and below one another

__device__ inline float term(const Numbers& x, const Numbers& y, const float* scale, long i, long at) {
  return y.p ? x[at] * (y[at] * scale[i]) : x[at];
}

// Rows in order: a thread owns a column.
__global__ void chain_kernel(Numbers x, Numbers y, const float* scale, long m, long h, Numbers prior, OutNumbers out) {
  for (long j = first_index(); j < h; j += index_step()) {
    float s = prior.p ? prior[j] : 0.f;
    for (long i = 0; i < m; i++) s = s + term(x, y, scale, i, i * h + j);
    out.set(j, s);
  }
}

// A thread takes PER columns of every eighth row of a part.
template <class T, int PER>
__global__ void __launch_bounds__(LANES* ROWS)
    part_kernel(const T* x, const T* y, const float* scale, long m, long h, float* sums) {
  __shared__ float all[ROWS][LANES][PER];
  int lane = int(threadIdx.x % LANES), mine = int(threadIdx.x / LANES);
  long j = (long(blockIdx.x) * LANES + lane) * PER, each = parts(m, gridDim.y), begin = blockIdx.y * each;
  float sum[PER] = {};
  if (j < h)
#pragma unroll 4
    for (long i = begin + mine; i < smaller(m, begin + each); i += ROWS) {
      float a[PER], b[PER];
      read<PER>(x + i * h + j, a);
      if (y) read<PER>(y + i * h + j, b);
#pragma unroll
      for (int e = 0; e < PER; e++) sum[e] = sum[e] + (y ? a[e] * (b[e] * scale[i]) : a[e]);
    }
  for (int e = 0; e < PER; e++) all[mine][lane][e] = sum[e];
  __syncthreads();
  if (mine != 0 || j >= h) return;
  for (int e = 0; e < PER; e++) {
    float s = 0;
    for (int r = 0; r < ROWS; r++) s = s + all[r][lane][e];
    sums[blockIdx.y * h + j + e] = s;
  }
}

__global__ void __launch_bounds__(LANES* ROWS) add_parts_kernel(const float* sums, long count, long h, Numbers prior, OutNumbers out) {
  __shared__ float all[ROWS][LANES];
  int lane = int(threadIdx.x % LANES), mine = int(threadIdx.x / LANES);
  long j = long(blockIdx.x) * LANES + lane;
  float s = 0;
  if (j < h)
#pragma unroll 8
    for (long i = mine; i < count; i += ROWS) s = s + sums[i * h + j];
  all[mine][lane] = s;
  __syncthreads();
  if (mine != 0 || j >= h) return;
  s = 0;
  for (int r = 0; r < ROWS; r++) s = s + all[r][lane];
  out.set(j, (prior.p ? prior[j] : 0.f) + s);
}

}  // namespace

void add_parts(Call& c, const float* sums, long count, long h, Numbers prior, OutNumbers out) {
  launch(c, add_parts_kernel, dim3(unsigned(parts(h, LANES))), LANES * ROWS, 0, sums, count, h, prior, out);
}

void sum_columns(Call& c, Numbers x, Numbers y, const float* scale, long m, long h, Numbers prior, OutNumbers out) {
  float* sums = reinterpret_cast<float*>(c.scratch);
  long count = smaller(smaller(MOST_PARTS, parts(m, 2 * ROWS)), long(SCRATCH_BYTES / 4) / larger(h, 1));
  if (!on_tensor_cores(x.half) || m == 0 || count < 2) {
    launch(c, chain_kernel, dim3(blocks_of(h, 64)), 64, 0, x, y, scale, m, h, prior, out);
    return;
  }
  auto run = [&](auto type) {
    typedef decltype(type) T;
    const T *a = static_cast<const T*>(x.p), *b = static_cast<const T*>(y.p);
    auto sum = [&](auto kernel, int per) {
      long beside = parts(h, LANES * per);
      count = larger(1, smaller(count, 2048 / beside));
      launch(c, kernel, dim3(unsigned(beside), unsigned(count)), LANES * ROWS, 0, a, b, scale, m, h, sums);
    };
    if (h % WIDE<T> == 0 && aligned(a, b)) sum(part_kernel<T, WIDE<T>>, WIDE<T>);
    else sum(part_kernel<T, 1>, 1);
  };
  if (x.half) run(bf16());
  else run(float());
  add_parts(c, sums, count, h, prior, out);
}

}  // namespace baton

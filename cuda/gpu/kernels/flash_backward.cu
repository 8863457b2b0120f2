// Gradients of attention over packed sequences of bf16 numbers: one kernel for queries and one for keys and values, so that nothing is
// added by atomics and the same inputs give the same bits. Scores are made in both, which are 7 products where 5 would do.
#include "../runtime.h"
#include "flash.cuh"

namespace baton {
namespace {

using namespace flash;

// Bytes of shared memory that a block may have: 227 KB on an H100, 163 on an A100, 99 on smaller cards.
size_t shared_memory(const GpuDevice& device) {
  thread_local std::map<int, size_t> known;
  size_t& bytes = known[device.gpu()];
  cudaDeviceProp properties;
  if (!bytes && cudaGetDeviceProperties(&properties, device.gpu()) == cudaSuccess) bytes = properties.sharedMemPerBlockOptin;
  return bytes;
}

// ---- by the query: a warp has 32 queries and walks over tiles of keys -------------------------------------------------

namespace by_query {

constexpr int WARPS = 4, THREADS = 32 * WARPS, ROWS = OWN * WARPS, TILE = 32, TILES = TILE / 8;

// Queries, their dO, and two stages of keys and values: one arrives while the other is worked on.
template <int D>
constexpr size_t SHARED = size_t(2 * ROWS + 4 * TILE) * SHARED_STEP<D> * 2;

template <int D>
__global__ void __launch_bounds__(THREADS)
    flash_dq_kernel(Reporter r, AttentionShapes shapes, AttentionGradient<bf16> x, const int* ends, bf16* dq) {
  constexpr int STEP = SHARED_STEP<D>;
  __shared__ int from[ROWS];
  DYNAMIC_SHARED(bf16, queries);
  bf16 *grads = queries + ROWS * STEP, *stages = grads + ROWS * STEP;
  if (r.faulty()) return;
  Shapes z(shapes);
  int head = int(blockIdx.x), row = int(gridDim.y - 1 - blockIdx.y) * ROWS, own = row + int(threadIdx.x) / 32 * OWN;
  int g = int(threadIdx.x % 32) / 4, t = int(threadIdx.x % 4), kv_step = z.kv * z.d, q_step = z.heads * z.d;
  long at = shapes.key(0, shapes.kv_head(head)), mine = (long(row) * z.heads + head) * z.d;
  int last = int(smaller(z.tokens, row + ROWS)), first = first_key(shapes, ends, row);
  float unit = z.scale * LOG2_E, lse[FRAGMENTS][2], delta[FRAGMENTS][2];
  from[threadIdx.x] = first_key(shapes, ends, row + threadIdx.x);
  const int* sees_from = from + (own - row);
  for (int i = 0; i < FRAGMENTS; i++)
    for (int h = 0; h < 2; h++) {
      long token = own + 16 * i + 8 * h + g;
      lse[i][h] = token < z.tokens ? x.lse[token * z.heads + head] * LOG2_E : 0.f;
      delta[i][h] = token < z.tokens ? x.delta[token * z.heads + head] : 0.f;
    }

  auto copy_tile = [&](int base, int stage) {
    bf16* keys = stages + stage * 2 * TILE * STEP;
    long place = at + long(base) * kv_step;
    copy_rows_beside<TILE, D, THREADS>(keys, x.k + place, kv_step, last - base, z.d);
    copy_rows_beside<TILE, D, THREADS>(keys + TILE * STEP, x.v + place, kv_step, last - base, z.d);
    commit_copies();
  };
  copy_rows_beside<ROWS, D, THREADS>(queries, x.q + mine, q_step, last - row, z.d);
  copy_rows_beside<ROWS, D, THREADS>(grads, x.dO + mine, q_step, last - row, z.d);
  copy_tile(first, 0);
  float sum[FRAGMENTS][D / 8][4] = {};
  for (int base = first, stage = 0; base < last; base += TILE, stage ^= 1) {
    wait_for_copies();
    __syncthreads();
    if (base + TILE < last) copy_tile(base + TILE, stage ^ 1);
    if (base >= own + OWN || base + TILE <= sees_from[0]) continue;
    const bf16 *keys = stages + stage * 2 * TILE * STEP, *values = keys + TILE * STEP;
    float s[FRAGMENTS][TILES][4] = {}, d[FRAGMENTS][TILES][4] = {};
    rows_by_rows<D>(s, queries + (own - row) * STEP, keys);
    rows_by_rows<D>(d, grads + (own - row) * STEP, values);
    bool inside = base >= sees_from[OWN - 1] && base + TILE <= own + 1;
    if (!inside) mask_outside(s, [&](int mine) { return Span{sees_from[mine] - base, own + mine - base}; });
#pragma unroll
    for (int i = 0; i < FRAGMENTS; i++)
#pragma unroll
      for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)  // the scale comes once, at the end
          d[i][j][e] = power_2(fmaf(s[i][j][e], unit, -lse[i][e / 2])) * (d[i][j][e] - delta[i][e / 2]);
    weights_by_rows<D>(sum, d, keys);
  }
  float scale[FRAGMENTS][2];
  for (int i = 0; i < FRAGMENTS; i++) scale[i][0] = scale[i][1] = z.scale;
  store_rows(sum, dq + long(head) * z.d, q_step, own, z.tokens, z.d, scale);
}

}  // namespace by_query

// ---- by keys and values: four pairs of warps have 32 keys each, and walk over tiles of queries, head after head -----------
//
// The warps of a pair make the scores of half a tile's queries each, and hand weights on through shared memory: for the sums, which are
// over all queries, they have half of the columns each.

namespace by_key {

constexpr int PAIRS = 4, THREADS = 64 * PAIRS, ROWS = OWN * PAIRS, TILE = 64, HALF = TILE / 2, TILES = HALF / 8;
constexpr int WEIGHTS = SHARED_STEP<TILE>;

// Columns of a warp.
template <int D>
constexpr int COLUMNS = (D / 16 + 1) / 2 * 16;

// Keys and values, stages of queries, dO and what is known of their rows, and the weights.
template <int D, int STAGES>
constexpr size_t SHARED = size_t(2 * ROWS + STAGES * 2 * TILE) * SHARED_STEP<D> * 2 + STAGES * 2 * TILE * 4 + 2 * ROWS * WEIGHTS * 2;

// sum += w · rows, over a tile's queries and the columns of this warp; both lie in shared memory.
template <int D>
__device__ void add_rows(float (&sum)[FRAGMENTS][COLUMNS<D> / 8][4], const bf16* w, const bf16* rows, int column) {
  constexpr int STEP = SHARED_STEP<D>;
#pragma unroll
  for (int k = 0; k < TILE; k += 16) {
    uint32_t a[FRAGMENTS][4];
#pragma unroll
    for (int i = 0; i < FRAGMENTS; i++) load_left(a[i], w + 16 * i * WEIGHTS + k, WEIGHTS);
#pragma unroll
    for (int j = 0; j < COLUMNS<D> / 8; j += 2) {
      if (D % 32 && column + 8 * j >= D) break;  // the second warp may have fewer
      uint32_t b[4];
      load_right_turned(b, rows + k * STEP + column + 8 * j, STEP);
#pragma unroll
      for (int i = 0; i < FRAGMENTS; i++) mma_pair(sum[i][j], sum[i][j + 1], a[i], b);
    }
  }
}

template <int D, int STAGES>
__global__ void __launch_bounds__(THREADS)
    flash_dkv_kernel(Reporter r, AttentionShapes shapes, AttentionGradient<bf16> x, const int* ends, bf16* dk, bf16* dv) {
  constexpr int STEP = SHARED_STEP<D>;
  __shared__ int until[ROWS];
  DYNAMIC_SHARED(bf16, keys);
  bf16 *values = keys + ROWS * STEP, *stages = values + ROWS * STEP, *weights = stages + STAGES * 2 * TILE * STEP;
  bf16* slopes = weights + ROWS * WEIGHTS;
  float* known = reinterpret_cast<float*>(slopes + ROWS * WEIGHTS);
  if (r.faulty()) return;
  Shapes z(shapes);
  int kv = int(blockIdx.x), row = int(blockIdx.y) * ROWS, warp = int(threadIdx.x) / 32, half = warp % 2, part = warp / 2 * OWN;
  int own = row + part, group = z.heads / z.kv, kv_step = z.kv * z.d, q_step = z.heads * z.d;
  int g = int(threadIdx.x % 32) / 4, t = int(threadIdx.x % 4), last = int(smaller(z.tokens, row + ROWS));
  int end = last_query(shapes, ends, last - 1);
  if (int(threadIdx.x) < ROWS) until[threadIdx.x] = last_query(shapes, ends, row + threadIdx.x);
  const int* seen_until = until + part;

  // The queries of tile n, which are of a head of the group.
  int tiles = (end - row + TILE - 1) / TILE;
  float unit = z.scale * LOG2_E;
  auto copy_tile = [&](int n, int stage) {
    int head = kv * group + n / tiles, base = row + n % tiles * TILE;
    bf16* to = stages + stage * 2 * TILE * STEP;
    long place = (long(base) * z.heads + head) * z.d;
    copy_rows_beside<TILE, D, THREADS>(to, x.q + place, q_step, end - base, z.d);
    copy_rows_beside<TILE, D, THREADS>(to + TILE * STEP, x.dO + place, q_step, end - base, z.d);
    commit_copies();
    if (int(threadIdx.x) < TILE) {
      long token = base + threadIdx.x;
      bool live = token < end;
      float* of = known + stage * 2 * TILE + threadIdx.x;
      of[0] = live ? x.lse[token * z.heads + head] * LOG2_E : 0.f;
      of[TILE] = live ? x.delta[token * z.heads + head] : 0.f;
    }
  };
  long mine = (long(row) * z.kv + kv) * z.d;
  copy_rows_beside<ROWS, D, THREADS>(keys, x.k + mine, kv_step, last - row, z.d);
  copy_rows_beside<ROWS, D, THREADS>(values, x.v + mine, kv_step, last - row, z.d);
  copy_tile(0, 0);
  float sum_k[FRAGMENTS][COLUMNS<D> / 8][4] = {}, sum_v[FRAGMENTS][COLUMNS<D> / 8][4] = {};
  for (int n = 0; n < tiles * group; n++) {
    int stage = n % STAGES, base = row + n % tiles * TILE + half * HALF;  // the queries of this warp's scores
    wait_for_copies();
    __syncthreads();
    if (STAGES > 1 && n + 1 < tiles * group) copy_tile(n + 1, stage ^ 1);
    const bf16 *queries = stages + stage * 2 * TILE * STEP, *grads = queries + TILE * STEP;
    float s[FRAGMENTS][TILES][4] = {}, d[FRAGMENTS][TILES][4] = {};
    bool sees = base + HALF > own && base < end;
    if (sees) {
      rows_by_rows<D>(s, keys + part * STEP, queries + half * HALF * STEP);
      rows_by_rows<D>(d, values + part * STEP, grads + half * HALF * STEP);
    }
    bool inside = base + 1 >= own + OWN && base + HALF <= seen_until[0];
    if (!inside) mask_outside(s, [&](int mine) { return Span{own + mine - base, seen_until[mine] - 1 - base}; });
    const float *lse = known + stage * 2 * TILE + half * HALF + 2 * t, *delta = lse + TILE;
    int place = (part + g) * WEIGHTS + half * HALF + 2 * t;
#pragma unroll
    for (int j = 0; j < TILES; j++) {
      float2 level = *reinterpret_cast<const float2*>(lse + 8 * j), less = *reinterpret_cast<const float2*>(delta + 8 * j);
#pragma unroll
      for (int i = 0; i < FRAGMENTS; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
          float p0 = power_2(fmaf(s[i][j][2 * h], unit, -level.x)), p1 = power_2(fmaf(s[i][j][2 * h + 1], unit, -level.y));
          int to = place + (16 * i + 8 * h) * WEIGHTS + 8 * j;
          *reinterpret_cast<uint32_t*>(weights + to) = pair_of(p0, p1);
          *reinterpret_cast<uint32_t*>(slopes + to) = pair_of(p0 * (d[i][j][2 * h] - less.x), p1 * (d[i][j][2 * h + 1] - less.y));
        }
    }
    __syncthreads();
    int column = half * COLUMNS<D>;
    add_rows<D>(sum_v, weights + part * WEIGHTS, grads, column);
    add_rows<D>(sum_k, slopes + part * WEIGHTS, queries, column);
    if (STAGES == 1 && n + 1 < tiles * group) {
      __syncthreads();
      copy_tile(n + 1, 0);
    }
  }
  float one[FRAGMENTS][2], scale[FRAGMENTS][2];
  for (int i = 0; i < FRAGMENTS; i++)
    for (int h = 0; h < 2; h++) one[i][h] = 1, scale[i][h] = z.scale;
  long place = long(kv) * z.d + half * COLUMNS<D>;
  int columns = z.d - half * COLUMNS<D>;
  store_rows(sum_k, dk + place, kv_step, own, z.tokens, columns, scale);
  store_rows(sum_v, dv + place, kv_step, own, z.tokens, columns, one);
}

}  // namespace by_key

}  // namespace

bool flash_attention_grad(Call& c, const AttentionShapes& z, const AttentionGradient<bf16>& x, const int* ends, bf16* dq, bf16* dk,
                          bf16* dv) {
  if (!in_pieces(z, {x.q, x.k, x.v, x.dO, dq, dk, dv})) return false;
  size_t room = shared_memory(*c.device);
  bool fits = false;
  by_head_size(z.d, [&](auto size) {
    constexpr int D = decltype(size)::value;
    unsigned queries = unsigned(parts(z.tokens, by_query::ROWS)), keys = unsigned(parts(z.tokens, by_key::ROWS));
    fits = by_query::SHARED<D> <= room && by_key::SHARED<D, 1> <= room;
    if (!fits) return;
    launch(c, by_query::flash_dq_kernel<D>, dim3(unsigned(z.heads), queries), by_query::THREADS, by_query::SHARED<D>, reporter(c), z, x,
           ends, dq);
    auto run = [&](auto kernel, size_t shared) {
      launch(c, kernel, dim3(unsigned(z.kv), keys), by_key::THREADS, shared, reporter(c), z, x, ends, dk, dv);
    };
    if (by_key::SHARED<D, 2> <= room) run(by_key::flash_dkv_kernel<D, 2>, by_key::SHARED<D, 2>);
    else run(by_key::flash_dkv_kernel<D, 1>, by_key::SHARED<D, 1>);
  });
  return fits;
}

}  // namespace baton

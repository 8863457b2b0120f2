// Attention over packed sequences of bf16 numbers, in the blocked form of Dao 2023 (FlashAttention-2): a block has 128 queries of a
// head, a warp 32 of them, and walks over tiles of keys. Keys of the next tile arrive while values are summed, values while scores
// are made. Rows come through cp.async and ldmatrix, sums stay in registers, and only tiles at an edge are masked.
#include "flash.cuh"

namespace baton {
namespace {

using namespace flash;

constexpr int WARPS = 4, THREADS = 32 * WARPS, ROWS = OWN * WARPS;

constexpr int TILE = 64, TILES = TILE / 8;  // of keys
template <int D>
constexpr size_t SHARED = size_t(ROWS + 2 * TILE) * SHARED_STEP<D> * 2;

// What a lane knows of its four rows: row + 16 i + 8 h.
struct Softmax {
  float top[FRAGMENTS][2], total[FRAGMENTS][2];
  __device__ Softmax() {
    for (int i = 0; i < FRAGMENTS; i++)
      for (int h = 0; h < 2; h++) top[i][h] = -INF, total[i][h] = 0;
  }

  // Turns scores into weights, and shrinks what was summed under a smaller maximum. Scores are in units of `unit` powers of 2.
  template <int TILES, int OUT>
  __device__ void step(float (&s)[FRAGMENTS][TILES][4], float (&sum)[FRAGMENTS][OUT][4], float unit) {
#pragma unroll
    for (int i = 0; i < FRAGMENTS; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float peak = top[i][h];
#pragma unroll
        for (int j = 0; j < TILES; j++) peak = fmaxf(fmaxf(s[i][j][2 * h], s[i][j][2 * h + 1]), peak);
        peak = fmaxf(peak, __shfl_xor_sync(ALL, peak, 1));
        peak = fmaxf(peak, __shfl_xor_sync(ALL, peak, 2));
        // A row that has seen nothing yet has no maximum: its weights are 0.
        float level = peak == -INF ? 0.f : peak * unit, shrink = power_2(fmaf(top[i][h], unit, -level)), added = 0;
        top[i][h] = peak;
#pragma unroll
        for (int j = 0; j < TILES; j++)
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; e++) {
            s[i][j][e] = power_2(fmaf(s[i][j][e], unit, -level));
            added = added + s[i][j][e];
          }
        total[i][h] = fmaf(total[i][h], shrink, added);  // of this lane's keys
#pragma unroll
        for (int j = 0; j < OUT; j++) sum[i][j][2 * h] = sum[i][j][2 * h] * shrink, sum[i][j][2 * h + 1] = sum[i][j][2 * h + 1] * shrink;
      }
  }
};

template <int D>
__global__ void __launch_bounds__(THREADS)
    flash_kernel(Reporter r, AttentionShapes shapes, const bf16* q, const bf16* k, const bf16* v, const int* ends, bf16* o, float* lse) {
  constexpr int STEP = SHARED_STEP<D>;
  __shared__ int from[ROWS];
  DYNAMIC_SHARED(bf16, queries);
  bf16 *keys = queries + ROWS * STEP, *values = keys + TILE * STEP;
  if (r.faulty()) return;
  Shapes z(shapes);
  // Rows with many keys begin first.
  int head = int(blockIdx.x), row = int(gridDim.y - 1 - blockIdx.y) * ROWS, own = row + int(threadIdx.x) / 32 * OWN;
  int g = int(threadIdx.x % 32) / 4, t = int(threadIdx.x % 4), kv_step = z.kv * z.d, q_step = z.heads * z.d;
  const bf16 *my_keys = k + shapes.key(0, shapes.kv_head(head)), *my_values = v + shapes.key(0, shapes.kv_head(head));
  int last = int(smaller(z.tokens, row + ROWS)), first = first_key(shapes, ends, row);
  from[threadIdx.x] = first_key(shapes, ends, row + threadIdx.x);
  auto copy_keys = [&](int base) {
    copy_rows_beside<TILE, D, THREADS>(keys, my_keys + long(base) * kv_step, kv_step, last - base, z.d);
    commit_copies();
  };
  copy_rows_beside<ROWS, D, THREADS>(queries, q + (long(row) * z.heads + head) * z.d, q_step, last - row, z.d);
  copy_keys(first);
  float sum[FRAGMENTS][D / 8][4] = {}, unit = z.scale * LOG2_E;
  Softmax softmax;
  const int* sees_from = from + (own - row);
  for (int base = first; base < last; base += TILE) {
    float s[FRAGMENTS][TILES][4] = {};
    wait_for_copies();
    __syncthreads();
    bool sees = base < own + OWN && base + TILE > sees_from[0];
    copy_rows_beside<TILE, D, THREADS>(values, my_values + long(base) * kv_step, kv_step, last - base, z.d);
    commit_copies();
    if (sees) {
      rows_by_rows<D>(s, queries + (own - row) * STEP, keys);
      bool inside = base >= sees_from[OWN - 1] && base + TILE <= own + 1;
      if (!inside) mask_outside(s, [&](int mine) { return Span{sees_from[mine] - base, own + mine - base}; });
      softmax.step(s, sum, unit);
    }
    wait_for_copies();
    __syncthreads();
    if (base + TILE < last) copy_keys(base + TILE);
    if (sees) weights_by_rows<D>(sum, s, values);
  }
  float scale[FRAGMENTS][2];
  for (int i = 0; i < FRAGMENTS; i++)
    for (int h = 0; h < 2; h++) {
      float total = softmax.total[i][h];
      total = total + __shfl_xor_sync(ALL, total, 1);
      total = total + __shfl_xor_sync(ALL, total, 2);
      int token = own + 16 * i + 8 * h + g;
      if (t == 0 && token < z.tokens) lse[long(token) * z.heads + head] = fmaf(softmax.top[i][h], z.scale, log_of(total));
      scale[i][h] = 1.f / total;
    }
  store_rows(sum, o + long(head) * z.d, q_step, own, z.tokens, z.d, scale);
}

}  // namespace

bool flash_attention(Call& c, const AttentionShapes& z, const bf16* q, const bf16* k, const bf16* v, const int* ends, bf16* o, float* lse) {
  if (!in_pieces(z, {q, k, v, o})) return false;
  by_head_size(z.d, [&](auto size) {
    constexpr int D = decltype(size)::value;
    launch(c, flash_kernel<D>, dim3(unsigned(z.heads), unsigned(parts(z.tokens, ROWS))), THREADS, SHARED<D>, reporter(c), z, q, k, v, ends,
           o, lse);
  });
  return true;
}

}  // namespace baton

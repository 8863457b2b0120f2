// Attention of fp32 numbers on tensor cores, forward and backward, in the blocked form of Dao et al. 2022: scores exist one tile at a time. Tiles
// are cut from the packed tokens; what a row does not see, of its own sequence or of another one, is masked.
//
// A warp holds 16 rows. Products that contract over the head size take both operands as rows in shared memory; those that contract
// over a tile's keys (or queries) take the weights from the registers in which they were made, and the other operand transposed.
#include "flash.cuh"

namespace baton {
namespace {

using flash::LN_2;
using flash::LOG2_E;
using flash::power_2;

constexpr int WARPS = 4, THREADS = 32 * WARPS, ROWS = 16 * WARPS;

// Columns of a row in shared memory and of a transposed tile: padded, so that rows of a fragment fall into different banks.
template <int D>
constexpr int STEP = D + 8;
template <int N>
constexpr int TURNED = N + 8;

// Rows of [token, width] as bf16, zero past the live rows and the head size; and the same transposed.
template <int N, int D>
__device__ void load_tile(const float* from, long row_step, long live, long d, bf16* rows, bf16* turned) {
  for (int e = int(threadIdx.x); e < N * D; e += THREADS) {
    int row = e / D, column = e % D;
    bf16 v = stored<bf16>(row < live && column < d ? from[row * row_step + column] : 0.f);
    if (rows) rows[row * STEP<D> + column] = v;
    if (turned) turned[column * TURNED<N> + row] = v;
  }
}

// sum[j] += a (16 rows of D) · b (8·TILES rows of D)ᵀ
template <int TILES, int D>
__device__ void rows_by_rows(float (&sum)[TILES][4], const bf16* a, const bf16* b) {
  int lane = int(threadIdx.x % 32), g = lane / 4, t = lane % 4;
#pragma unroll
  for (int d = 0; d < D; d += 16) {
    const bf16 *p = a + g * STEP<D> + d + 2 * t, *q = p + 8 * STEP<D>;
    uint32_t fa[4] = {pair_at(p), pair_at(q), pair_at(p + 8), pair_at(q + 8)};
#pragma unroll
    for (int j = 0; j < TILES; j++) {
      const bf16* r = b + (8 * j + g) * STEP<D> + d + 2 * t;
      uint32_t fb[2] = {pair_at(r), pair_at(r + 8)};
      mma(sum[j], fa, fb);
    }
  }
}

// sum (16 rows of D) += w (16 rows of 8·TILES, in registers) · b, of which `turned` holds the transpose.
template <int TILES, int D>
__device__ void weights_by_rows(float (&sum)[D / 8][4], const float (&w)[TILES][4], const bf16* turned) {
  int lane = int(threadIdx.x % 32), g = lane / 4, t = lane % 4;
#pragma unroll
  for (int k = 0; k < TILES / 2; k++) {
    const float *low = w[2 * k], *high = w[2 * k + 1];
    uint32_t fa[4] = {pair_of(low[0], low[1]), pair_of(low[2], low[3]), pair_of(high[0], high[1]), pair_of(high[2], high[3])};
#pragma unroll
    for (int j = 0; j < D / 8; j++) {
      const bf16* r = turned + (8 * j + g) * TURNED<8 * TILES> + 16 * k + 2 * t;
      uint32_t fb[2] = {pair_at(r), pair_at(r + 8)};
      mma(sum[j], fa, fb);
    }
  }
}

// Over the four lanes that share a row.
__device__ inline float row_most(float a) {
  a = most(a, __shfl_xor_sync(ALL, a, 1));
  return most(a, __shfl_xor_sync(ALL, a, 2));
}
__device__ inline float row_sum(float a) {
  a = a + __shfl_xor_sync(ALL, a, 1);
  return a + __shfl_xor_sync(ALL, a, 2);
}

// The keys that a query sees, as packed tokens; nothing for rows past the end.
struct Sight {
  long from, to;
  __device__ Sight(const AttentionShapes& z, const int* ends, long token) : from(0), to(0) {
    if (token >= z.tokens) return;
    long begin = SequencePlace(z, ends, token).begin;
    from = z.window ? larger(begin, token - z.window + 1) : begin, to = token + 1;
  }
  __device__ bool sees(long key) const { return key >= from && key < to; }
};

template <int D>
__device__ void store_rows(const AttentionShapes& z, const float (&sum)[D / 8][4], float* to, long row_step, long row, long limit,
                           float low, float high) {
  int lane = int(threadIdx.x % 32), g = lane / 4, t = lane % 4;
#pragma unroll
  for (int j = 0; j < D / 8; j++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      long r = g + (e >= 2 ? 8 : 0), column = 8 * j + 2 * t + e % 2;
      if (row + r < limit && column < z.d) to[r * row_step + column] = sum[j][e] * (e >= 2 ? high : low);
    }
}

// ---- forward -----------------------------------------------------------------------------------------------------

constexpr int KEYS = 64;

template <int D>
constexpr size_t FORWARD_SHARED = size_t(ROWS * STEP<D> + KEYS * STEP<D> + D * TURNED<KEYS>) * 2;

template <int D>
__global__ void __launch_bounds__(THREADS)
    forward_kernel(Reporter r, AttentionShapes z, const float* q, const float* k, const float* v, const int* ends, float* o, float* lse) {
  DYNAMIC_SHARED(bf16, queries);
  bf16 *keys = queries + ROWS * STEP<D>, *values = keys + KEYS * STEP<D>;
  if (r.faulty()) return;
  long row = long(blockIdx.x) * ROWS, head = blockIdx.y, kv = z.kv_head(head), q_step = z.heads * z.d, kv_step = z.kv * z.d;
  long warp_row = row + threadIdx.x / 32 * 16, mine = warp_row + threadIdx.x % 32 / 4, last = smaller(z.tokens, row + ROWS);
  int t = int(threadIdx.x % 4);
  Sight low(z, ends, mine), high(z, ends, mine + 8);
  long first = Sight(z, ends, row).from;
  // With a window a later row may belong to a later sequence, but none looks further back than the first one.
  load_tile<ROWS, D>(q + z.query(row, head), q_step, last - row, z.d, queries, nullptr);
  float sum[D / 8][4] = {}, top[2] = {-INF, -INF}, total[2] = {};
  float unit = z.scale * LOG2_E;
  for (long base = first; base < last; base += KEYS) {
    __syncthreads();
    long live = smaller(KEYS, last - base);
    load_tile<KEYS, D>(k + z.key(base, kv), kv_step, live, z.d, keys, nullptr);
    load_tile<KEYS, D>(v + z.key(base, kv), kv_step, live, z.d, nullptr, values);
    __syncthreads();
    float s[KEYS / 8][4] = {};
    rows_by_rows<KEYS / 8, D>(s, queries + threadIdx.x / 32 * 16 * STEP<D>, keys);
    float peak[2] = {top[0], top[1]};
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        long key = base + 8 * j + 2 * t + e % 2;
        s[j][e] = (e < 2 ? low : high).sees(key) ? s[j][e] * unit : -INF;
        peak[e / 2] = s[j][e] > peak[e / 2] ? s[j][e] : peak[e / 2];
      }
    float shrink[2], added[2] = {};
#pragma unroll
    for (int h = 0; h < 2; h++) {
      peak[h] = row_most(peak[h]);
      shrink[h] = top[h] == -INF ? 0.f : power_2(top[h] - peak[h]);
      top[h] = peak[h];
    }
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        // A row that has seen nothing yet has no maximum.
        s[j][e] = s[j][e] == -INF ? 0.f : power_2(s[j][e] - top[e / 2]);
        added[e / 2] = added[e / 2] + s[j][e];
      }
#pragma unroll
    for (int h = 0; h < 2; h++) total[h] = fmaf(total[h], shrink[h], row_sum(added[h]));
#pragma unroll
    for (int j = 0; j < D / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) sum[j][e] = sum[j][e] * shrink[e / 2];
    weights_by_rows<KEYS / 8, D>(sum, s, values);
  }
  store_rows<D>(z, sum, o + z.query(warp_row, head), q_step, warp_row, z.tokens, 1.f / total[0], 1.f / total[1]);
  if (t == 0)
    for (int h = 0; h < 2; h++)
      if (mine + 8 * h < z.tokens) lse[(mine + 8 * h) * z.heads + head] = top[h] * LN_2 + log_of(total[h]);
}

// ---- backward ----------------------------------------------------------------------------------------------------

constexpr int TILE = 32;  // of keys, or of queries, that a block walks over

// Turns scores q·k into p = exp(scale · q·k − lse), and dO·v into ds = p · (dO·v − delta) · scale.
struct Row {
  float lse, delta;
  __device__ Row(const AttentionShapes& z, const AttentionGradient<float>& g, long token, long head) : lse(0), delta(0) {
    if (token < z.tokens) lse = g.lse[token * z.heads + head], delta = g.delta[token * z.heads + head];
  }
  __device__ void turn(bool seen, float scale, float& s, float& d) const {
    s = seen ? power_2((s * scale - lse) * LOG2_E) : 0.f;
    d = seen ? s * (d - delta) * scale : 0.f;
  }
};

template <int D>
constexpr size_t BACKWARD_SHARED = size_t(2 * ROWS * STEP<D> + 2 * TILE * STEP<D> + 2 * D * TURNED<TILE>) * 2;

template <int D>
__global__ void __launch_bounds__(THREADS)
    dq_kernel(Reporter r, AttentionShapes z, AttentionGradient<float> g, const int* ends, float* dq) {
  DYNAMIC_SHARED(bf16, queries);
  bf16 *grads = queries + ROWS * STEP<D>, *keys = grads + ROWS * STEP<D>, *values = keys + TILE * STEP<D>;
  bf16* turned = values + TILE * STEP<D>;
  if (r.faulty()) return;
  long row = long(blockIdx.x) * ROWS, head = blockIdx.y, kv = z.kv_head(head), q_step = z.heads * z.d, kv_step = z.kv * z.d;
  int own = int(threadIdx.x / 32) * 16, t = int(threadIdx.x % 4);
  long warp_row = row + own, mine = warp_row + threadIdx.x % 32 / 4, last = smaller(z.tokens, row + ROWS);
  Sight sight[2] = {Sight(z, ends, mine), Sight(z, ends, mine + 8)};
  Row rows[2] = {Row(z, g, mine, head), Row(z, g, mine + 8, head)};
  load_tile<ROWS, D>(g.q + z.query(row, head), q_step, last - row, z.d, queries, nullptr);
  load_tile<ROWS, D>(g.dO + z.query(row, head), q_step, last - row, z.d, grads, nullptr);
  float sum[D / 8][4] = {};
  for (long base = Sight(z, ends, row).from; base < last; base += TILE) {
    __syncthreads();
    long live = smaller(TILE, last - base);
    load_tile<TILE, D>(g.k + z.key(base, kv), kv_step, live, z.d, keys, turned);
    load_tile<TILE, D>(g.v + z.key(base, kv), kv_step, live, z.d, values, nullptr);
    __syncthreads();
    float s[TILE / 8][4] = {}, d[TILE / 8][4] = {};
    rows_by_rows<TILE / 8, D>(s, queries + own * STEP<D>, keys);
    rows_by_rows<TILE / 8, D>(d, grads + own * STEP<D>, values);
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        rows[e / 2].turn(sight[e / 2].sees(base + 8 * j + 2 * t + e % 2), z.scale, s[j][e], d[j][e]);
    weights_by_rows<TILE / 8, D>(sum, d, turned);
  }
  store_rows<D>(z, sum, dq + z.query(warp_row, head), q_step, warp_row, z.tokens, 1.f, 1.f);
}

// Rows are keys here, and a block walks over the queries that see them, head after head: a group's sums need no atomics.
template <int D>
__global__ void __launch_bounds__(THREADS)
    dkv_kernel(Reporter r, AttentionShapes z, AttentionGradient<float> g, const int* ends, float* dk, float* dv) {
  DYNAMIC_SHARED(bf16, keys);
  bf16 *values = keys + ROWS * STEP<D>, *queries = values + ROWS * STEP<D>, *grads = queries + TILE * STEP<D>;
  bf16 *queries_turned = grads + TILE * STEP<D>, *grads_turned = queries_turned + D * TURNED<TILE>;
  if (r.faulty()) return;
  long row = long(blockIdx.x) * ROWS, kv = blockIdx.y, group = z.heads / z.kv, q_step = z.heads * z.d, kv_step = z.kv * z.d;
  int own = int(threadIdx.x / 32) * 16, t = int(threadIdx.x % 4);
  long warp_row = row + own, mine = warp_row + threadIdx.x % 32 / 4, last = smaller(z.tokens, row + ROWS);
  // The queries that see key i: from i to the end of its sequence, or of the window.
  long until[2] = {};
  for (int h = 0; h < 2; h++)
    if (mine + 8 * h < z.tokens) {
      until[h] = SequencePlace(z, ends, mine + 8 * h).end;
      if (z.window) until[h] = smaller(until[h], mine + 8 * h + z.window);
    }
  long end = SequencePlace(z, ends, last - 1).end;
  if (z.window) end = smaller(end, last - 1 + z.window);
  load_tile<ROWS, D>(g.k + z.key(row, kv), kv_step, last - row, z.d, keys, nullptr);
  load_tile<ROWS, D>(g.v + z.key(row, kv), kv_step, last - row, z.d, values, nullptr);
  float sum_k[D / 8][4] = {}, sum_v[D / 8][4] = {};
  for (long head = kv * group; head < (kv + 1) * group; head++)
    for (long base = row; base < end; base += TILE) {
      __syncthreads();
      long live = smaller(TILE, end - base);
      load_tile<TILE, D>(g.q + z.query(base, head), q_step, live, z.d, queries, queries_turned);
      load_tile<TILE, D>(g.dO + z.query(base, head), q_step, live, z.d, grads, grads_turned);
      __syncthreads();
      float s[TILE / 8][4] = {}, d[TILE / 8][4] = {};
      rows_by_rows<TILE / 8, D>(s, keys + own * STEP<D>, queries);
      rows_by_rows<TILE / 8, D>(d, values + own * STEP<D>, grads);
#pragma unroll
      for (int j = 0; j < TILE / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          long query = base + 8 * j + 2 * t + e % 2, key = mine + (e >= 2 ? 8 : 0);
          Row(z, g, query, head).turn(query >= key && query < until[e / 2], z.scale, s[j][e], d[j][e]);
        }
      weights_by_rows<TILE / 8, D>(sum_k, d, queries_turned);
      weights_by_rows<TILE / 8, D>(sum_v, s, grads_turned);
    }
  store_rows<D>(z, sum_k, dk + z.key(warp_row, kv), kv_step, warp_row, z.tokens, 1.f, 1.f);
  store_rows<D>(z, sum_v, dv + z.key(warp_row, kv), kv_step, warp_row, z.tokens, 1.f, 1.f);
}

// The smallest head size that is made for and holds d.
template <class F>
bool by_head_size(long d, long most_size, F f) {
  if (d > most_size) return false;
  if (d <= 64) f(std::integral_constant<int, 64>());
  else if (d <= 128) f(std::integral_constant<int, 128>());
  else f(std::integral_constant<int, 256>());
  return true;
}

unsigned row_blocks(const AttentionShapes& z) { return unsigned(parts(z.tokens, ROWS)); }

}  // namespace

bool attention_bf16(Call& c, const AttentionShapes& z, const float* q, const float* k, const float* v, const int* ends, float* o,
                    float* lse) {
  return by_head_size(z.d, 256, [&](auto size) {
    constexpr int D = decltype(size)::value;
    launch(c, forward_kernel<D>, dim3(row_blocks(z), unsigned(z.heads)), THREADS, FORWARD_SHARED<D>, reporter(c), z, q, k, v, ends,
           o, lse);
  });
}

bool attention_grad_bf16(Call& c, const AttentionShapes& z, const AttentionGradient<float>& g, const int* ends, float* dq, float* dk,
                         float* dv) {
  // Sums over keys and values of larger heads do not fit into registers.
  return by_head_size(z.d, 128, [&](auto size) {
    constexpr int D = decltype(size)::value;
    if constexpr (D <= 128) {
      launch(c, dq_kernel<D>, dim3(row_blocks(z), unsigned(z.heads)), THREADS, BACKWARD_SHARED<D>, reporter(c), z, g, ends, dq);
      launch(c, dkv_kernel<D>, dim3(row_blocks(z), unsigned(z.kv)), THREADS, BACKWARD_SHARED<D>, reporter(c), z, g, ends, dk, dv);
    }
  });
}

}  // namespace baton

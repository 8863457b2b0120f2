// Attention over spans of keys in bf16 on tensor cores. Rows next to each other whose pages in a span are the same, samples of one
// prompt, are taken by the first of them: one block reads the pages for all. A row is a row of a 16 × 8 × 16 product either way,
// alone or with others, so its bits depend on nothing but itself.
#include "../runtime.h"
#include "flash.cuh"
#include "spans.cuh"

namespace baton {
namespace {

using flash::LOG2_E;
using flash::power_2;

constexpr int WARPS = 4, THREADS = 32 * WARPS, PAGES = SPAN / int(PAGE), CHUNK = 64, CHUNKS = SPAN / CHUNK, STAGES = 3;
constexpr int KEY_STEP = CHUNK + 8, WEIGHT_STEP = SPAN + 8;

// Rows of products in a block: rows of the batch times the heads that share keys.
template <int D>
constexpr int MOST = D > 128 ? 32 : 64;
template <int D>
constexpr int STAGE = D * KEY_STEP > CHUNK * SHARED_STEP<D> ? D * KEY_STEP : CHUNK * SHARED_STEP<D>;
template <int D>
constexpr size_t SHARED = size_t(STAGES * STAGE<D> + MOST<D> * SHARED_STEP<D> + MOST<D> * WEIGHT_STEP) * 2;

constexpr size_t STATIC = 4096;  // at most, what a block has besides

struct Range {
  int begin, end;
};

template <int D>
__global__ void __launch_bounds__(THREADS) shared_spans_kernel(Reporter r, Cache<bf16> cache, const bf16* q, const int* slots,
                                                               const int* positions, int rows, Parts z, int window, float scale) {
  constexpr int TILES = MOST<D> / 16, QUERY_STEP = SHARED_STEP<D>, UNITS = (D / 16 + WARPS - 1) / WARPS;
  DYNAMIC_SHARED(bf16, stages);
  bf16 *queries = stages + STAGES * STAGE<D>, *weights = queries + MOST<D> * QUERY_STEP;
  __shared__ int page_at[PAGES], same[MOST<D>], members[MOST<D>], absent[MOST<D>];
  __shared__ Range live[MOST<D>];
  __shared__ float peaks[WARPS][MOST<D>], sums[WARPS][MOST<D>];
  __shared__ int count, low, high;
  int i = int(blockIdx.x), kv = int(blockIdx.y), span = int(blockIdx.z), base = span * SPAN, t = int(threadIdx.x);
  int each = int(z.heads / cache.kv), d = int(cache.d), together = MOST<D> / each;
  if (slots[i] < 0 || slots[i] >= cache.slots) {
    if (t == 0) r.inside(SLOT, i, slots[i], cache.slots);
    return;
  }
  auto range_of = [&](int row) {
    int position = positions[row], first = window && position >= window ? position - window + 1 : 0;
    bool there = slots[row] >= 0 && slots[row] < cache.slots;
    return there ? Range{int(larger(0, first - base)), int(smaller(SPAN, position + 1 - base))} : Range{0, 0};
  };
  auto entry = [&](int row, int p) { return base / PAGE + p < cache.max_pages ? cache.table[slots[row] * cache.max_pages + base / PAGE + p] : -1; };
  Range mine = range_of(i);
  if (mine.begin >= mine.end) return;  // nobody asks for it

  // Which rows of these have the pages of row i: the first of them takes all.
  int tile = i / together * together, size = int(smaller(together, rows - tile));
  if (t < size) same[t] = 1;
  __syncthreads();
  for (int e = t; e < size * PAGES; e += THREADS) {
    int row = tile + e / PAGES;
    Range other = range_of(row);
    if (other.begin >= other.end || entry(row, e % PAGES) != entry(i, e % PAGES)) same[e / PAGES] = 0;
  }
  __syncthreads();
  for (int k = 0; k < i - tile; k++)
    if (same[k]) return;
  if (t == 0) {
    int n = 0, from = SPAN, to = 0;
    for (int k = i - tile; k < size; k++)
      if (same[k]) {
        Range of = range_of(tile + k);
        members[n] = tile + k, live[n] = of, absent[n] = 0, n++;
        from = int(smaller(from, of.begin)), to = int(larger(to, of.end));
      }
    count = n, low = from, high = to;
  }
  if (t < PAGES) page_at[t] = int(cache.page(slots[i], base + t * PAGE));
  __syncthreads();
  if (t < count)
    for (int p = live[t].begin / int(PAGE); p * PAGE < live[t].end; p++) absent[t] |= page_at[p] < 0;
  int tiles = (count * each + 15) / 16, first = low / CHUNK, chunks = (high + CHUNK - 1) / CHUNK - first;

  // Chunks of keys come first, then chunks of values, through a ring of stages.
  auto copy_chunk = [&](int step) {
    bf16* to = stages + step % STAGES * STAGE<D>;
    int from = (first + step % chunks) * CHUNK;
    if (step < chunks) {
      for (int e = t; e < D * CHUNK / 8; e += THREADS) {
        int page = from / int(PAGE) + e / (2 * D), row = e % (2 * D) / 2, key = page * int(PAGE) + e % 2 * 8;
        bool there = row < d && key < high && key + 8 > low && page_at[page] >= 0;
        copy_beside(to + row * KEY_STEP + key - from, there ? cache.keys(page_at[page], kv) + row * PAGE + e % 2 * 8 : cache.base, there);
      }
    } else if (step < 2 * chunks) {
      for (int e = t; e < CHUNK * D / 8; e += THREADS) {
        int row = e / (D / 8), column = e % (D / 8) * 8, key = from + row, page = key / int(PAGE);
        bool there = column < d && key < high && key >= low && page_at[page] >= 0;
        copy_beside(to + row * SHARED_STEP<D> + column, there ? cache.values(page_at[page], kv) + key % PAGE * d + column : cache.base, there);
      }
    }
    commit_copies();
  };
  for (int e = t; e < tiles * 16 * (D / 8); e += THREADS) {
    int row = e / (D / 8), column = e % (D / 8) * 8;
    bool there = row < count * each && column < d;
    const bf16* from = there ? q + (members[row / each] * z.heads + kv * each + row % each) * d + column : q;
    copy_beside(queries + row * QUERY_STEP + column, from, there);
  }
  for (int step = 0; step < STAGES - 1; step++) copy_chunk(step);

  int warp = t / 32, g = t % 32 / 4, pair = t % 4 * 2;
  float s[CHUNKS][TILES][2][4] = {};
  auto arrive = [&](int step) {
    wait_for_copies<STAGES - 2>();
    __syncthreads();
    copy_chunk(step + STAGES - 1);
    return stages + step % STAGES * STAGE<D>;
  };
  // Scores: a warp has sixteen keys of every chunk.
#pragma unroll
  for (int c = 0; c < CHUNKS; c++) {
    if (c >= chunks) break;
    const bf16* keys = arrive(c);
#pragma unroll
    for (int k = 0; k < D; k += 16) {
      uint32_t b[4], a[4];
      load_right_turned(b, keys + k * KEY_STEP + 16 * warp, KEY_STEP);
#pragma unroll
      for (int m = 0; m < TILES; m++)
        if (m < tiles) {
          load_left(a, queries + 16 * m * QUERY_STEP + k, QUERY_STEP);
          mma_pair(s[c][m][0], s[c][m][1], a, b);
        }
    }
  }
  // Their softmax, over the lanes of a row and then over the warps.
  float unit = scale * LOG2_E;
#pragma unroll
  for (int m = 0; m < TILES; m++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      int row = 16 * m + 8 * h + g;
      if (m >= tiles) continue;
      Range of = row < count * each ? live[row / each] : Range{0, 0};
      float peak = -INF;
#pragma unroll
      for (int c = 0; c < CHUNKS; c++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          int key = (first + c) * CHUNK + 16 * warp + e / 2 * 8 + pair + e % 2;
          float& x = s[c][m][e / 2][2 * h + e % 2];
          if (c >= chunks || key < of.begin || key >= of.end) x = -INF;
          peak = fmaxf(peak, x);
        }
      peak = fmaxf(peak, __shfl_xor_sync(ALL, peak, 1));
      peak = fmaxf(peak, __shfl_xor_sync(ALL, peak, 2));
      if (pair == 0) peaks[warp][row] = peak;
    }
  __syncthreads();
#pragma unroll
  for (int m = 0; m < TILES; m++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      int row = 16 * m + 8 * h + g;
      if (m >= tiles) continue;
      float peak = fmaxf(fmaxf(peaks[0][row], peaks[1][row]), fmaxf(peaks[2][row], peaks[3][row])), sum = 0;
      float level = peak == -INF ? 0.f : peak * unit;
#pragma unroll
      for (int c = 0; c < CHUNKS; c++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          float *x = s[c][m][j] + 2 * h, p0 = power_2(fmaf(x[0], unit, -level)), p1 = power_2(fmaf(x[1], unit, -level));
          sum = sum + (p0 + p1);
          *reinterpret_cast<uint32_t*>(weights + row * WEIGHT_STEP + c * CHUNK + 16 * warp + 8 * j + pair) = pair_of(p0, p1);
        }
      sum = sum + __shfl_xor_sync(ALL, sum, 1);
      sum = sum + __shfl_xor_sync(ALL, sum, 2);
      if (pair == 0) sums[warp][row] = sum;
    }

  // Weighted values: a warp has sixteen columns, and every 64th from there.
  float o[UNITS][TILES][2][4] = {};
  for (int c = 0; c < chunks; c++) {
    const bf16* values = arrive(chunks + c);
#pragma unroll
    for (int k = 0; k < CHUNK; k += 16) {
      uint32_t a[TILES][4], b[4];
#pragma unroll
      for (int m = 0; m < TILES; m++)
        if (m < tiles) load_left(a[m], weights + 16 * m * WEIGHT_STEP + c * CHUNK + k, WEIGHT_STEP);
#pragma unroll
      for (int u = 0; u < UNITS; u++) {
        int column = 16 * (warp + WARPS * u);
        if (column >= D) break;
        load_right_turned(b, values + k * SHARED_STEP<D> + column, SHARED_STEP<D>);
#pragma unroll
        for (int m = 0; m < TILES; m++)
          if (m < tiles) mma_pair(o[u][m][0], o[u][m][1], a[m], b);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < TILES; m++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      int row = 16 * m + 8 * h + g;
      if (row >= count * each) continue;
      float* out = z.at(members[row / each], kv * each + row % each, span);
      if (warp == 0 && pair == 0) {
        out[0] = fmaxf(fmaxf(peaks[0][row], peaks[1][row]), fmaxf(peaks[2][row], peaks[3][row])) * scale;
        out[1] = absent[row / each] ? nan_number() : ((sums[0][row] + sums[1][row]) + sums[2][row]) + sums[3][row];
      }
#pragma unroll
      for (int u = 0; u < UNITS; u++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          int column = 16 * (warp + WARPS * u) + 8 * j + pair;
          if (column < d) *reinterpret_cast<float2*>(out + 2 + column) = {o[u][m][j][2 * h], o[u][m][j][2 * h + 1]};
        }
    }
}

}  // namespace

bool shared_spans(Call& c, const Cache<bf16>& cache, const bf16* q, const int* slots, const int* positions, long rows, Parts z, long window,
                  float scale) {
  long d = cache.d;
  if (d % 16 || d > 256 || z.heads / cache.kv > (d > 128 ? 32 : 64) || reinterpret_cast<uintptr_t>(q) % 16) return false;
  auto run = [&](auto size) {
    constexpr int D = decltype(size)::value;
    if (SHARED<D> + STATIC > c.device->shared_memory()) return false;
    launch(c, shared_spans_kernel<D>, dim3(unsigned(rows), unsigned(cache.kv), unsigned(z.spans)), THREADS, SHARED<D>, reporter(c), cache, q,
           slots, positions, int(rows), z, int(window), scale);
    return true;
  };
  bool ran = false;
  flash::by_head_size(d, [&](auto size, auto) { ran = run(size); });
  return ran;
}

}  // namespace baton

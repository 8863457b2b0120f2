// Attention over the key-value cache for decoding: the keys of a sequence are cut into spans of 256 from its start, blocks take a span for
// up to four heads that share keys and values, and a second kernel joins the spans of a row by their log-sum-exp, in order
// (Dao et al. 2023: Flash-Decoding). Spans do not depend on the batch, and neither do results. Rows next to each other run at the same
// time, so pages that they share, a prompt's, come from the cache of the GPU.
#include "spans.cuh"

namespace baton {
namespace {

constexpr int GROUP = 4, THREADS = SPAN / 2, WARPS = THREADS / 32;

// Two neighbours in one access.
__device__ inline void two(const float* p, float& a, float& b) {
  uint2 v = *reinterpret_cast<const uint2*>(p);
  a = __int_as_float(int(v.x)), b = __int_as_float(int(v.y));
}
__device__ inline void two(const bf16* p, float& a, float& b) {
  unsigned v = *reinterpret_cast<const unsigned*>(p);
  a = __int_as_float(int(v << 16)), b = __int_as_float(int(v & 0xffff0000u));
}

// The same for all heads of the group, from the warps' shares.
__device__ inline void over_block(float (&x)[GROUP], float* share, bool largest) {
  for (int g = 0; g < GROUP; g++) {
    for (int half = 16; half; half /= 2) {
      float other = __shfl_xor_sync(ALL, x[g], half);
      x[g] = largest ? most(other, x[g]) : x[g] + other;
    }
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0)
    for (int g = 0; g < GROUP; g++) share[threadIdx.x / 32 * GROUP + g] = x[g];
  __syncthreads();
  for (int g = 0; g < GROUP; g++) {
    x[g] = share[g];
    for (int w = 1; w < WARPS; w++) x[g] = largest ? most(share[w * GROUP + g], x[g]) : x[g] + share[w * GROUP + g];
  }
}

template <class T>
__global__ void __launch_bounds__(THREADS) span_kernel(Reporter r, Cache<T> cache, const T* q, const int* slots, const int* positions,
                                                       Parts z, long window, float scale) {
  // Numbers of four heads lie side by side. Queries, and later columns of several threads' keys.
  __shared__ __align__(16) float row[MAX_HEAD_DIM * GROUP], s[SPAN * GROUP];
  __shared__ float share[WARPS * GROUP];
  __shared__ long page_at[SPAN / PAGE];
  __shared__ int absent;
  long i = blockIdx.x, d = cache.d, each = z.heads / cache.kv, groups = (each + GROUP - 1) / GROUP, span = blockIdx.z;
  long kv = blockIdx.y / groups, head = kv * each + blockIdx.y % groups * GROUP;
  int t = int(threadIdx.x), count = int(smaller(GROUP, (kv + 1) * each - head));
  int slot = slots[i];
  if (slot < 0 || slot >= cache.slots) {
    if (t == 0) r.inside(SLOT, i, slot, cache.slots);
    return;
  }
  long position = positions[i], first = window ? larger(0, position - window + 1) : 0, base = span * SPAN;
  int begin = int(larger(0, first - base)), end = int(smaller(SPAN, position + 1 - base));
  if (begin >= end) return;  // nobody asks for it
  if (t == 0) absent = 0;
  __syncthreads();
  if (t < SPAN / PAGE) {
    bool live = (t + 1) * PAGE > begin && t * PAGE < end;
    page_at[t] = live ? cache.page(slot, base + t * PAGE) : -1;
    if (live && page_at[t] < 0) absent = 1;
  }
  for (long e = t; e < d * GROUP; e += THREADS) {
    long g = e % GROUP;
    row[e] = g < count ? number(q[(i * z.heads + head + g) * d + e / GROUP]) : 0.f;
  }
  __syncthreads();
  if (absent) {
    if (t < count) z.at(i, head + t, span)[0] = 0, z.at(i, head + t, span)[1] = nan_number();
    return;
  }

  // Scores of two keys.
  int j = 2 * t;
  float x[2][GROUP] = {}, top[GROUP], sum[GROUP];
  if (j + 1 >= begin && j < end) {
    const T* key = cache.keys(page_at[j / PAGE], kv) + j % PAGE;
#pragma unroll 8
    for (long e = 0; e < d; e++) {
      float a, b;
      two(key + PAGE * e, a, b);
      for (int g = 0; g < GROUP; g++) {
        x[0][g] = fmaf(row[e * GROUP + g], a, x[0][g]);
        x[1][g] = fmaf(row[e * GROUP + g], b, x[1][g]);
      }
    }
  }
  bool live[2] = {j >= begin && j < end, j + 1 >= begin && j + 1 < end};
  for (int g = 0; g < GROUP; g++) {
    for (int k = 0; k < 2; k++) x[k][g] = live[k] ? x[k][g] * scale : -INF;
    top[g] = most(x[0][g], x[1][g]);
  }
  over_block(top, share, true);
  for (int g = 0; g < GROUP; g++) {
    for (int k = 0; k < 2; k++) s[(j + k) * GROUP + g] = x[k][g] = live[k] ? exp_of(x[k][g] - top[g]) : 0.f;
    sum[g] = x[0][g] + x[1][g];
  }
  over_block(sum, share, false);

  // Two columns, over every so many keys.
  int pairs = int(d / 2), slices = pairs < THREADS ? THREADS / pairs : 1, slice = t / pairs;
  for (int c = t % pairs; slice < slices && c < pairs; c += pairs < THREADS ? pairs : THREADS) {
    float o[2][GROUP] = {};
#pragma unroll 4
    for (int k = begin + slice; k < end; k += slices) {
      float a, b;
      two(cache.values(page_at[k / PAGE], kv) + k % PAGE * d + 2 * c, a, b);
      for (int g = 0; g < GROUP; g++) o[0][g] = fmaf(s[k * GROUP + g], a, o[0][g]), o[1][g] = fmaf(s[k * GROUP + g], b, o[1][g]);
    }
    for (int h = 0; h < 2; h++)
      for (int g = 0; g < GROUP; g++) row[(slice * d + 2 * c + h) * GROUP + g] = o[h][g];
  }
  __syncthreads();
  for (long e = t; e < d * count; e += THREADS) {
    long g = e / d, column = e % d;
    float o = row[column * GROUP + g];
    for (int k = 1; k < slices; k++) o = o + row[(k * d + column) * GROUP + g];
    z.at(i, head + g, span)[2 + column] = o;
  }
  for (int g = 0; g < count; g++)
    if (t == g) z.at(i, head + g, span)[0] = top[g], z.at(i, head + g, span)[1] = sum[g];
}

// A row whose pages are not all there gives NaN, as in paged_attention.cu.
template <class T>
__global__ void __launch_bounds__(THREADS) join_kernel(Cache<T> cache, const int* slots, const int* positions, Parts z, T* o, long window) {
  long i = blockIdx.x, head = blockIdx.y, position = positions[i];
  if (slots[i] < 0 || slots[i] >= cache.slots) return;
  T* out = o + (i * z.heads + head) * z.d;
  bool there = position >= 0 && position < cache.max_pages * PAGE;
  long first = (window ? larger(0, position - window + 1) : 0) / SPAN, last = there ? position / SPAN : -1;
  float top = -INF, total = there ? 0.f : nan_number();
  for (long k = first; k <= last; k++) top = most(z.at(i, head, k)[0], top);
  for (long k = first; k <= last; k++) total = fmaf(z.at(i, head, k)[1], exp_of(z.at(i, head, k)[0] - top), total);
  for (long e = threadIdx.x; e < z.d; e += THREADS) {
    float sum = 0;
    for (long k = first; k <= last; k++) sum = fmaf(z.at(i, head, k)[2 + e], exp_of(z.at(i, head, k)[0] - top), sum);
    out[e] = stored<T>(sum / total);
  }
}

}  // namespace

template <class T>
bool spans_attention(Call& c, const Cache<T>& cache) {
  long rows = size(c, 0), heads = size(c, 1), window = size(c, 4), d = cache.d;
  Parts z{reinterpret_cast<float*>(c.scratch), heads, parts(cache.max_pages * PAGE, SPAN), d};
  if (d % 2 || z.spans == 0 || z.spans > 65535 || uint64_t(z.bytes_of_row()) > SCRATCH_BYTES) return false;
  long most = long(SCRATCH_BYTES) / z.bytes_of_row(), groups = parts(heads / cache.kv, GROUP);
  for (long row = 0; row < rows; row += most) {
    unsigned count = unsigned(smaller(most, rows - row));
    const int *slots = ints(c, 2) + row, *positions = ints(c, 3) + row;
    bool shared = false;
    if constexpr (sizeof(T) == 2)
      shared = shared_spans(c, cache, at<T>(c, 0) + row * heads * d, slots, positions, count, z, window, real(c, 5));
    if (!shared) launch(c, span_kernel<T>, dim3(count, unsigned(cache.kv * groups), unsigned(z.spans)), THREADS, 0, reporter(c), cache,
           at<T>(c, 0) + row * heads * d, slots, positions, z, window, real(c, 5));
    launch(c, join_kernel<T>, dim3(count, unsigned(heads)), THREADS, 0, cache, slots, positions, z, at<T>(c, 5) + row * heads * d, window);
  }
  return true;
}

template bool spans_attention(Call&, const Cache<float>&);
template bool spans_attention(Call&, const Cache<bf16>&);

}  // namespace baton

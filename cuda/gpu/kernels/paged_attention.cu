// The key-value cache in pages of 16 tokens, and attention over it with the bits of `attention`.
#include "paged.cuh"
#include "softmax.cuh"

namespace baton {
namespace {

constexpr long KEYS = 256;
constexpr int THREADS = 128, COLUMNS = MAX_HEAD_DIM / THREADS;

template <class T>
__global__ void kv_write_kernel(Reporter r, Cache<T> cache, const T* k, const T* v, const int* slots, const int* positions,
                                const int* finished, long limit) {
  long i = blockIdx.x;
  int slot = slots[i], position = positions[i];
  if (slot < 0 || slot >= limit) {
    if (threadIdx.x == 0) r.inside(SLOT, i, slot, limit);
    return;
  }
  if (finished[slot]) return;
  long page = cache.page(slot, position), lane = position % PAGE;
  if (page < 0) {
    if (threadIdx.x == 0) r.report(NO_PAGE, 0, slot, position);
    return;
  }
  for (long e = threadIdx.x; e < cache.kv * cache.d; e += blockDim.x) {
    long head = e / cache.d, j = e % cache.d;
    cache.keys(page, head)[PAGE * j + lane] = k[i * cache.kv * cache.d + e];
    cache.values(page, head)[lane * cache.d + j] = v[i * cache.kv * cache.d + e];
  }
}

// A row whose pages are not all there gives NaN: the slot has finished, and nobody reads the row, or the NaN is seen.
template <class T>
__global__ void __launch_bounds__(THREADS)
    paged_attention_kernel(Reporter r, Cache<T> cache, const T* q, const int* slots, const int* positions, T* o, long heads, long window,
                           float scale) {
  __shared__ float row[MAX_HEAD_DIM], s[KEYS], share[32];
  __shared__ long page_at[KEYS / PAGE];
  __shared__ int absent;
  long i = blockIdx.x, head = blockIdx.y, d = cache.d, kv = head / (heads / cache.kv);
  int slot = slots[i];
  long position = positions[i];
  if (slot < 0 || slot >= cache.slots) {
    if (threadIdx.x == 0) r.inside(SLOT, i, slot, cache.slots);
    return;
  }
  const T* from = q + (i * heads + head) * d;
  T* out = o + (i * heads + head) * d;
  for (long e = threadIdx.x; e < d; e += THREADS) row[e] = number(from[e]);
  long first = window ? larger(0, position - window + 1) : 0;
  if (threadIdx.x == 0) absent = position < 0;
  __syncthreads();
  for (long at = first / PAGE * PAGE + threadIdx.x * PAGE; at <= position; at += THREADS * PAGE)
    if (cache.page(slot, at) < 0) absent = 1;
  __syncthreads();
  if (absent) {
    for (long e = threadIdx.x; e < d; e += THREADS) out[e] = stored<T>(nan_number());
    return;
  }
  RowSoftmax state;
  float sum[COLUMNS] = {};
  for (long base = first / KEYS * KEYS; base <= position; base += KEYS) {
    long begin = larger(0, first - base), end = smaller(KEYS, position + 1 - base);
    if (threadIdx.x < KEYS / PAGE) page_at[threadIdx.x] = cache.page(slot, base + threadIdx.x * PAGE);
    __syncthreads();
    for (long j = begin + threadIdx.x; j < end; j += THREADS) {
      const T* key = cache.keys(page_at[j / PAGE], kv) + j % PAGE;
      float x = 0;
      for (long e = 0; e < d; e++) x = fmaf(row[e], number(key[PAGE * e]), x);
      s[j] = x;
    }
    float shrink = absorb(state, s, nullptr, begin, end, scale, share);
    for (int c = 0; c < COLUMNS; c++) {
      long e = threadIdx.x + long(c) * THREADS;
      if (e >= d) break;
      sum[c] = sum[c] * shrink;
      for (long j = begin; j < end; j++)
        sum[c] = fmaf(s[j], number(cache.values(page_at[j / PAGE], kv)[j % PAGE * d + e]), sum[c]);
    }
    __syncthreads();
  }
  if (threadIdx.x < 32) {
    float all = lanes_total(state.sum);
    if (threadIdx.x == 0) share[0] = all;
  }
  __syncthreads();
  for (int c = 0; c < COLUMNS; c++) {
    long e = threadIdx.x + long(c) * THREADS;
    if (e < d) out[e] = stored<T>(sum[c] / share[0]);
  }
}

// A thread takes sixteen bytes of a page through all copies in their order.
__global__ void copy_pages_kernel(Reporter r, uint4* kv, const int* from, const int* to, long n, long page, long pages) {
  uint4* layer = kv + blockIdx.y * pages * page;
  long e = first_index();
  for (long i = 0; i < n; i++) {
    int a = from[i], b = to[i];
    if (a >= 0 && a < pages && b >= 0 && b < pages) {
      if (e < page) layer[b * page + e] = layer[a * page + e];
    } else if (e == 0 && r.inside(PAGE_INDEX, i, a, pages)) {
      r.inside(PAGE_INDEX, i, b, pages);
    }
  }
}

}  // namespace

void kv_write(Call& c) {
  long t = size(c, 0), kv = size(c, 1), d = size(c, 2);
  by_type(c, 0, [&](auto type) {
    typedef decltype(type) T;
    Cache<T> cache(at<T>(c, 6), kv, d, size(c, 3), size(c, 4), ints(c, 4), elements(c, 4), size(c, 5));
    launch(c, kv_write_kernel<T>, dim3(unsigned(t)), 128, 0, reporter(c), cache, at<T>(c, 0), at<T>(c, 1), ints(c, 2), ints(c, 3),
           ints(c, 5), smaller(cache.slots, elements(c, 5)));
  });
}

void paged_attention(Call& c) {
  long t = size(c, 0), heads = size(c, 1), kv = size(c, 2), d = size(c, 3);
  by_type(c, 0, [&](auto type) {
    typedef decltype(type) T;
    Cache<T> cache(at<T>(c, 1), kv, d, size(c, 6), size(c, 7), ints(c, 4), elements(c, 4), size(c, 8));
    if (on_tensor_cores(is_half(c, 0)) && spans_attention(c, cache)) return;
    launch(c, paged_attention_kernel<T>, dim3(unsigned(t), unsigned(heads)), THREADS, 0, reporter(c), cache, at<T>(c, 0), ints(c, 2),
           ints(c, 3), at<T>(c, 5), heads, size(c, 4), real(c, 5));
  });
}

void copy_pages(Call& c) {
  long n = size(c, 0), layers = size(c, 3), pages = size(c, 4), page = page_size(size(c, 1), size(c, 2));
  if (n == 0) return;
  // A page has 32 numbers or a multiple of that, and operands begin on cache lines.
  page = page * long(bytes_of(c.type[0])) / long(sizeof(uint4));
  uint4 *from = at<uint4>(c, 0), *to = at<uint4>(c, 3);
  if (from != to) succeeded(c, cudaMemcpyAsync(to, from, size_t(layers * pages * page) * sizeof(uint4), cudaMemcpyDefault, c.stream));
  launch(c, copy_pages_kernel, dim3(unsigned(parts(page, 256)), unsigned(layers)), 256, 0, reporter(c), to, ints(c, 1), ints(c, 2), n, page,
         pages);
}

}  // namespace baton

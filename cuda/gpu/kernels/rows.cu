// Rows and elements moved by index: embedding, gather, scatter, strides, copies.
#include "packs.cuh"

namespace baton {
namespace {

template <class T, int PER>
__global__ void embedding_kernel(Reporter r, const int* ids, const T* w, T* x, long v, long h, bool panels, long first, long total) {
  long i = blockIdx.x;
  int id = ids[i];
  bool here = id >= first && id < first + v;
  if (threadIdx.x == 0 && !r.inside(TOKEN_ID, i, id, total)) here = false;
  here = here && id >= 0 && id < total;
  WeightRow row(here ? id - first : 0, h, panels);
  for (long j = long(threadIdx.x) * PER; j < h; j += long(blockDim.x) * PER) {
    Pack<T, PER> p;
    if (!here)
      for (int e = 0; e < PER; e++) p.v[e] = stored<T>(0.f);
    else if (row.step == 1) p = *pack_at<PER>(w + row.start + j);
    else
      for (int e = 0; e < PER; e++) p.v[e] = w[row.start + (j + e) * row.step];
    *pack_at<PER>(x + i * h + j) = p;
  }
}

// The row of out[·] that belongs to element i of `at`; negative for none.
struct IdRows {
  long first, v, total;
  bool panels;
  __device__ long row(int id) const { return id >= first && id < first + v && id >= 0 && id < total ? id - first : -1; }
};

constexpr int SCATTER_THREADS = 128, SCATTER_EACH = 8;  // columns of a thread

// out[row(at[i])] += rows of `in`, in order. A block owns the first i of its kind and walks the later ones, with its columns' sums
// in registers; so every sum is a chain over i, whatever the blocks do.
template <class T, class G>
__global__ void __launch_bounds__(SCATTER_THREADS)
    scatter_kernel(Reporter r, int name, const int* at, const T* in, G* out, long n, long h, IdRows rows, long limit) {
  constexpr int THREADS = SCATTER_THREADS;
  __shared__ int earlier, next;
  long i = blockIdx.x, column = long(blockIdx.y) * THREADS * SCATTER_EACH + threadIdx.x;
  int mine = at[i];
  if (threadIdx.x == 0) earlier = 0;
  if (threadIdx.x == 0 && blockIdx.y == 0) r.inside(name, i, mine, limit);
  __syncthreads();
  if (mine < 0 || mine >= limit) return;
  for (long s = threadIdx.x; s < i; s += THREADS)
    if (at[s] == mine) earlier = 1;
  __syncthreads();
  long row = rows.row(mine);
  if (earlier || row < 0) return;
  WeightRow to(row, h, rows.panels);
  float sum[SCATTER_EACH];
  for (int e = 0; e < SCATTER_EACH; e++) {
    long j = column + e * THREADS;
    sum[e] = j < h ? number(out[to.start + j * to.step]) : 0.f;
  }
  for (long s = i; s < n;) {
    for (int e = 0; e < SCATTER_EACH; e++) {
      long j = column + e * THREADS;
      if (j < h) sum[e] = sum[e] + number(in[s * h + j]);
    }
    // The next one of the kind.
    long base = s + 1;
    for (s = n; base < n; base += THREADS) {
      __syncthreads();
      if (threadIdx.x == 0) next = 0x7fffffff;
      __syncthreads();
      long t = base + threadIdx.x;
      if (t < n && at[t] == mine) atomicMin(&next, int(t - base));
      __syncthreads();
      if (next != 0x7fffffff) {
        s = base + next;
        break;
      }
    }
  }
  for (int e = 0; e < SCATTER_EACH; e++) {
    long j = column + e * THREADS;
    if (j < h) out[to.start + j * to.step] = stored<G>(sum[e]);
  }
}
unsigned column_blocks(long h) { return unsigned(parts(h, SCATTER_THREADS * SCATTER_EACH)); }

// Elements of any type, by their width, or packs of them: bits are kept.
template <class T>
__global__ void gather_kernel(Reporter r, const T* x, const int* rows, T* y, long h, long t) {
  long i = blockIdx.x;
  int row = rows[i];
  if (row < 0 || row >= t) {
    if (threadIdx.x == 0) r.inside(ROW, i, row, t);
    return;
  }
  for (long j = threadIdx.x; j < h; j += blockDim.x) y[i * h + j] = x[row * h + j];
}

__global__ void stride_gather_kernel(const float* x, float* y, long n, long stride, long phase) {
  for (long i = first_index(); i < n; i += index_step()) y[i] = x[stride * i + phase];
}

__global__ void stride_scatter_kernel(const float* y, float* x, long n, long stride, long phase) {
  for (long i = first_index(); i < n * stride; i += index_step()) x[i] = i % stride == phase ? y[i / stride] : 0.f;
}

__global__ void fill_kernel(float* y, long n, float value) {
  for (long i = first_index(); i < n; i += index_step()) y[i] = value;
}

unsigned threads_for(long width) { return width >= 256 ? 256 : width >= 128 ? 128 : width >= 64 ? 64 : 32; }

// Makes `out` hold the sum so far: the prior value or zero.
template <class T>
void continue_or_zero(Call& c, const T* prior, T* out, long n) {
  size_t bytes = size_t(n) * sizeof(T);
  if (!prior) succeeded(c, cudaMemsetAsync(out, 0, bytes, c.stream));
  else if (prior != out) succeeded(c, cudaMemcpyAsync(out, prior, bytes, cudaMemcpyDefault, c.stream));
}

}  // namespace

void embedding(Call& c) {
  long t = size(c, 0), v = size(c, 1), h = size(c, 2);
  by_type(c, 1, [&](auto type) {
    typedef decltype(type) T;
    auto run = [&](auto kernel, long width) {
      launch(c, kernel, dim3(unsigned(t)), threads_for(width), 0, reporter(c), ints(c, 0), at<T>(c, 1), at<T>(c, 2), v, h,
             size(c, 3) == 1, size(c, 4), size(c, 5));
    };
    if (h % WIDE<T> == 0 && aligned(at<T>(c, 1), at<T>(c, 2))) run(embedding_kernel<T, WIDE<T>>, h / WIDE<T>);
    else run(embedding_kernel<T, 1>, h);
  });
}

void embedding_grad(Call& c) {
  long t = size(c, 0), v = size(c, 1), h = size(c, 2);
  bool panels = size(c, 3) == 1;
  IdRows rows{size(c, 5), v, size(c, 6), panels};
  by_types(c, 1, c.operands - 1, [&](auto type, auto gradient) {
    typedef decltype(type) T;
    typedef decltype(gradient) G;
    G* dw = at<G>(c, c.operands - 1);
    continue_or_zero<G>(c, size(c, 4) == 1 ? at<G>(c, 2) : nullptr, dw, weight_elements(v, h, panels));
    launch(c, scatter_kernel<T, G>, dim3(unsigned(t), column_blocks(h)), SCATTER_THREADS, 0, reporter(c), TOKEN_ID, ints(c, 0),
           at<T>(c, 1), dw, t, h, rows, size(c, 6));
  });
}

void gather_rows(Call& c) {
  long n = size(c, 0), h = size(c, 1);
  auto run = [&](auto type, long width) {
    typedef decltype(type) T;
    launch(c, gather_kernel<T>, dim3(unsigned(n)), threads_for(width), 0, reporter(c), at<T>(c, 0), ints(c, 1), at<T>(c, 2), width,
           size(c, 2));
  };
  long bytes = h * long(bytes_of(c.type[0]));
  if (bytes % 16 == 0 && aligned(floats(c, 0), floats(c, 2))) run(uint4(), bytes / 16);
  else if (is_half(c, 0)) run(uint16_t(), h);
  else run(uint32_t(), h);
}

void scatter_rows(Call& c) {
  long n = size(c, 0), h = size(c, 1), t = size(c, 2);
  IdRows rows{0, t, t, false};
  by_type(c, 0, [&](auto type) {
    typedef decltype(type) T;
    T* dx = at<T>(c, c.operands - 1);
    continue_or_zero<T>(c, size(c, 3) == 1 ? at<T>(c, 2) : nullptr, dx, t * h);
    launch(c, scatter_kernel<T, T>, dim3(unsigned(n), column_blocks(h)), SCATTER_THREADS, 0, reporter(c), ROW, ints(c, 1),
           at<T>(c, 0), dx, n, h, rows, t);
  });
}

void stride_gather(Call& c) {
  long n = size(c, 0);
  launch(c, stride_gather_kernel, dim3(blocks_of(n, 256)), 256, 0, floats(c, 0), floats(c, 1), n, size(c, 1), size(c, 2));
}

void stride_scatter(Call& c) {
  long n = size(c, 0), stride = size(c, 1);
  launch(c, stride_scatter_kernel, dim3(blocks_of(n * stride, 256)), 256, 0, floats(c, 0), floats(c, 1), n, stride, size(c, 2));
}

void copy(Call& c) {
  size_t bytes = size_t(size(c, 0)) * bytes_of(c.type[0]);
  if (bytes && floats(c, 0) != floats(c, 1))
    succeeded(c, cudaMemcpyAsync(floats(c, 1), floats(c, 0), bytes, cudaMemcpyDefault, c.stream));
}

void fill(Call& c) {
  long n = size(c, 0);
  launch(c, fill_kernel, dim3(blocks_of(n, 256)), 256, 0, floats(c, 0), n, real(c, 1));
}

}  // namespace baton

// Rows and elements moved by index: embedding, gather, scatter, strides, rope, copies.
#include "kernel.cuh"

namespace baton {
namespace {

// Step between the elements of one row of a weight, and where the row starts.
struct WeightRow {
  long start, step;
  __device__ WeightRow(long row, long width, bool panels)
      : start(panels ? (row >> 4) * 16 * width + (row & 15) : row * width), step(panels ? 16 : 1) {}
};

__global__ void embedding_kernel(Reporter r, const int* ids, const float* w, float* x, long v, long h, bool panels, long first,
                                 long total) {
  long i = blockIdx.x;
  int id = ids[i];
  bool here = id >= first && id < first + v;
  if (threadIdx.x == 0 && !r.inside(TOKEN_ID, i, id, total)) here = false;
  here = here && id >= 0 && id < total;
  WeightRow row(here ? id - first : 0, h, panels);
  for (long j = threadIdx.x; j < h; j += blockDim.x) x[i * h + j] = here ? w[row.start + j * row.step] : 0.f;
}

// The row of out[·] that belongs to element i of `at`; negative for none.
struct IdRows {
  long first, v, total;
  bool panels;
  __device__ long row(int id) const { return id >= first && id < first + v && id >= 0 && id < total ? id - first : -1; }
};

// out[row(at[i])] += rows of `in`, in order. A block owns the first i of its kind and walks the later ones; so every sum is a
// chain over i, whatever the blocks do.
__global__ void scatter_kernel(Reporter r, int name, const int* at, const float* in, float* out, long n, long h, IdRows rows,
                               long limit) {
  constexpr int THREADS = 128;
  __shared__ int earlier, next;
  long i = blockIdx.x;
  int mine = at[i];
  if (threadIdx.x == 0) earlier = 0, r.inside(name, i, mine, limit);
  __syncthreads();
  if (mine < 0 || mine >= limit) return;
  for (long s = threadIdx.x; s < i; s += THREADS)
    if (at[s] == mine) earlier = 1;
  __syncthreads();
  long row = rows.row(mine);
  if (earlier || row < 0) return;
  WeightRow to(row, h, rows.panels);
  for (long s = i; s < n;) {
    for (long j = threadIdx.x; j < h; j += THREADS) {
      float* o = out + to.start + j * to.step;
      *o = *o + in[s * h + j];
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
}

__global__ void gather_kernel(Reporter r, const float* x, const int* rows, float* y, long h, long t) {
  long i = blockIdx.x;
  int row = rows[i];
  if (row < 0 || row >= t) {
    if (threadIdx.x == 0) r.inside(ROW, i, row, t);
    return;
  }
  // Elements of any type: bits are kept.
  const int* from = reinterpret_cast<const int*>(x) + row * h;
  int* to = reinterpret_cast<int*>(y) + i * h;
  for (long j = threadIdx.x; j < h; j += blockDim.x) to[j] = from[j];
}

__global__ void stride_gather_kernel(const float* x, float* y, long n, long stride, long phase) {
  for (long i = first_index(); i < n; i += index_step()) y[i] = x[stride * i + phase];
}

__global__ void stride_scatter_kernel(const float* y, float* x, long n, long stride, long phase) {
  for (long i = first_index(); i < n * stride; i += index_step()) x[i] = i % stride == phase ? y[i / stride] : 0.f;
}

__global__ void rope_kernel(Reporter r, const float* x, const int* positions, const float* table, float* y, long heads, long d,
                            float direction, long limit) {
  long i = blockIdx.x, half = d / 2;
  int position = positions[i];
  if (position < 0 || position >= limit) {
    if (threadIdx.x == 0) r.inside(POSITION, i, position, limit);
    return;
  }
  const float *cosine = table + position * d, *sine = cosine + half;
  for (long e = threadIdx.x; e < heads * half; e += blockDim.x) {
    long n = e / half, j = e % half, a = (i * heads + n) * d + j;
    float u = x[a], v = x[a + half], k = cosine[j], s = sine[j] * direction;
    y[a] = u * k - v * s;
    y[a + half] = v * k + u * s;
  }
}

__global__ void fill_kernel(float* y, long n, float value) {
  for (long i = first_index(); i < n; i += index_step()) y[i] = value;
}

unsigned threads_for(long width) { return width >= 256 ? 256 : width >= 128 ? 128 : width >= 64 ? 64 : 32; }

// Makes `out` hold the sum so far: the prior value or zero.
void continue_or_zero(Call& c, const float* prior, float* out, long n) {
  if (!prior) succeeded(c, cudaMemsetAsync(out, 0, size_t(n) * 4, c.stream));
  else if (prior != out) succeeded(c, cudaMemcpyAsync(out, prior, size_t(n) * 4, cudaMemcpyDefault, c.stream));
}

}  // namespace

void embedding(Call& c) {
  long t = size(c, 0), v = size(c, 1), h = size(c, 2);
  launch(c, embedding_kernel, dim3(unsigned(t)), threads_for(h), 0, reporter(c), ints(c, 0), floats(c, 1), floats(c, 2), v, h,
         size(c, 3) == 1, size(c, 4), size(c, 5));
}

void embedding_grad(Call& c) {
  long t = size(c, 0), v = size(c, 1), h = size(c, 2);
  bool panels = size(c, 3) == 1;
  float* dw = floats(c, c.operands - 1);
  continue_or_zero(c, size(c, 4) == 1 ? floats(c, 2) : nullptr, dw, (panels ? parts(v, 16) * 16 : v) * h);
  IdRows rows{size(c, 5), v, size(c, 6), panels};
  launch(c, scatter_kernel, dim3(unsigned(t)), 128, 0, reporter(c), TOKEN_ID, ints(c, 0), floats(c, 1), dw, t, h, rows, size(c, 6));
}

void gather_rows(Call& c) {
  long n = size(c, 0), h = size(c, 1);
  launch(c, gather_kernel, dim3(unsigned(n)), threads_for(h), 0, reporter(c), floats(c, 0), ints(c, 1), floats(c, 2), h, size(c, 2));
}

void scatter_rows(Call& c) {
  long n = size(c, 0), h = size(c, 1), t = size(c, 2);
  float* dx = floats(c, c.operands - 1);
  continue_or_zero(c, size(c, 3) == 1 ? floats(c, 2) : nullptr, dx, t * h);
  IdRows rows{0, t, t, false};
  launch(c, scatter_kernel, dim3(unsigned(n)), 128, 0, reporter(c), ROW, ints(c, 1), floats(c, 0), dx, n, h, rows, t);
}

void stride_gather(Call& c) {
  long n = size(c, 0);
  launch(c, stride_gather_kernel, dim3(blocks_of(n, 256)), 256, 0, floats(c, 0), floats(c, 1), n, size(c, 1), size(c, 2));
}

void stride_scatter(Call& c) {
  long n = size(c, 0), stride = size(c, 1);
  launch(c, stride_scatter_kernel, dim3(blocks_of(n * stride, 256)), 256, 0, floats(c, 0), floats(c, 1), n, stride, size(c, 2));
}

// Rotary position embedding (Su et al. 2021), halves rotated against each other.
void rope(Call& c) {
  long t = size(c, 0), heads = size(c, 1), d = size(c, 2);
  launch(c, rope_kernel, dim3(unsigned(t)), threads_for(heads * d / 2), 0, reporter(c), floats(c, 0), ints(c, 1), floats(c, 2),
         floats(c, 3), heads, d, real(c, 3), elements(c, 2) / d);
}

void copy(Call& c) {
  size_t bytes = size_t(size(c, 0)) * 4;
  if (bytes && floats(c, 0) != floats(c, 1))
    succeeded(c, cudaMemcpyAsync(floats(c, 1), floats(c, 0), bytes, cudaMemcpyDefault, c.stream));
}

void fill(Call& c) {
  long n = size(c, 0);
  launch(c, fill_kernel, dim3(blocks_of(n, 256)), 256, 0, floats(c, 0), n, real(c, 1));
}

}  // namespace baton

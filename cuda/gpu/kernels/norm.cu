// RMS normalisation. In the CPU's order a half-warp takes a row, so that its sums are those of sixteen lanes. Elsewhere as many
// threads take a row as its width asks for, sixteen bytes at a time, and keep it in registers; a row's bits depend on its width alone.
#include "packs.cuh"

namespace baton {
namespace {

constexpr unsigned THREADS = 128, ROWS = THREADS / 16;

// The row of a half-warp and its lane; all lanes stay until the end, since they exchange sums.
struct HalfWarp {
  long row;
  int lane;
  bool live;
  __device__ HalfWarp(long rows) : row(long(blockIdx.x) * ROWS + threadIdx.x / 16), lane(int(threadIdx.x % 16)), live(row < rows) {}
};

// What a norm reads and writes; with r and s, of the sum s = x + r.
template <class T>
struct Norm {
  const T *x, *r, *w;
  T *s, *y;
  float* rstd;
  long rows, h;
  float eps;
};

template <class T>
__global__ void rmsnorm_kernel(Norm<T> z) {
  HalfWarp at(z.rows);
  const T* from = (z.r ? z.s : z.x) + at.row * z.h;
  float squares = 0;
  if (at.live)
    for (long j = at.lane; j < z.h; j += 16) {
      if (z.r) z.s[at.row * z.h + j] = stored<T>(number(z.x[at.row * z.h + j]) + number(z.r[at.row * z.h + j]));
      squares = fmaf(number(from[j]), number(from[j]), squares);
    }
  squares = fold16(squares);
  if (!at.live) return;
  float scale = 1.f / sqrtf(squares / float(z.h) + z.eps);
  if (at.lane == 0) z.rstd[at.row] = scale;
  for (long j = at.lane; j < z.h; j += 16) z.y[at.row * z.h + j] = stored<T>(number(from[j]) * scale * number(z.w[j]));
}

template <class T>
__global__ void rmsnorm_dx_kernel(const T* dy, const T* x, const T* w, const float* rstd, const T* prior, T* dx, long rows, long h) {
  HalfWarp z(rows);
  const T *g = dy + z.row * h, *xi = x + z.row * h;
  float s = 0;
  if (z.live)
    for (long j = z.lane; j < h; j += 16) s = fmaf(number(g[j]) * number(w[j]), number(xi[j]), s);
  s = fold16(s);
  if (!z.live) return;
  float r = rstd[z.row], scale = s * r * r * r / float(h);
  for (long j = z.lane; j < h; j += 16) {
    float d = number(g[j]) * number(w[j]) * r - number(xi[j]) * scale;
    dx[z.row * h + j] = stored<T>(prior ? number(prior[z.row * h + j]) + d : d);
  }
}

// ---- rows in registers -------------------------------------------------------------------------------------------

// LANES threads take a row, each EACH packs of it.
template <int LANES_, int EACH_>
struct Shape {
  static constexpr int LANES = LANES_, EACH = EACH_, BLOCK = LANES > 128 ? LANES : 128, AT_ONCE = BLOCK / LANES;
};

template <class T, class S>
__global__ void __launch_bounds__(S::BLOCK) wide_norm_kernel(Norm<T> z) {
  constexpr int V = WIDE<T>;
  __shared__ float share[S::BLOCK / 32];
  long row = long(blockIdx.x) * S::AT_ONCE + threadIdx.x / S::LANES;
  int lane = int(threadIdx.x % S::LANES);
  bool live = row < z.rows;
  float v[S::EACH][V], w[S::EACH][V], squares = 0;
#pragma unroll
  for (int k = 0; k < S::EACH; k++) {
    long j = (long(k) * S::LANES + lane) * V, at = row * z.h + j;
    if (!live || j >= z.h) continue;
    // All reads are on their way before the row waits for its sum.
    read<V>(z.w + j, w[k]), read<V>(z.x + at, v[k]);
    if (z.r) {
      float r[V];
      read<V>(z.r + at, r);
#pragma unroll
      for (int e = 0; e < V; e++) v[k][e] = number(stored<T>(v[k][e] + r[e]));
      write<V>(z.s + at, v[k]);
    }
#pragma unroll
    for (int e = 0; e < V; e++) squares = fmaf(v[k][e], v[k][e], squares);
  }
  float scale = 1.f / sqrtf(sum_of<S::LANES>(squares, share) / float(z.h) + z.eps);
  if (!live) return;
  if (lane == 0) z.rstd[row] = scale;
#pragma unroll
  for (int k = 0; k < S::EACH; k++) {
    long j = (long(k) * S::LANES + lane) * V;
    if (j >= z.h) continue;
#pragma unroll
    for (int e = 0; e < V; e++) v[k][e] = v[k][e] * scale * w[k][e];
    write<V>(z.y + row * z.h + j, v[k]);
  }
}

// Blocks walk over rows; each leaves what its rows give to the gradient of the weight in `sums`, unless that is null.
template <class T, class S>
__global__ void __launch_bounds__(S::BLOCK)
    wide_grad_kernel(const T* dy, const T* x, const T* w, const float* rstd, const T* prior, T* dx, float* sums, long rows, long h) {
  constexpr int V = WIDE<T>;
  __shared__ float share[S::BLOCK / 32], all[S::AT_ONCE][S::AT_ONCE > 1 ? S::LANES * V : 1];
  int mine = int(threadIdx.x / S::LANES), lane = int(threadIdx.x % S::LANES);
  float weight[S::EACH][V], sum[S::EACH][V] = {};
#pragma unroll
  for (int k = 0; k < S::EACH; k++) {
    long j = (long(k) * S::LANES + lane) * V;
    if (j < h) read<V>(w + j, weight[k]);
  }
  for (long base = long(blockIdx.x) * S::AT_ONCE; base < rows; base += long(gridDim.x) * S::AT_ONCE) {
    long row = base + mine;
    bool live = row < rows;
    float g[S::EACH][V], a[S::EACH][V], r = live ? rstd[row] : 0.f, s = 0;
#pragma unroll
    for (int k = 0; k < S::EACH; k++) {
      long j = (long(k) * S::LANES + lane) * V;
      if (!live || j >= h) continue;
      read<V>(dy + row * h + j, g[k]), read<V>(x + row * h + j, a[k]);
#pragma unroll
      for (int e = 0; e < V; e++) {
        sum[k][e] = sum[k][e] + g[k][e] * (a[k][e] * r);
        g[k][e] = g[k][e] * weight[k][e];
        s = fmaf(g[k][e], a[k][e], s);
      }
    }
    s = sum_of<S::LANES>(s, share);
    float scale = s * r * r * r / float(h);
#pragma unroll
    for (int k = 0; k < S::EACH; k++) {
      long j = (long(k) * S::LANES + lane) * V;
      if (!live || j >= h) continue;
      float p[V] = {};
      if (prior) read<V>(prior + row * h + j, p);
#pragma unroll
      for (int e = 0; e < V; e++) {
        float d = g[k][e] * r - a[k][e] * scale;
        p[e] = prior ? p[e] + d : d;
      }
      write<V>(dx + row * h + j, p);
    }
  }
  if (!sums) return;
  if (S::AT_ONCE > 1) {
    for (int e = 0; e < V; e++) all[mine][lane * V + e] = sum[0][e];
    __syncthreads();
    if (mine != 0) return;
    for (int e = 0; e < V; e++) {
      sum[0][e] = 0;
      for (int i = 0; i < S::AT_ONCE; i++) sum[0][e] = sum[0][e] + all[i][lane * V + e];
    }
  }
#pragma unroll
  for (int k = 0; k < S::EACH; k++) {
    long j = (long(k) * S::LANES + lane) * V;
    if (j < h) write<V>(sums + blockIdx.x * h + j, sum[k]);
  }
}

// f(shape) for rows of h numbers; false where they are in no whole packs, or too long.
template <class T, class F>
bool by_width(long h, F f) {
  long packs = h / WIDE<T>;
  if (h == 0 || h % WIDE<T> != 0 || packs > 1024) return false;
  if (packs <= 16) f(Shape<16, 1>());
  else if (packs <= 32) f(Shape<32, 1>());
  else if (packs <= 128) f(Shape<128, 1>());
  else if (packs <= 256) f(Shape<256, 1>());
  else if (packs <= 512) f(Shape<256, 2>());
  else f(Shape<512, 2>());
  return true;
}

template <class T>
void run_norm(Call& c, Norm<T> z) {
  bool wide = on_tensor_cores(sizeof(T) == 2) && aligned(z.x, z.r, z.w, z.s, z.y) && by_width<T>(z.h, [&](auto shape) {
    typedef decltype(shape) S;
    launch(c, wide_norm_kernel<T, S>, dim3(unsigned(parts(z.rows, S::AT_ONCE))), S::BLOCK, 0, z);
  });
  if (!wide) launch(c, rmsnorm_kernel<T>, dim3(unsigned(parts(z.rows, ROWS))), THREADS, 0, z);
}

// Both gradients, or that of the rows alone.
template <class T>
void run_grad(Call& c, const T* prior, T* dx, bool weight, Numbers dw_prior, OutNumbers dw) {
  long rows = size(c, 0), h = size(c, 1);
  const T *dy = at<T>(c, 0), *x = at<T>(c, 1), *w = at<T>(c, 2);
  const float* rstd = floats(c, 3);
  float* sums = reinterpret_cast<float*>(c.scratch);
  bool wide = rows > 0 && on_tensor_cores(sizeof(T) == 2) && aligned(dy, x, w, prior, dx) && by_width<T>(h, [&](auto shape) {
    typedef decltype(shape) S;
    long blocks = parts(rows, S::AT_ONCE);
    if (weight) blocks = smaller(blocks, MOST_PARTS);
    launch(c, wide_grad_kernel<T, S>, dim3(unsigned(blocks)), S::BLOCK, 0, dy, x, w, rstd, prior, dx, weight ? sums : nullptr, rows, h);
    if (weight) add_parts(c, sums, blocks, h, dw_prior, dw);
  });
  if (wide) return;
  if (weight) sum_columns(c, numbers(c, 0), numbers(c, 1), rstd, rows, h, dw_prior, dw);
  launch(c, rmsnorm_dx_kernel<T>, dim3(unsigned(parts(rows, ROWS))), THREADS, 0, dy, x, w, rstd, prior, dx, rows, h);
}

}  // namespace

void rmsnorm(Call& c) {
  by_type(c, 0, [&](auto type) {
    typedef decltype(type) T;
    run_norm<T>(c, {at<T>(c, 0), nullptr, at<T>(c, 1), nullptr, at<T>(c, 2), floats(c, 3), size(c, 0), size(c, 1), real(c, 2)});
  });
}

void add_rmsnorm(Call& c) {
  by_type(c, 0, [&](auto type) {
    typedef decltype(type) T;
    run_norm<T>(c, {at<T>(c, 0), at<T>(c, 1), at<T>(c, 2), at<T>(c, 3), at<T>(c, 4), floats(c, 5), size(c, 0), size(c, 1), real(c, 2)});
  });
}

void rmsnorm_dx(Call& c) {
  by_type(c, 0, [&](auto type) {
    typedef decltype(type) T;
    run_grad<T>(c, size(c, 2) == 1 ? at<T>(c, 4) : nullptr, at<T>(c, c.operands - 1), false, NO_NUMBERS, {});
  });
}

void rmsnorm_dw(Call& c) {
  Numbers prior = size(c, 2) == 1 ? numbers(c, 3) : NO_NUMBERS;
  sum_columns(c, numbers(c, 0), numbers(c, 1), floats(c, 2), size(c, 0), size(c, 1), prior, out_numbers(c, c.operands - 1));
}

void rmsnorm_grad(Call& c) {
  Numbers dw_prior = size(c, 3) == 1 ? numbers(c, c.operands - 3) : NO_NUMBERS;
  by_type(c, 0, [&](auto type) {
    typedef decltype(type) T;
    run_grad<T>(c, size(c, 2) == 1 ? at<T>(c, 4) : nullptr, at<T>(c, c.operands - 2), true, dw_prior, out_numbers(c, c.operands - 1));
  });
}

}  // namespace baton

// RMS normalisation: a half-warp takes a row, so that its sums are those of the CPU's sixteen lanes.
#include "kernel.cuh"

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

template <class T>
__global__ void rmsnorm_kernel(const T* x, const T* w, T* y, float* rstd, long rows, long h, float eps) {
  HalfWarp z(rows);
  const T* xi = x + z.row * h;
  float s = fold16(z.live ? lane_dot(xi, xi, h, z.lane) : 0.f);
  if (!z.live) return;
  float r = 1.f / sqrtf(s / float(h) + eps);
  if (z.lane == 0) rstd[z.row] = r;
  for (long j = z.lane; j < h; j += 16) y[z.row * h + j] = stored<T>(number(xi[j]) * r * number(w[j]));
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

// Rows in order: a thread owns a column.
template <class T, class G>
__global__ void rmsnorm_dw_kernel(const T* dy, const T* x, const float* rstd, const G* prior, G* dw, long rows, long h) {
  for (long j = first_index(); j < h; j += index_step()) {
    float s = prior ? number(prior[j]) : 0.f;
    for (long i = 0; i < rows; i++) s = s + number(dy[i * h + j]) * (number(x[i * h + j]) * rstd[i]);
    dw[j] = stored<G>(s);
  }
}

}  // namespace

void rmsnorm(Call& c) {
  long rows = size(c, 0), h = size(c, 1);
  by_type(c, 0, [&](auto type) {
    typedef decltype(type) T;
    launch(c, rmsnorm_kernel<T>, dim3(unsigned(parts(rows, ROWS))), THREADS, 0, at<T>(c, 0), at<T>(c, 1), at<T>(c, 2), floats(c, 3),
           rows, h, real(c, 2));
  });
}

void rmsnorm_dx(Call& c) {
  long rows = size(c, 0), h = size(c, 1);
  by_type(c, 0, [&](auto type) {
    typedef decltype(type) T;
    const T* prior = size(c, 2) == 1 ? at<T>(c, 4) : nullptr;
    launch(c, rmsnorm_dx_kernel<T>, dim3(unsigned(parts(rows, ROWS))), THREADS, 0, at<T>(c, 0), at<T>(c, 1), at<T>(c, 2),
           floats(c, 3), prior, at<T>(c, c.operands - 1), rows, h);
  });
}

void rmsnorm_dw(Call& c) {
  long rows = size(c, 0), h = size(c, 1);
  by_types(c, 0, c.operands - 1, [&](auto type, auto gradient) {
    typedef decltype(type) T;
    typedef decltype(gradient) G;
    const G* prior = size(c, 2) == 1 ? at<G>(c, 3) : nullptr;
    launch(c, rmsnorm_dw_kernel<T, G>, dim3(blocks_of(h, 64)), 64, 0, at<T>(c, 0), at<T>(c, 1), floats(c, 2), prior,
           at<G>(c, c.operands - 1), rows, h);
  });
}

}  // namespace baton

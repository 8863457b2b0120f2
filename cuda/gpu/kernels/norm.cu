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

__global__ void rmsnorm_kernel(const float* x, const float* w, float* y, float* rstd, long rows, long h, float eps) {
  HalfWarp z(rows);
  const float* xi = x + z.row * h;
  float s = fold16(z.live ? lane_dot(xi, xi, h, z.lane) : 0.f);
  if (!z.live) return;
  float r = 1.f / sqrtf(s / float(h) + eps);
  if (z.lane == 0) rstd[z.row] = r;
  for (long j = z.lane; j < h; j += 16) y[z.row * h + j] = xi[j] * r * w[j];
}

__global__ void rmsnorm_dx_kernel(const float* dy, const float* x, const float* w, const float* rstd, const float* prior, float* dx,
                                  long rows, long h) {
  HalfWarp z(rows);
  const float *g = dy + z.row * h, *xi = x + z.row * h;
  float s = 0;
  if (z.live)
    for (long j = z.lane; j < h; j += 16) s = fmaf(g[j] * w[j], xi[j], s);
  s = fold16(s);
  if (!z.live) return;
  float r = rstd[z.row], scale = s * r * r * r / float(h);
  for (long j = z.lane; j < h; j += 16) {
    float d = g[j] * w[j] * r - xi[j] * scale;
    dx[z.row * h + j] = prior ? prior[z.row * h + j] + d : d;
  }
}

// Rows in order: a thread owns a column.
__global__ void rmsnorm_dw_kernel(const float* dy, const float* x, const float* rstd, const float* prior, float* dw, long rows,
                                  long h) {
  for (long j = first_index(); j < h; j += index_step()) {
    float s = prior ? prior[j] : 0.f;
    for (long i = 0; i < rows; i++) s = s + dy[i * h + j] * (x[i * h + j] * rstd[i]);
    dw[j] = s;
  }
}

}  // namespace

void rmsnorm(Call& c) {
  long rows = size(c, 0), h = size(c, 1);
  launch(c, rmsnorm_kernel, dim3(unsigned(parts(rows, ROWS))), THREADS, 0, floats(c, 0), floats(c, 1), floats(c, 2), floats(c, 3),
         rows, h, real(c, 2));
}

void rmsnorm_dx(Call& c) {
  long rows = size(c, 0), h = size(c, 1);
  const float* prior = size(c, 2) == 1 ? floats(c, 4) : nullptr;
  launch(c, rmsnorm_dx_kernel, dim3(unsigned(parts(rows, ROWS))), THREADS, 0, floats(c, 0), floats(c, 1), floats(c, 2),
         floats(c, 3), prior, floats(c, c.operands - 1), rows, h);
}

void rmsnorm_dw(Call& c) {
  long rows = size(c, 0), h = size(c, 1);
  const float* prior = size(c, 2) == 1 ? floats(c, 3) : nullptr;
  launch(c, rmsnorm_dw_kernel, dim3(blocks_of(h, 64)), 64, 0, floats(c, 0), floats(c, 1), floats(c, 2), prior,
         floats(c, c.operands - 1), rows, h);
}

}  // namespace baton

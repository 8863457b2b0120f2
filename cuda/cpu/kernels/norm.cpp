// RMS normalisation (Zhang and Sennrich 2019): y = x · rstd · w, rstd = 1 / √(mean(x²) + ε), one rstd per row.
#include "kernel.h"

namespace baton {
namespace BATON_ISA {

void rmsnorm(Call& c) {
  long rows = size(c, 0), h = size(c, 1);
  float eps = real(c, 2);
  const float *x = floats(c, 0), *w = floats(c, 1);
  float *y = floats(c, 2), *rstd = floats(c, 3);
  split(*c.pool, rows, rows_of(h), [&](long begin, long end) {
    for (long i = begin; i < end; i++) {
      const float* xi = x + i * h;
      float r = 1.f / __builtin_sqrtf(dot(xi, xi, h) / float(h) + eps);
      rstd[i] = r;
      for (long j = 0; j < h; j++) y[i * h + j] = xi[j] * r * w[j];
    }
  });
}

// dx = rstd · (dy·w) − x · rstd³ / H · Σ dy·w·x
void rmsnorm_dx(Call& c) {
  long rows = size(c, 0), h = size(c, 1);
  bool carry = size(c, 2) == 1;
  const float *dy = floats(c, 0), *x = floats(c, 1), *w = floats(c, 2), *rstd = floats(c, 3);
  const float* prior = carry ? floats(c, 4) : nullptr;
  float* dx = floats(c, c.operands - 1);
  split(*c.pool, rows, rows_of(h), [&](long begin, long end) {
    for (long i = begin; i < end; i++) {
      const float *g = dy + i * h, *xi = x + i * h;
      v16 s = zero();
      by_lanes(0, h, [&](long j, long n) {
        s = fma(load_live(g + j, n) * load_live(w + j, n), load_live(xi + j, n), s);
      });
      float r = rstd[i], scale = sum(s) * r * r * r / float(h);
      float* d = dx + i * h;
      if (carry)
        for (long j = 0; j < h; j++) d[j] = prior[i * h + j] + (g[j] * w[j] * r - xi[j] * scale);
      else
        for (long j = 0; j < h; j++) d[j] = g[j] * w[j] * r - xi[j] * scale;
    }
  });
}

// Rows in order: a thread owns columns.
void rmsnorm_dw(Call& c) {
  long rows = size(c, 0), h = size(c, 1);
  const float *dy = floats(c, 0), *x = floats(c, 1), *rstd = floats(c, 2);
  float* dw = floats(c, c.operands - 1);
  continue_or_zero(size(c, 2) == 1, floats(c, 3), dw, h);
  split(*c.pool, h, 64, [&](long begin, long end) {
    for (long i = 0; i < rows; i++) {
      float r = rstd[i];
      for (long j = begin; j < end; j++) dw[j] += dy[i * h + j] * (x[i * h + j] * r);
    }
  });
}

}  // namespace BATON_ISA
}  // namespace baton

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

// s = x + r, then the norm of s: the sum of squares is that of `rmsnorm`, while s is at hand.
void add_rmsnorm(Call& c) {
  long rows = size(c, 0), h = size(c, 1);
  float eps = real(c, 2);
  const float *x = floats(c, 0), *r = floats(c, 1), *w = floats(c, 2);
  float *s = floats(c, 3), *y = floats(c, 4), *rstd = floats(c, 5);
  split(*c.pool, rows, rows_of(h), [&](long begin, long end) {
    for (long i = begin; i < end; i++) {
      const float *xi = x + i * h, *ri = r + i * h;
      float *si = s + i * h, *yi = y + i * h;
      v16 squares = zero();
      by_lanes(0, h, [&](long j, long n) {
        v16 a = load_live(xi + j, n) + load_live(ri + j, n);
        store_live(si + j, a, n);
        squares = fma(a, a, squares);
      });
      float total = sum(squares);
      if (c.narrow) round_stored(c, si, h), total = dot(si, si, h);
      float scale = 1.f / __builtin_sqrtf(total / float(h) + eps);
      rstd[i] = scale;
      by_lanes(0, h, [&](long j, long n) { store_live(yi + j, load_live(si + j, n) * all(scale) * load_live(w + j, n), n); });
    }
  });
}

namespace {

// Both gradients of a norm, part by part.
struct Gradients {
  const float *dy, *x, *w, *rstd, *prior;
  float *dx, *dw;
  long h;

  // dx = rstd · (dy·w) − x · rstd³ / H · Σ dy·w·x
  void rows(long begin, long end) const {
    for (long i = begin; i < end; i++) {
      const float *g = dy + i * h, *xi = x + i * h;
      v16 s = zero();
      by_lanes(0, h, [&](long j, long n) {
        s = fma(load_live(g + j, n) * load_live(w + j, n), load_live(xi + j, n), s);
      });
      float r = rstd[i], scale = sum(s) * r * r * r / float(h);
      float* d = dx + i * h;
      if (prior)
        for (long j = 0; j < h; j++) d[j] = prior[i * h + j] + (g[j] * w[j] * r - xi[j] * scale);
      else
        for (long j = 0; j < h; j++) d[j] = g[j] * w[j] * r - xi[j] * scale;
    }
  }
  // What rows [first, last) give to columns [begin, end) of dw, in order.
  void weight(long first, long last, long begin, long end) const {
    for (long i = first; i < last; i++) {
      float r = rstd[i];
      for (long j = begin; j < end; j++) dw[j] += dy[i * h + j] * (x[i * h + j] * r);
    }
  }
};

}  // namespace

void rmsnorm_dx(Call& c) {
  long rows = size(c, 0), h = size(c, 1);
  const float* prior = size(c, 2) == 1 ? floats(c, 4) : nullptr;
  Gradients z{floats(c, 0), floats(c, 1), floats(c, 2), floats(c, 3), prior, floats(c, c.operands - 1), nullptr, h};
  split(*c.pool, rows, rows_of(h), [&](long begin, long end) { z.rows(begin, end); });
}

// A thread owns columns.
void rmsnorm_dw(Call& c) {
  long rows = size(c, 0), h = size(c, 1);
  float* dw = floats(c, c.operands - 1);
  Gradients z{floats(c, 0), floats(c, 1), nullptr, floats(c, 2), nullptr, nullptr, dw, h};
  continue_or_zero(size(c, 2) == 1, floats(c, 3), dw, h);
  split(*c.pool, h, 64, [&](long begin, long end) { z.weight(0, rows, begin, end); });
}

void rmsnorm_grad(Call& c) {
  long rows = size(c, 0), h = size(c, 1), each = rows_of(h);
  float* dw = floats(c, c.operands - 1);
  const float* prior = size(c, 2) == 1 ? floats(c, 4) : nullptr;
  Gradients z{floats(c, 0), floats(c, 1), floats(c, 2), floats(c, 3), prior, floats(c, c.operands - 2), dw, h};
  continue_or_zero(size(c, 3) == 1, floats(c, c.operands - 3), dw, h);
  if (c.pool->threads() == 1) {
    // Rows are still in the cache when the second gradient wants them.
    for (long i = 0; i < rows; i += each) {
      z.weight(i, smaller(rows, i + each), 0, h);
      z.rows(i, smaller(rows, i + each));
    }
    return;
  }
  split(*c.pool, h, 64, [&](long begin, long end) { z.weight(0, rows, begin, end); });
  split(*c.pool, rows, each, [&](long begin, long end) { z.rows(begin, end); });
}

}  // namespace BATON_ISA
}  // namespace baton

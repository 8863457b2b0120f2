// Rows and elements moved by index: embedding, gather, scatter, strides, copies.
#include "kernel.h"

namespace baton {
namespace BATON_ISA {

void embedding(Call& c) {
  long t = size(c, 0), v = size(c, 1), h = size(c, 2);
  bool panels = size(c, 3) == 1;
  const int32_t* ids = ints(c, 0);
  long first = size(c, 4);
  const float* w = floats(c, 1);
  float* x = floats(c, 2);
  if (!check_indexes(c, "token id", ids, t, size(c, 5))) return;
  split(*c.pool, t, rows_of(h), [&](long begin, long end) {
    for (long i = begin; i < end; i++) {
      if (ids[i] < first || ids[i] >= first + v) {
        memset(x + i * h, 0, size_t(h) * 4);
        continue;
      }
      WeightRow row(ids[i] - first, h, panels);
      const float* from = w + row.start;
      if (panels)
        for (long j = 0; j < h; j++) x[i * h + j] = from[16 * j];
      else memcpy(x + i * h, from, size_t(h) * 4);
    }
  });
}

// Tokens in order: a thread owns columns.
void embedding_grad(Call& c) {
  long t = size(c, 0), v = size(c, 1), h = size(c, 2);
  bool panels = size(c, 3) == 1;
  long first = size(c, 5);
  const int32_t* ids = ints(c, 0);
  const float* dx = floats(c, 1);
  float* dw = floats(c, c.operands - 1);
  if (!check_indexes(c, "token id", ids, t, size(c, 6))) return;
  continue_or_zero(size(c, 4) == 1, floats(c, 2), dw, weight_elements(v, h, panels));
  split(*c.pool, h, 64, [&](long begin, long end) {
    for (long i = 0; i < t; i++) {
      if (ids[i] < first || ids[i] >= first + v) continue;
      WeightRow row(ids[i] - first, h, panels);
      float* to = dw + row.start;
      if (panels)
        for (long j = begin; j < end; j++) to[16 * j] += dx[i * h + j];
      else
        for (long j = begin; j < end; j++) to[j] += dx[i * h + j];
    }
  });
}

void gather_rows(Call& c) {
  long n = size(c, 0), h = size(c, 1);
  const float* x = floats(c, 0);
  const int32_t* rows = ints(c, 1);
  float* y = floats(c, 2);
  if (!check_indexes(c, "row", rows, n, size(c, 2))) return;
  split(*c.pool, n, rows_of(h), [&](long begin, long end) {
    for (long i = begin; i < end; i++) memcpy(y + i * h, x + rows[i] * h, size_t(h) * 4);
  });
}

// In order: a thread owns columns.
void scatter_rows(Call& c) {
  long n = size(c, 0), h = size(c, 1), t = size(c, 2);
  const float* dy = floats(c, 0);
  const int32_t* rows = ints(c, 1);
  float* dx = floats(c, c.operands - 1);
  if (!check_indexes(c, "row", rows, n, t)) return;
  continue_or_zero(size(c, 3) == 1, floats(c, 2), dx, t * h);
  split(*c.pool, h, 64, [&](long begin, long end) {
    for (long i = 0; i < n; i++)
      for (long j = begin; j < end; j++) dx[rows[i] * h + j] += dy[i * h + j];
  });
}

void stride_gather(Call& c) {
  long n = size(c, 0), stride = size(c, 1), phase = size(c, 2);
  const float* x = floats(c, 0);
  float* y = floats(c, 1);
  for (long i = 0; i < n; i++) y[i] = x[stride * i + phase];
}

void stride_scatter(Call& c) {
  long n = size(c, 0), stride = size(c, 1), phase = size(c, 2);
  const float* y = floats(c, 0);
  float* x = floats(c, 1);
  memset(x, 0, size_t(n * stride) * 4);
  for (long i = 0; i < n; i++) x[stride * i + phase] = y[i];
}

void copy(Call& c) {
  long n = size(c, 0);
  const float* x = floats(c, 0);
  float* y = floats(c, 1);
  split(*c.pool, n, 16384, [&](long begin, long end) { memmove(y + begin, x + begin, size_t(end - begin) * 4); });
}

void fill(Call& c) {
  float* y = floats(c, 0);
  float value = real(c, 1);
  split(*c.pool, size(c, 0), 16384, [&](long begin, long end) {
    for (long i = begin; i < end; i++) y[i] = value;
  });
}

}  // namespace BATON_ISA
}  // namespace baton

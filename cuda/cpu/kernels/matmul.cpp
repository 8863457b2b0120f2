// Products with weights, and the sums over rows that belong to them.
#include "gemm.h"

namespace baton {
namespace BATON_ISA {

static void add(Pool& pool, const float* x, const float* b, float* y, long m, long n) {
  split(pool, m, rows_of(n), [&](long begin, long end) {
    for (long i = begin; i < end; i++)
      for (long j = 0; j < n; j++) y[i * n + j] = x[i * n + j] + b[j];
  });
}

void matmul(Call& c) {
  long m = size(c, 0), n = size(c, 1), k = size(c, 2);
  float* y = floats(c, c.operands - 1);
  multiply(*c.pool, {floats(c, 0), k, false}, weight_of(floats(c, 1), k, size(c, 3) == 1), {y, n, false}, m, n, k, false);
  if (size(c, 4) == 1) add(*c.pool, y, floats(c, 2), y, m, n);
}

// `count` products of the same rows.
static void side_by_side(Call& c, int count) {
  long m = size(c, 0), k = size(c, count + 1);
  bool panels = size(c, count + 2) == 1, biased = size(c, count + 3) == 1;
  for (int i = 0; i < count; i++) {
    long n = size(c, 1 + i);
    float* y = floats(c, c.operands - count + i);
    multiply(*c.pool, {floats(c, 0), k, false}, weight_of(floats(c, 1 + i), k, panels), {y, n, false}, m, n, k, false);
    if (biased) add(*c.pool, y, floats(c, 1 + count + i), y, m, n);
  }
}

void matmul3(Call& c) { side_by_side(c, 3); }
void matmul2(Call& c) { side_by_side(c, 2); }

void gated_matmul(Call& c) {
  long m = size(c, 0), n = size(c, 1), k = size(c, 2), rows = larger(1, long(SCRATCH_BYTES / 4 - GEMM_SCRATCH) / larger(n, 1));
  const float* x = floats(c, 0);
  Right gate = weight_of(floats(c, 1), k, size(c, 3) == 1), value = weight_of(floats(c, 2), k, size(c, 3) == 1);
  float *y = floats(c, 3), *up = reinterpret_cast<float*>(c.pool->scratch(0)) + GEMM_SCRATCH;
  for (long i = 0; i < m; i += rows) {
    long some = smaller(rows, m - i);
    multiply(*c.pool, {x + i * k, k, false}, gate, {y + i * n, n, false}, some, n, k, false);
    multiply(*c.pool, {x + i * k, k, false}, value, {up, n, false}, some, n, k, false);
    split(*c.pool, some, rows_of(n), [&](long begin, long end) {
      float *g = y + (i + begin) * n, *u = up + begin * n;
      round_stored(c, g, (end - begin) * n), round_stored(c, u, (end - begin) * n);
      by_lanes(0, (end - begin) * n, [&](long j, long live) {
        store_live(g + j, gated(load_live(g + j, live), load_live(u + j, live)), live);
      });
    });
  }
}

// The prior of a product is continued where it lies; the usual case is that it lies in the output already.
static bool carries(Call& c, int flag, int prior, float* out, long n) {
  bool carry = size(c, flag) == 1;
  if (carry) continue_or_zero(true, floats(c, prior), out, n);
  return carry;
}

void matmul_dx(Call& c) {
  long m = size(c, 0), n = size(c, 1), k = size(c, 2);
  float* dx = floats(c, c.operands - 1);
  bool carry = carries(c, 3, 2, dx, m * k);
  multiply(*c.pool, {floats(c, 0), n, false}, weight_back(floats(c, 1), k, size(c, 4) == 1), {dx, k, false}, m, k, n, carry);
}

void matmul_dw(Call& c) {
  long m = size(c, 0), n = size(c, 1), k = size(c, 2);
  float* dw = floats(c, c.operands - 1);
  bool panels = size(c, 4) == 1, carry = carries(c, 3, 2, dw, weight_elements(n, k, panels));
  multiply_gradient(*c.pool, floats(c, 0), n, floats(c, 1), dw, panels, m, n, k, carry);
}

void add_bias(Call& c) { add(*c.pool, floats(c, 0), floats(c, 1), floats(c, 2), size(c, 0), size(c, 1)); }

// Rows in order: a thread owns columns.
void column_sum(Call& c) {
  long m = size(c, 0), n = size(c, 1);
  const float* dy = floats(c, 0);
  float* db = floats(c, c.operands - 1);
  continue_or_zero(size(c, 2) == 1, floats(c, 1), db, n);
  split(*c.pool, n, 64, [&](long begin, long end) {
    for (long i = 0; i < m; i++)
      for (long j = begin; j < end; j++) db[j] += dy[i * n + j];
  });
}

}  // namespace BATON_ISA
}  // namespace baton

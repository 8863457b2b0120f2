// Products with weights, and the sums over rows that belong to them.
#include "gemm.h"

namespace baton {
namespace BATON_ISA {

void matmul(Call& c) {
  long m = size(c, 0), n = size(c, 1), k = size(c, 2);
  multiply(*c.pool, {floats(c, 0), k, false}, weight_of(floats(c, 1), k, size(c, 3) == 1), {floats(c, 2), n, false}, m, n, k, false);
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

void add_bias(Call& c) {
  long m = size(c, 0), n = size(c, 1);
  const float *x = floats(c, 0), *b = floats(c, 1);
  float* y = floats(c, 2);
  split(*c.pool, m, rows_of(n), [&](long begin, long end) {
    for (long i = begin; i < end; i++)
      for (long j = 0; j < n; j++) y[i * n + j] = x[i * n + j] + b[j];
  });
}

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

// Products with weights, and the sums over rows that belong to them.
#include "gemm.h"

namespace baton {
namespace BATON_ISA {

// Of the second of two products whose results meet: what is left of the scratch.
constexpr long GATED_FLOATS = long(SCRATCH_BYTES / 4) - GEMM_SCRATCH;

// `count` products of the same rows, into outputs of their own.
static void products(Call& c, int count) {
  long m = size(c, 0), k = size(c, count + 1);
  bool panels = size(c, count + 2) == 1, biased = size(c, count + 3) == 1;
  Product all[MOST_PRODUCTS];
  for (int i = 0; i < count; i++) {
    long n = size(c, 1 + i);
    all[i] = {weight_of(floats(c, 1 + i), k, panels), {floats(c, c.operands - count + i), n, false}, n,
              biased ? floats(c, 1 + count + i) : nullptr};
  }
  multiply(*c.pool, {floats(c, 0), k, false}, all, count, m, k, false);
}

void matmul(Call& c) { products(c, 1); }
void matmul2(Call& c) { products(c, 2); }
void matmul3(Call& c) { products(c, 3); }

// The gate goes where the result will be, the other product into scratch, and both become the result while they are in the cache.
void gated_matmul(Call& c) {
  long m = size(c, 0), n = size(c, 1), k = size(c, 2);
  bool panels = size(c, 3) == 1;
  if (m == 0) return;
  Product gate{weight_of(floats(c, 1), k, panels), {floats(c, 3), n, false}, n}, up{weight_of(floats(c, 2), k, panels), {}, n};
  Pieces pieces(*c.pool, &gate, 1, m, k);
  parallel(*c.pool, pieces.count(), [&](long piece, int thread) {
    float *scratch = reinterpret_cast<float*>(c.pool->scratch(thread)), *room = scratch + GEMM_SCRATCH;
    Area area = pieces.area(piece, 0);
    long rows = area.row_end - area.row, most = larger(1, GATED_FLOATS / larger(rows, 1) / 16 - 1);
    for (long q = area.panel; q < area.panel_end; q += most) {
      long end = smaller(q + most, area.panel_end);
      Product both[] = {columns_of(gate, q, end), columns_of(up, q, end)};
      // No power of two, so that rows spread over the cache.
      long columns = both[0].n, ld = columns > 16 ? parts(columns, 16) * 16 + 16 : 16;
      float* y = both[0].c.p += area.row * n;
      both[1].c = {room, ld, false};
      multiply({floats(c, 0) + area.row * k, k, false}, both, 2, rows, k, false, scratch);
      for (long i = 0; i < rows; i++) {
        float *g = y + i * n, *u = room + i * ld;
        round_stored(c, g, columns), round_stored(c, u, columns);
        by_lanes(0, columns, [&](long j, long live) {
          store_live(g + j, gated(load_live(g + j, live), load_live(u + j, live)), live);
        });
      }
    }
  });
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

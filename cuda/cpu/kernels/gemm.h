// C (+)= A · B. THE RULE: every element of C is one chain c = fma(a[k], b[k], c) over k = 0, 1, …, K − 1, from 0 or from
// what C holds, whatever the number of rows, the blocking or the threads. So splitting rows or columns, or K into
// consecutive accumulating calls, never changes a bit, and one row gives the bits of many.
#pragma once
#include "kernel.h"

namespace baton {
namespace BATON_ISA {

// Element (i, k) of A: p[i·ld + k], or p[k·ld + i] by column.
struct Left {
  const float* p;
  long ld;
  bool by_column;
};

// Element (k, j) of B.
//   panels:     a weight of j outputs and k inputs, p[(j/16)·16·ld + 16k + j%16], ld its inputs
//   transposed: a weight of k outputs and j inputs, p[(k/16)·16·ld + 16j + k%16], ld its inputs
//   rows:       p[k·ld + j]
//   columns:    p[j·ld + k]
struct Right {
  enum Form { panels, transposed, rows, columns } form;
  const float* p;
  long ld;
};

// A weight of `inputs` inputs as it lies, multiplied by what it turns into outputs, and by gradients of those.
inline Right weight_of(const float* w, long inputs, bool panels) { return {panels ? Right::panels : Right::columns, w, inputs}; }
inline Right weight_back(const float* w, long inputs, bool panels) { return {panels ? Right::transposed : Right::rows, w, inputs}; }

// Element (i, j) of C: p[i·ld + j], or in panels p[(j/16)·16·ld + 16i + j%16], zero in the columns past n.
struct Target {
  float* p;
  long ld;
  bool panels;
};

// One of the products that are made of the same rows: C (+)= A · B, of n columns. A bias is added to every sum.
struct Product {
  Right b;
  Target c;
  long n;
  const float* bias = nullptr;
};
constexpr int MOST_PRODUCTS = 3;
// Panels [panel, panel_end) of its columns, 16 each.
Product columns_of(const Product& p, long panel, long panel_end);

// Rows [row, row_end) and panels of 16 columns [panel, panel_end) of C.
struct Area {
  long row, row_end, panel, panel_end;
};

// Floats of scratch that `multiply` needs.
constexpr long GEMM_ROWS = 512, GEMM_DEPTH = 256;
constexpr long GEMM_SCRATCH = GEMM_ROWS * GEMM_DEPTH + 16 + 6 * 16 * GEMM_DEPTH;
// Floats behind these in the first thread's scratch, where a pool turns a transposed B.
constexpr long GEMM_TURNED = 360 << 10;

static_assert((GEMM_SCRATCH + GEMM_TURNED) * 4 <= long(SCRATCH_BYTES), "a block of a product fits into the scratch");

// How a pool shares out products of m rows: pieces of the rows, or of the columns of all of them one behind the other.
class Pieces {
 public:
  Pieces(const Pool& pool, const Product* products, int count, long m, long k);
  long count() const { return count_; }
  // What a piece has of one of the products.
  Area area(long piece, int product) const;

 private:
  long units(int product) const { return parts(parts(products_[product].n, 16), unit_); }

  const Product* products_;
  long m_, count_, unit_, all_ = 0;  // units of columns, which a piece has whole
  bool by_rows_;
};

// On the calling thread: all m rows of products of the same A, which is packed once.
void multiply(Left a, const Product* products, int count, long m, long k, bool carry, float* scratch);
// An area of one. n is the number of columns of all of C.
void multiply(Left a, Right b, Target c, Area area, long n, long k, bool carry, float* scratch);
// On the whole pool. No B is transposed.
void multiply(Pool& pool, Left a, const Product* products, int count, long m, long k, bool carry);
void multiply(Pool& pool, Left a, Right b, Target c, long m, long n, long k, bool carry);
// The gradient of a weight as it lies: dw[n, k] (+)= dyᵀ[n, m] · x[m, k]. `dy` has `ld` numbers from row to row.
void multiply_gradient(Pool& pool, const float* dy, long ld, const float* x, float* dw, bool panels, long m, long n, long k, bool carry);

}  // namespace BATON_ISA
}  // namespace baton

// Products of the same rows that one operation does: side by side, and the two of a gated activation. Of few rows in one launch, where
// launches and small grids would cost more than the arithmetic; of many one after another. Bits are those of single products.
#include "operands.cuh"

namespace baton {
namespace {

// Bytes of a product that waits for the other one, and rows that begin at sixteen bytes whatever their width.
#ifdef BATON_EMULATION
constexpr long WAITING = 64 << 10;  // small enough for tests to need several pieces
#else
constexpr long WAITING = long(SCRATCH_BYTES);
#endif
constexpr long TOGETHER = 8;

// False where rows are many, or numbers lie as multiply_few does not take them.
bool at_once(Call& c, Left left, const Product* product, int count, Joint joint, long m, long k) {
  if (!left.p.half || !on_tensor_cores(true) || !(few_before_blas(m) || !blas_is_there())) return false;
  return multiply_few(c, left, product, count, joint, m, k);
}

void side_by_side(Call& c, int count) {
  long m = size(c, 0), k = size(c, count + 1);
  bool panels = size(c, count + 2) == 1, biased = size(c, count + 3) == 1;
  Left x{numbers(c, 0), k, 1};
  Product product[MOST_PRODUCTS];
  for (int i = 0; i < count; i++) {
    long n = size(c, 1 + i);
    Numbers bias = biased ? numbers(c, 1 + count + i) : NO_NUMBERS;
    product[i] = {weight_of(numbers(c, 1 + i), k, panels), {out_numbers(c, c.operands - count + i), n, false, bias}, n};
  }
  if (at_once(c, x, product, count, Joint::beside, m, k)) return;
  for (int i = 0; i < count; i++) multiply(c, x, product[i].right, product[i].target, NO_NUMBERS, m, product[i].n, k);
}

}  // namespace

void matmul3(Call& c) { side_by_side(c, 3); }
void matmul2(Call& c) { side_by_side(c, 2); }

// Of many rows the gate goes where the result will be, the other product into scratch, as many rows at a time as fit there.
void gated_matmul(Call& c) {
  long m = size(c, 0), n = size(c, 1), k = size(c, 2);
  if (m == 0 || n == 0) return;
  bool panels = size(c, 3) == 1, half = is_half(c, 0);
  Left x{numbers(c, 0), k, 1};
  OutNumbers y = out_numbers(c, 3), up{c.scratch, half};
  Right of_gate = weight_of(numbers(c, 1), k, panels), of_up = weight_of(numbers(c, 2), k, panels);
  const Product both[] = {{of_gate, {y, n, false}, n}, {of_up, {up, n, false}, n}};
  if (at_once(c, x, both, 2, Joint::gated, m, k)) return;
  long most = WAITING / (half ? 2 : 4) / n / TOGETHER * TOGETHER;
  if (most == 0) fail(c, "rows of %ld numbers are more than the scratch holds", n);
  long each = most > 0 ? parts(parts(m, parts(m, most)), TOGETHER) * TOGETHER : m;
  for (long from = 0; from < m && !c.error[0]; from += each) {
    long rows = smaller(each, m - from);
    Left piece{x.p.from(from * k), k, 1};
    OutNumbers gate = y.from(from * n);
    multiply(c, piece, of_gate, {gate, n, false}, NO_NUMBERS, rows, n, k);
    multiply(c, piece, of_up, {up, n, false}, NO_NUMBERS, rows, n, k);
    swiglu(c, gate.p, up.p, gate.p, half, rows * n);
  }
}

}  // namespace baton

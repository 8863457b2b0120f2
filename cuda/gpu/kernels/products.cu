// Matrix products in fp32: every element of the result is one chain of multiply-adds over k, as on the CPU.
#include "operands.cuh"
#include "packs.cuh"

namespace baton {
namespace {

constexpr int COLUMNS = 64, DEPTH = 16, THREADS = 256, PAD = 4;

// A block makes 16·TM rows × 64 columns; thread (x, y) of 16 × 16 makes rows y + 16·r and columns 4x … 4x + 3.
template <int TM>
__global__ void __launch_bounds__(THREADS)
    multiply_kernel(Left left, Right right, Target target, Numbers prior, long m, long n, long k) {
  constexpr int ROWS = 16 * TM;
  __shared__ float a[DEPTH][ROWS + PAD], b[DEPTH][COLUMNS + PAD];
  int tid = int(threadIdx.x), x = tid % 16, y = tid / 16;
  long row = long(blockIdx.y) * ROWS, column = long(blockIdx.x) * COLUMNS;
  long width = target.panels ? parts(n, 16) * 16 : n;  // padding is written too
  float sum[TM][4];
  for (int r = 0; r < TM; r++)
    for (int q = 0; q < 4; q++) {
      long i = row + y + 16 * r, j = column + 4 * x + q;
      sum[r][q] = prior.p && i < m && j < width ? prior[place(target, i, j)] : 0.f;
    }
  for (long k0 = 0; k0 < k; k0 += DEPTH) {
    for (int e = tid; e < ROWS * DEPTH; e += THREADS) {
      // Threads side by side read what lies side by side.
      int i = left.column == 1 ? e / DEPTH : e % ROWS, d = left.column == 1 ? e % DEPTH : e / ROWS;
      a[d][i] = row + i < m && k0 + d < k ? element(left, row + i, k0 + d) : 0.f;
    }
    for (int e = tid; e < COLUMNS * DEPTH; e += THREADS) {
      bool across = right.form == Right::transposed || right.form == Right::columns;
      int j = across ? e / DEPTH : e % COLUMNS, d = across ? e % DEPTH : e / COLUMNS;
      b[d][j] = column + j < n && k0 + d < k ? element(right, k0 + d, column + j) : 0.f;
    }
    __syncthreads();
    // Steps past k would add 0 · 0, and turn −0 into 0.
    int depth = int(smaller(DEPTH, k - k0));
    for (int d = 0; d < depth; d++) {
      float w[4];
      for (int q = 0; q < 4; q++) w[q] = b[d][4 * x + q];
      for (int r = 0; r < TM; r++) {
        float v = a[d][y + 16 * r];
        for (int q = 0; q < 4; q++) sum[r][q] = fmaf(v, w[q], sum[r][q]);
      }
    }
    __syncthreads();
  }
  for (int r = 0; r < TM; r++)
    for (int q = 0; q < 4; q++) {
      long i = row + y + 16 * r, j = column + 4 * x + q;
      if (i < m && j < width) target.p.set(place(target, i, j), with_bias(target, j, sum[r][q]));
    }
}

}  // namespace

bool on_tensor_cores(bool half) {
  static const char* const chosen = getenv("BATON_CUDA_MATH");
  if (chosen && !strcmp(chosen, "bf16")) return true;
  if (chosen && !strcmp(chosen, "fp32")) return false;
  return half;
}

void multiply(Call& c, Left left, Right right, Target target, Numbers prior, long m, long n, long k) {
  if (on_tensor_cores(left.p.half || right.p.half)) {
    const Product one{right, target, n};
    auto few = [&] { return !prior.p && multiply_few(c, left, &one, 1, Joint::beside, m, k); };
    if (few_before_blas(m) && few()) return;
    if (multiply_blas(c, left, right, target, prior, m, n, k) || few()) return;
    if (multiply_half(c, left, right, target, prior, m, n, k)) return;
    return multiply_bf16(c, left, right, target, prior, m, n, k);
  }
  unsigned columns = unsigned(parts(n, COLUMNS));
  if (m > 64) launch(c, multiply_kernel<4>, dim3(columns, unsigned(parts(m, 64))), THREADS, 0, left, right, target, prior, m, n, k);
  else launch(c, multiply_kernel<1>, dim3(columns, unsigned(parts(m, 16))), THREADS, 0, left, right, target, prior, m, n, k);
}

// In panels the transpose is computed, whose rows are what a panel holds.
void multiply_gradient(Call& c, Numbers dy, long ld, Numbers x, OutNumbers dw, bool panels, Numbers prior, long m, long n, long k) {
  if (panels) multiply(c, {x, 1, k}, {Right::rows, dy, ld}, {dw, k, true}, prior, k, n, m);
  else multiply(c, {dy, 1, ld}, {Right::rows, x, k}, {dw, k, false}, prior, n, k, m);
}

void matmul(Call& c) {
  long m = size(c, 0), n = size(c, 1), k = size(c, 2);
  Numbers bias = size(c, 4) == 1 ? numbers(c, 2) : NO_NUMBERS;
  multiply(c, {numbers(c, 0), k, 1}, weight_of(numbers(c, 1), k, size(c, 3) == 1), {out_numbers(c, c.operands - 1), n, false, bias},
           NO_NUMBERS, m, n, k);
}

void matmul_dx(Call& c) {
  long m = size(c, 0), n = size(c, 1), k = size(c, 2);
  Numbers prior = size(c, 3) == 1 ? numbers(c, 2) : NO_NUMBERS;
  multiply(c, {numbers(c, 0), n, 1}, weight_back(numbers(c, 1), k, size(c, 4) == 1),
           {out_numbers(c, c.operands - 1), k, false}, prior, m, k, n);
}

void matmul_dw(Call& c) {
  long m = size(c, 0), n = size(c, 1), k = size(c, 2);
  Numbers prior = size(c, 3) == 1 ? numbers(c, 2) : NO_NUMBERS;
  multiply_gradient(c, numbers(c, 0), n, numbers(c, 1), out_numbers(c, c.operands - 1), size(c, 4) == 1, prior, m, n, k);
}

namespace {

template <class T>
__global__ void add_bias_kernel(const T* x, const T* b, T* y, long m, long n) {
  for (long i = first_index(); i < m * n; i += index_step()) y[i] = stored<T>(number(x[i]) + number(b[i % n]));
}

}  // namespace

void add_bias(Call& c) {
  long m = size(c, 0), n = size(c, 1);
  by_type(c, 0, [&](auto type) {
    typedef decltype(type) T;
    launch(c, add_bias_kernel<T>, dim3(blocks_of(m * n, 256)), 256, 0, at<T>(c, 0), at<T>(c, 1), at<T>(c, 2), m, n);
  });
}

void column_sum(Call& c) {
  Numbers prior = size(c, 2) == 1 ? numbers(c, 1) : NO_NUMBERS;
  sum_columns(c, numbers(c, 0), NO_NUMBERS, nullptr, size(c, 0), size(c, 1), prior, out_numbers(c, c.operands - 1));
}

}  // namespace baton

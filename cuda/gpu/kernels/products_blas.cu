// Matrix products by cuBLASLt in bf16 with fp32 sums: operands are rounded and laid out for it in the scratch, piece by piece, but a
// left one that lies as it is wanted. Results that are panels or bf16 are laid out from an fp32 piece. Chosen
// by BATON_CUDA_PRODUCTS=cublas; sizes that it does not take go to the kernels of products_bf16.cu.
#include <map>
#include <tuple>

#include "../libraries.h"
#include "../runtime.h"
#include "mma.cuh"
#include "operands.cuh"

#if !defined(BATON_EMULATION) && __has_include(<cublasLt.h>)
#include <cublasLt.h>
#include <dlfcn.h>
#define BATON_BLAS 1
#endif

namespace baton {

#ifdef BATON_BLAS
namespace {

constexpr uint64_t LEFT_BYTES = 64 << 20, RIGHT_BYTES = 64 << 20, OUT_BYTES = 64 << 20, WORKSPACE = 32 << 20;
static_assert(LEFT_BYTES + RIGHT_BYTES + OUT_BYTES + WORKSPACE <= PRODUCT_BYTES, "pieces fit");

#define BLAS_FUNCTIONS(F)                                                                                                       \
  F(cublasLtCreate) F(cublasLtMatmul) F(cublasLtMatmulDescCreate) F(cublasLtMatmulDescSetAttribute) F(cublasLtMatrixLayoutCreate) \
  F(cublasLtMatmulPreferenceCreate) F(cublasLtMatmulPreferenceSetAttribute) F(cublasLtMatmulAlgoGetHeuristic)

// What was made for one size.
struct Plan {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  bool usable = false;
};

// Of a device's worker thread; lives as long as the process.
struct Blas {
#define DECLARE(name) decltype(&::name) name = nullptr;
  BLAS_FUNCTIONS(DECLARE)
#undef DECLARE
  cublasLtHandle_t handle = nullptr;
  std::map<std::tuple<long, long, long, long>, Plan> plans;

  Blas() {
    void* library = open_library(Library::blas);
    if (!library) return;
    bool all = true;
#define RESOLVE(name) all = (name = reinterpret_cast<decltype(name)>(dlsym(library, #name))) && all;
    BLAS_FUNCTIONS(RESOLVE)
#undef RESOLVE
    if (!all || cublasLtCreate(&handle) != CUBLAS_STATUS_SUCCESS) handle = nullptr;
  }

  // Column-major: out (n × m, ld) = right (k × n)ᵀ · left (k × m).
  const Plan& plan(long m, long n, long k, long ld) {
    Plan& p = plans[{m, n, k, ld}];
    if (p.product) return p;
    cublasOperation_t turned = CUBLAS_OP_T;
    uint64_t workspace = WORKSPACE;
    cublasLtMatmulPreference_t preference = nullptr;
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    auto ok = [](cublasStatus_t s) { return s == CUBLAS_STATUS_SUCCESS; };
    p.usable = ok(cublasLtMatmulDescCreate(&p.product, CUBLAS_COMPUTE_32F, CUDA_R_32F)) &&
               ok(cublasLtMatmulDescSetAttribute(p.product, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned)) &&
               ok(cublasLtMatrixLayoutCreate(&p.a, CUDA_R_16BF, uint64_t(k), uint64_t(n), k)) &&
               ok(cublasLtMatrixLayoutCreate(&p.b, CUDA_R_16BF, uint64_t(k), uint64_t(m), k)) &&
               ok(cublasLtMatrixLayoutCreate(&p.c, CUDA_R_32F, uint64_t(n), uint64_t(m), ld)) &&
               ok(cublasLtMatmulPreferenceCreate(&preference)) &&
               ok(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                       sizeof workspace)) &&
               ok(cublasLtMatmulAlgoGetHeuristic(handle, p.product, p.a, p.b, p.c, p.c, preference, 1, &found, &count)) && count == 1;
    p.algorithm = found.algo;
    return p;
  }
};

Blas& blas() {
  thread_local Blas& one = *new Blas;
  return one;
}

// to[i][k] = the element, rounded; rows i of the piece, k contiguous.
__global__ void round_left_kernel(Left left, bf16* to, long m, long k) {
  for (long e = first_index(); e < m * k; e += index_step()) {
    // Read along what is contiguous in memory.
    long i = left.column == 1 ? e / k : e % m, d = left.column == 1 ? e % k : e / m;
    to[i * k + d] = __float2bfloat16_rn(element(left, i, d));
  }
}
__global__ void round_right_kernel(Right right, bf16* to, long column, long n, long k) {
  for (long e = first_index(); e < n * k; e += index_step()) {
    bool along = right.form == Right::rows || right.form == Right::panels;
    long j = along ? e % n : e / k, d = along ? e / n : e % k;
    to[j * k + d] = __float2bfloat16_rn(element(right, d, column + j));
  }
}
__global__ void lay_out_kernel(const float* from, Target target, Numbers prior, long row, long column, long m, long n, long width) {
  for (long e = first_index(); e < m * width; e += index_step()) {
    // Written along what is contiguous in memory.
    long j = target.panels ? e % 16 + e / (16 * m) * 16 : e % width, i = target.panels ? e / 16 % m : e / width;
    long at = place(target, row + i, column + j);
    target.p.set(at, (prior.p ? prior[at] : 0.f) + (j < n ? from[i * n + j] : 0.f));
  }
}

}  // namespace

bool multiply_blas(Call& c, Left left, Right right, Target target, Numbers prior, long m, long n, long k) {
  static const bool chosen = [] {
    const char* value = getenv("BATON_CUDA_PRODUCTS");
    return value && !strcmp(value, "cublas");
  }();
  if (!chosen || k % 8 || k * 32 > long(LEFT_BYTES) || !blas().handle) return false;
  char* scratch = c.scratch + SCRATCH_BYTES;
  bf16 *a = reinterpret_cast<bf16*>(scratch), *b = reinterpret_cast<bf16*>(scratch + LEFT_BYTES);
  float* out = reinterpret_cast<float*>(scratch + LEFT_BYTES + RIGHT_BYTES);
  void* workspace = scratch + LEFT_BYTES + RIGHT_BYTES + OUT_BYTES;
  long most_m = smaller(m, long(LEFT_BYTES) / (2 * k)), most_n = smaller(n, long(RIGHT_BYTES) / (2 * k) / 16 * 16);
  bool later = target.panels || target.p.half;  // laid out from a piece
  if (later) most_n = smaller(most_n, larger(16, long(OUT_BYTES) / (4 * most_m) / 16 * 16));
  if (later && most_m * most_n * 4 > long(OUT_BYTES)) return false;
  for (long q = 0; q < n; q += most_n)
    for (long r = 0; r < m; r += most_m)
      if (!blas().plan(smaller(most_m, m - r), smaller(most_n, n - q), k, later ? smaller(most_n, n - q) : target.ld).usable)
        return false;
  for (long q = 0; q < n; q += most_n) {
    long columns = smaller(most_n, n - q);
    launch(c, round_right_kernel, dim3(blocks_of(columns * k, 256)), 256, 0, right, b, q, columns, k);
    for (long r = 0; r < m; r += most_m) {
      long rows = smaller(most_m, m - r);
      Left piece{left.p.from(r * left.row), left.row, left.column};
      bool ready = left.p.half && left.column == 1 && left.row == k && reinterpret_cast<uintptr_t>(piece.p.p) % 16 == 0;
      if (!ready) launch(c, round_left_kernel, dim3(blocks_of(rows * k, 256)), 256, 0, piece, a, rows, k);
      const Plan& p = blas().plan(rows, columns, k, later ? columns : target.ld);
      float one = 1, carry = prior.p && !later ? 1.f : 0.f;
      void* to = later ? out : target.p.from(r * target.ld + q).p;
      const void* from = carry == 1 ? prior.from(r * target.ld + q).p : to;
      if (c.error[0]) return true;
      const void* rounded = ready ? piece.p.p : a;
      auto status = blas().cublasLtMatmul(blas().handle, p.product, &one, b, p.a, rounded, p.b, &carry, from, p.c, to, p.c, &p.algorithm,
                                          workspace, WORKSPACE, c.stream);
      if (status != CUBLAS_STATUS_SUCCESS) return fail(c, "cuBLASLt gave status %d", int(status)), true;
      long width = target.panels ? parts(columns, 16) * 16 : columns;
      if (later)
        launch(c, lay_out_kernel, dim3(blocks_of(rows * width, 256)), 256, 0, out, target, prior, r, q, rows, columns, width);
    }
  }
  return true;
}
#else
bool multiply_blas(Call&, Left, Right, Target, Numbers, long, long, long) { return false; }
#endif

}  // namespace baton

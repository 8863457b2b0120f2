// What every kernel source starts from: its operands, launches, failures, and sums in the order of the CPU backend.
//
// In fp32 these kernels give the bits of the CPU backend: sums that the CPU splits over sixteen lanes are split over sixteen
// threads and folded by the same tree, chains are chains. Sources are compiled without contraction of a·b + c and with
// subnormals flushed, as the CPU's are.
#pragma once
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <type_traits>

#include "../kernels.h"
#include "math.cuh"
#include "numbers.cuh"

namespace baton {

inline float* floats(const Call& c, int operand) { return static_cast<float*>(c.operand[operand]); }
inline const int* ints(const Call& c, int operand) { return static_cast<const int*>(c.operand[operand]); }
inline long size(const Call& c, int attribute) { return long(c.attribute[attribute]); }
inline float real(const Call& c, int attribute) { return float(c.attribute[attribute]); }
inline long elements(const Call& c, int operand) { return long(c.bytes[operand] / 4); }
__host__ __device__ inline long smaller(long a, long b) { return a < b ? a : b; }
__host__ __device__ inline long larger(long a, long b) { return a > b ? a : b; }
__host__ __device__ inline long parts(long n, long each) { return (n + each - 1) / each; }

template <class... T>
inline bool fail(Call& c, const char* format, T... values) {
  snprintf(c.error, ERROR_BYTES, format, values...);
  return false;
}
inline bool succeeded(Call& c, cudaError_t e) { return e == cudaSuccess || fail(c, "the GPU said: %s", cudaGetErrorString(e)); }

// Queues kernel(arguments…) on the call's stream; an empty grid is nothing to do.
template <class... P, class... A>
void launch(Call& c, void (*kernel)(P...), dim3 blocks, unsigned threads, size_t shared, A... arguments) {
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0 || c.error[0]) return;
#ifdef BATON_EMULATION
  emulation::enqueue_kernel(c.stream, [=] { emulation::run(blocks, dim3(threads), shared, [&] { kernel(P(arguments)...); }); });
  succeeded(c, cudaGetLastError());
#else
  if (shared > 48 << 10)
    succeeded(c, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)));
  kernel<<<blocks, threads, shared, c.stream>>>(P(arguments)...);
  succeeded(c, cudaGetLastError());
#endif
}

#ifdef BATON_EMULATION
#define DYNAMIC_SHARED(type, name) type* name = static_cast<type*>(emulation::dynamic_shared())
#else
#define DYNAMIC_SHARED(type, name)                \
  extern __shared__ __align__(16) char dynamic_shared_memory[]; \
  type* name = reinterpret_cast<type*>(dynamic_shared_memory)
#endif

// Blocks of `threads` that cover n elements, each thread one or more: kernels step by the size of the grid.
inline unsigned blocks_of(long n, long threads) { return unsigned(smaller(parts(n, threads), 1 << 16)); }
__device__ inline long first_index() { return long(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline long index_step() { return long(gridDim.x) * blockDim.x; }

// ---- faults ------------------------------------------------------------------------------------------------------

struct Reporter {
  Fault* fault;
  int operation;
  // Only the first report of a job counts.
  __device__ void report(int what, int index, long a, long b, long c = 0, long d = 0) const {
    if (atomicCAS(&fault->set, 0, 1) != 0) return;
    fault->operation = operation, fault->what = what, fault->index = index;
    fault->value[0] = a, fault->value[1] = b, fault->value[2] = c, fault->value[3] = d;
  }
  // Whether element i, which is `at`, may be used.
  __device__ bool inside(int index, long i, int at, long limit) const {
    if (at >= 0 && at < limit) return true;
    report(INDEX, index, i, at, limit);
    return false;
  }
  __device__ bool faulty() const { return fault->set != 0; }
};
inline Reporter reporter(const Call& c) { return {c.fault, c.operation}; }

// Step between the elements of a row of a weight, and where the row starts.
struct WeightRow {
  long start, step;
  __device__ WeightRow(long row, long width, bool panels)
      : start(panels ? (row >> 4) * 16 * width + (row & 15) : row * width), step(panels ? 16 : 1) {}
};

// Segment ends rise from 0 to n; kernels that walk segments start only when they do.
void check_ends(Call& c, const int* ends, long count, long n);

// ---- sums over threads -------------------------------------------------------------------------------------------

constexpr unsigned ALL = 0xffffffffu;

// Σ over the sixteen threads of a half-warp, by the CPU's tree; all of them get it.
template <class T>
__device__ inline T fold16(T a) {
  for (int half = 8; half; half /= 2) a = a + __shfl_xor_sync(ALL, a, half);
  return a;
}
// One lane's share of Σ aᵢ bᵢ, a chain.
template <class T>
__device__ inline float lane_dot(const T* a, const T* b, long n, int lane) {
  float s = 0;
  for (long i = lane; i < n; i += 16) s = fmaf(number(a[i]), number(b[i]), s);
  return s;
}
__device__ inline float most(float a, float b) { return a > b ? a : b; }

// The largest over a block of at most 1024 threads; `share` has 32 elements. All threads get it.
__device__ inline float block_most(float a, float* share) {
  for (int half = 16; half; half /= 2) a = most(__shfl_xor_sync(ALL, a, half), a);
  __syncthreads();
  if (threadIdx.x % 32 == 0) share[threadIdx.x / 32] = a;
  __syncthreads();
  for (unsigned w = 0; w < (blockDim.x + 31) / 32; w++) a = most(a, share[w]);
  return a;
}

// ---- products, in products.cu ------------------------------------------------------------------------------------

// Element (i, k) is p[i·row + k·column].
struct Left {
  Numbers p;
  long row, column;
};
// Element (k, j). rows: p[k·ld + j]. columns: p[j·ld + k]. panels: a weight of outputs j and inputs k, ld inputs. transposed: of
// outputs k, inputs j.
struct Right {
  enum Form { rows, columns, panels, transposed } form;
  Numbers p;
  long ld;
};
// Element (i, j): p[i·ld + j], or in panels a weight of outputs j and inputs i, whose padding columns become 0.
// With a bias, of which one is added to every column; never in panels.
struct Target {
  OutNumbers p;
  long ld;
  bool panels;
  Numbers bias = NO_NUMBERS;
};
// A weight of `inputs` inputs as it lies, multiplied by what it turns into outputs, and by gradients of those.
inline Right weight_of(Numbers w, long inputs, bool panels) { return {panels ? Right::panels : Right::columns, w, inputs}; }
inline Right weight_back(Numbers w, long inputs, bool panels) { return {panels ? Right::transposed : Right::rows, w, inputs}; }
inline long weight_elements(long n, long k, bool panels) { return (panels ? parts(n, 16) * 16 : n) * k; }

// target = left · right (+ prior, which has the target's form; NO_NUMBERS for none).
void multiply(Call& c, Left left, Right right, Target target, Numbers prior, long m, long n, long k);
// The gradient of a weight as it lies: dw[n, k] = dyᵀ[n, m] · x[m, k] (+ prior). `dy` has `ld` numbers from row to row.
void multiply_gradient(Call& c, Numbers dy, long ld, Numbers x, OutNumbers dw, bool panels, Numbers prior, long m, long n, long k);
void multiply_bf16(Call& c, Left left, Right right, Target target, Numbers prior, long m, long n, long k);
// Both operands in bf16, in memory that 16 bytes at a time can be read of; false for others.
bool multiply_half(Call& c, Left left, Right right, Target target, Numbers prior, long m, long n, long k);
// False when cuBLASLt is not there, not wanted, or does not take these sizes and types as they lie.
bool multiply_blas(Call& c, Left left, Right right, Target target, Numbers prior, long m, long n, long k);
bool blas_is_there();
// Whether so many rows go to multiply_few, where it takes them, rather than to cuBLASLt.
bool few_before_blas(long m);

// One of several weights that the same rows are multiplied by, n columns, and where that goes.
struct Product {
  Right right;
  Target target;
  long n;
};
constexpr int MOST_PRODUCTS = 3;
enum class Joint { beside, gated };
// Few rows and weights in rows, all in bf16 in such memory, in one launch; false for others. Bits of a row depend on nothing but the row
// and the weight. Gated: silu(left · first) · (left · second), both rounded to what the first target holds, goes there.
bool multiply_few(Call& c, Left left, const Product* product, int count, Joint joint, long m, long k);

// y = silu(gate) · up of n numbers, bf16 or f32, in pointwise.cu; y may be one of the others.
void swiglu(Call& c, const void* gate, const void* up, void* y, bool half, long n);

// Whether products and attention run on tensor cores, with fp32 sums, or give the CPU's bits: what lies in memory decides,
// or BATON_CUDA_MATH. `half`: some operand is bf16.
bool on_tensor_cores(bool half);

}  // namespace baton

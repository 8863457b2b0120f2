// A host stand-in for libcublasLt, for tests of what it is asked for: it computes what its documentation says of column-major matrices,
// turned or not, with their leading dimensions, on host memory, with sums in double precision. What a caller could get wrong without
// seeing other numbers is refused: leading dimensions too short, addresses less aligned than was promised, a workspace that is not there,
// an algorithm of another product. BATON_FAKE_BLAS=FILE gets a line for every product.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

#include "../cuda_bf16.h"
#include "../cuda_runtime.h"

namespace {

constexpr int SUCCESS = 0, INVALID = 7, UNSUPPORTED = 15;
constexpr int F32 = 0, BF16 = 14, COMPUTE_F32 = 68, EPILOGUE_BIAS = 4;

struct Product {
  int turn_a = 0, turn_b = 0, epilogue = 1, bias_type = -1;
  const void* bias = nullptr;
};
struct Layout {
  int type;
  long rows, columns, ld;
};
struct Preference {
  uint64_t workspace = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};
};
// What the heuristic writes into the algorithm that it gives: what it was asked.
struct Algorithm {
  uint32_t magic, alignment[4];
  uint32_t workspace_mib;
  uint64_t product;
  uint64_t rest[4];
};
static_assert(sizeof(Algorithm) == 64, "as large as cublasLtMatmulAlgo_t");
struct Found {
  Algorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};
constexpr uint32_t MAGIC = 0xb1a5b1a5;

float read(const void* p, int type, long i) {
  return type == F32 ? static_cast<const float*>(p)[i] : __bfloat162float(static_cast<const __nv_bfloat16*>(p)[i]);
}
void write(void* p, int type, long i, float v) {
  if (type == F32) static_cast<float*>(p)[i] = v;
  else static_cast<__nv_bfloat16*>(p)[i] = __float2bfloat16_rn(v);
}

bool fits(const Layout& l) { return (l.type == F32 || l.type == BF16) && l.rows > 0 && l.columns > 0 && l.ld >= l.rows; }
// Of op(matrix).
long rows_of(const Layout& l, int turned) { return turned ? l.columns : l.rows; }
long columns_of(const Layout& l, int turned) { return turned ? l.rows : l.columns; }

bool agree(const Product& p, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
  return fits(a) && fits(b) && fits(c) && fits(d) && a.type == BF16 && b.type == BF16 && c.type == d.type && c.rows == d.rows &&
         c.columns == d.columns && rows_of(a, p.turn_a) == d.rows && columns_of(b, p.turn_b) == d.columns &&
         columns_of(a, p.turn_a) == rows_of(b, p.turn_b);
}

void compute(const Product& p, float alpha, const void* a, const Layout& la, const void* b, const Layout& lb, float beta, const void* c,
             const Layout& lc, void* d, const Layout& ld) {
  long depth = columns_of(la, p.turn_a);
  for (long j = 0; j < ld.columns; j++)
    for (long i = 0; i < ld.rows; i++) {
      double sum = 0;
      for (long k = 0; k < depth; k++)
        sum += double(read(a, la.type, p.turn_a ? i * la.ld + k : k * la.ld + i)) *
               double(read(b, lb.type, p.turn_b ? k * lb.ld + j : j * lb.ld + k));
      sum *= alpha;
      // What is multiplied by 0 is not read.
      if (beta != 0) sum += double(beta) * double(read(c, lc.type, j * lc.ld + i));
      if (p.epilogue == EPILOGUE_BIAS) sum += double(read(p.bias, p.bias_type, i));
      write(d, ld.type, j * ld.ld + i, float(sum));
    }
}

bool aligned(const void* p, uint32_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

template <class T>
int make(void** out, T value) { return *out = new T(value), SUCCESS; }
template <class T>
int drop(void* p) { return delete static_cast<T*>(p), SUCCESS; }
template <class T>
int set(T& to, const void* value, size_t bytes) {
  if (bytes != sizeof(T)) return INVALID;
  return memcpy(&to, value, bytes), SUCCESS;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int baton_stand_in = 1;

size_t cublasLtGetVersion() { return 130100; }
int cublasLtCreate(void** handle) { return make(handle, 1); }

int cublasLtMatmulDescCreate(void** out, int compute, int scale) {
  return compute == COMPUTE_F32 && scale == F32 ? make(out, Product()) : UNSUPPORTED;
}
int cublasLtMatmulDescDestroy(void* p) { return drop<Product>(p); }
int cublasLtMatmulDescSetAttribute(void* p, int what, const void* value, size_t bytes) {
  Product& product = *static_cast<Product*>(p);
  switch (what) {
    case 3: return set(product.turn_a, value, bytes);
    case 4: return set(product.turn_b, value, bytes);
    case 7: return set(product.epilogue, value, bytes);
    case 8: return set(product.bias, value, bytes);
    case 26: return set(product.bias_type, value, bytes);
    default: return INVALID;
  }
}

int cublasLtMatrixLayoutCreate(void** out, int type, uint64_t rows, uint64_t columns, int64_t ld) {
  return make(out, Layout{type, long(rows), long(columns), long(ld)});
}
int cublasLtMatrixLayoutDestroy(void* p) { return drop<Layout>(p); }

int cublasLtMatmulPreferenceCreate(void** out) { return make(out, Preference()); }
int cublasLtMatmulPreferenceDestroy(void* p) { return drop<Preference>(p); }
int cublasLtMatmulPreferenceSetAttribute(void* p, int what, const void* value, size_t bytes) {
  Preference& preference = *static_cast<Preference*>(p);
  if (what == 1) return set(preference.workspace, value, bytes);
  return what >= 5 && what <= 8 ? set(preference.alignment[what - 5], value, bytes) : INVALID;
}

int cublasLtMatmulAlgoGetHeuristic(void*, void* product, void* a, void* b, void* c, void* d, void* preference, int most, Found* found,
                                   int* count) {
  *count = 0;
  auto layout = [](void* p) { return *static_cast<Layout*>(p); };
  if (most < 1 || !agree(*static_cast<Product*>(product), layout(a), layout(b), layout(c), layout(d))) return UNSUPPORTED;
  const Preference& asked = *static_cast<Preference*>(preference);
  Algorithm algorithm{MAGIC, {}, uint32_t(asked.workspace >> 20), uint64_t(reinterpret_cast<uintptr_t>(product)), {}};
  memcpy(algorithm.alignment, asked.alignment, sizeof asked.alignment);
  *found = {algorithm, size_t(asked.workspace), SUCCESS, 1, {}};
  return *count = 1, SUCCESS;
}

int cublasLtMatmul(void*, void* product, const void* alpha, const void* a, void* la, const void* b, void* lb, const void* beta,
                   const void* c, void* lc, void* d, void* ld, const Algorithm* algorithm, void* workspace, size_t bytes,
                   cudaStream_t stream) {
  Product p = *static_cast<Product*>(product);
  auto layout = [](void* p) { return *static_cast<Layout*>(p); };
  Layout A = layout(la), B = layout(lb), C = layout(lc), D = layout(ld);
  const void* operands[4] = {a, b, c, d};
  if (!agree(p, A, B, C, D) || algorithm->magic != MAGIC || algorithm->product != uint64_t(reinterpret_cast<uintptr_t>(product)))
    return INVALID;
  for (int i = 0; i < 4; i++)
    if (!aligned(operands[i], algorithm->alignment[i])) return INVALID;
  if (p.epilogue == EPILOGUE_BIAS && (!p.bias || p.bias_type != BF16)) return INVALID;
  if (bytes < uint64_t(algorithm->workspace_mib) << 20 || !aligned(workspace, 256)) return INVALID;
  float by = *static_cast<const float*>(alpha), carry = *static_cast<const float*>(beta);
  if (const char* path = getenv("BATON_FAKE_BLAS"))
    if (FILE* file = fopen(path, "a")) {
      fprintf(file, "%ld %ld %ld %c%c %s%s%s\n", D.columns, D.rows, columns_of(A, p.turn_a), p.turn_a ? 't' : 'n', p.turn_b ? 't' : 'n',
              D.type == F32 ? "f32" : "bf16", carry != 0 ? " carried" : "", p.epilogue == EPILOGUE_BIAS ? " bias" : "");
      fclose(file);
    }
  stream->run([=] {
    memset(workspace, 0xff, 64);  // it is the library's
    compute(p, by, a, A, b, B, carry, c, C, d, D);
  });
  return SUCCESS;
}

}
#pragma GCC visibility pop

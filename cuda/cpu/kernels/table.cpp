// The kernels of one instruction set by opcode, and the products that the benchmark times.
#include "gemm.h"
#include "tile.h"

namespace baton {
namespace BATON_ISA {

#define KERNEL(code, name) void name(Call&);
#include "kernel_list.h"
#undef KERNEL

namespace {

struct Table {
  Kernel at[64];
};
constexpr Table make_table() {
  Table t{};
#define KERNEL(code, name) t.at[code] = name;
#include "kernel_list.h"
#undef KERNEL
  return t;
}
constexpr Table table = make_table();

// Multiply-adds on registers: what a core can do at most. Returns a number that depends on all of them.
float peak(long steps) {
  v16 sum[12];
  for (int i = 0; i < 12; i++) sum[i] = all(float(i));
  v16 a = all(.999f), b = all(.001f);
  for (long s = 0; s < steps; s++)
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) sum[i] = fma(sum[i], a, b);
  for (int i = 1; i < 12; i++) sum[0] = sum[0] + sum[i];
  return baton::BATON_ISA::sum(sum[0]);
}

double product(Pool& pool, uint32_t mode, long m, long n, long k, float* x, float* w, float* y) {
  switch (mode) {
    case 0: multiply(pool, {x, k, false}, {Right::panels, w, k}, {y, n, false}, m, n, k, false); break;
    case 1: multiply(pool, {y, n, false}, {Right::transposed, w, k}, {x, k, false}, m, k, n, false); break;
    case 2: multiply(pool, {x, k, true}, {Right::rows, y, n}, {w, k, true}, k, n, m, false); break;
    default: parallel(pool, pool.threads(), [&](long task, int) { y[16 * task] = peak(m * n * k / pool.threads() / 192); });
  }
  return 2. * double(m) * double(n) * double(k);
}

}  // namespace

extern const Instructions instructions = {
#define STRING(name) #name
#define NAME(name) STRING(name)
    NAME(BATON_ISA), table.at, product};

}  // namespace BATON_ISA
}  // namespace baton

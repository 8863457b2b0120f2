// The kernels of one instruction set by opcode, and the products that the benchmark times.
#include "gemm.h"
#include "tile.h"

namespace baton {
namespace BATON_ISA {

#define KERNEL(code, name) void name(Call&);
#include "../../common/kernel_list.h"
#undef KERNEL

namespace {

struct Table {
  Kernel at[64];
};
constexpr Table make_table() {
  Table t{};
#define KERNEL(code, name) t.at[code] = name;
#include "../../common/kernel_list.h"
#undef KERNEL
  return t;
}
constexpr Table table = make_table();

// Chains side by side that hide the latency of a multiply-add and still fit into registers.
constexpr int CHAINS = TILE_ROWS < 12 ? TILE_ROWS : 12;

// `steps` multiply-adds of every lane of every chain: what a core can do at most. Returns a number that depends on all.
float peak(long steps) {
  v16 chain[CHAINS];
  for (int i = 0; i < CHAINS; i++) chain[i] = all(float(i));
  v16 a = all(.999f), b = all(.001f);
  for (long s = 0; s < steps; s++)
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) chain[i] = fma(chain[i], a, b);
  for (int i = 1; i < CHAINS; i++) chain[0] = chain[0] + chain[i];
  return sum(chain[0]);
}

// Reads n values `times` times; returns a number that depends on all.
float read(const float* p, long n, long times) {
  v16 sum[8];
  for (v16& s : sum) s = zero();
  for (long t = 0; t < times; t++)
    for (long i = 0; i + 128 <= n; i += 128)
#pragma GCC unroll 8
      for (long j = 0; j < 8; j++) sum[j] = sum[j] + load(p + i + 16 * j);
  for (int j = 1; j < 8; j++) sum[0] = sum[0] + sum[j];
  return baton::BATON_ISA::sum(sum[0]);
}

void product(Pool& pool, uint32_t mode, long m, long n, long k, float* x, float* w, float* y) {
  switch (mode) {
    case 0: multiply(pool, {x, k, false}, {Right::panels, w, k}, {y, n, false}, m, n, k, false); break;
    case 1: multiply(pool, {y, n, false}, {Right::transposed, w, k}, {x, k, false}, m, k, n, false); break;
    case 2: multiply(pool, {x, k, true}, {Right::rows, y, n}, {w, k, true}, k, n, m, false); break;
    case 4: {
      long threads = pool.threads(), share = n * k / threads;
      parallel(pool, threads, [&](long task, int) { y[16 * task] = read(w + task * share, share, m); });
      break;
    }
    default: {
      long steps = m * n * k / (16 * CHAINS) / pool.threads();
      parallel(pool, pool.threads(), [&](long task, int) { y[16 * task] = peak(steps); });
    }
  }
}

}  // namespace

extern const Instructions instructions = {
#define STRING(name) #name
#define NAME(name) STRING(name)
    NAME(BATON_ISA), table.at, product};

}  // namespace BATON_ISA
}  // namespace baton

// What every kernel source starts from: its operands, its failures, its tasks.
#pragma once
#include <stdio.h>
#include <string.h>

#include "../half.h"
#include "../kernels.h"
#include "math.h"

namespace baton {
namespace BATON_ISA {

inline float* floats(const Call& c, int operand) { return static_cast<float*>(c.operand[operand]); }
inline const int32_t* ints(const Call& c, int operand) { return static_cast<const int32_t*>(c.operand[operand]); }
inline long size(const Call& c, int attribute) { return long(c.attribute[attribute]); }
inline float real(const Call& c, int attribute) { return float(c.attribute[attribute]); }
inline long elements(const Call& c, int operand) { return long(c.bytes[operand] / 4); }
inline long smaller(long a, long b) { return a < b ? a : b; }
inline long larger(long a, long b) { return a > b ? a : b; }
inline long parts(long n, long each) { return (n + each - 1) / each; }

// f(task, thread) for every task in [0, tasks), on whatever threads.
template <class F>
inline void parallel(Pool& pool, long tasks, F f) {
  pool.run(tasks, [](void* context, long task, int thread) { (*static_cast<F*>(context))(task, thread); }, &f);
}

// f(begin, end) over [0, n), cut at multiples of `grain`; small sizes stay on one thread.
template <class F>
inline void split(Pool& pool, long n, long grain, F f) {
  long count = smaller(parts(n, grain), 4L * pool.threads()), each = parts(parts(n, grain), larger(count, 1)) * grain;
  parallel(pool, parts(n, larger(each, 1)), [&](long task, int) { f(task * each, smaller((task + 1) * each, n)); });
}

// Rows per task so that a task moves about 64 KiB.
inline long rows_of(long width) { return larger(1, 16384 / larger(width, 1)); }

template <class... T>
inline bool fail(Call& c, const char* format, T... values) {
  snprintf(c.error, ERROR_BYTES, format, values...);
  return false;
}

// Every index in [0, limit).
inline bool check_indexes(Call& c, const char* name, const int32_t* at, long n, long limit) {
  for (long i = 0; i < n; i++)
    if (at[i] < 0 || at[i] >= limit) return fail(c, "%s %ld is %d and there are %ld", name, i, at[i], limit);
  return true;
}

// Segment ends rise from 0 to n.
inline bool check_ends(Call& c, const int32_t* ends, long count, long n) {
  long last = 0;
  for (long i = 0; i < count; i++) {
    if (ends[i] < last || ends[i] > n) return fail(c, "segment %ld ends at %d, after %ld, of %ld", i, ends[i], last, n);
    last = ends[i];
  }
  if (last != n) return fail(c, "the last segment ends at %ld, not at %ld", last, n);
  return true;
}

// Makes `out` hold the sum so far: the prior value (operand `prior`) or zero.
inline void continue_or_zero(bool continues, const float* prior, float* out, long n) {
  if (!continues) memset(out, 0, size_t(n) * sizeof(float));
  else if (prior != out) memmove(out, prior, size_t(n) * sizeof(float));
}

// Step between the elements of a row of a weight, and where the row starts.
struct WeightRow {
  long start, step;
  WeightRow(long row, long width, bool panels)
      : start(panels ? (row >> 4) * 16 * width + (row & 15) : row * width), step(panels ? 16 : 1) {}
};
// Elements of a weight of n outputs and k inputs.
inline long weight_elements(long n, long k, bool panels) { return (panels ? parts(n, 16) * 16 : n) * k; }

// Σ aᵢ bᵢ over lanes.
inline float dot(const float* a, const float* b, long n) {
  v16 s = zero();
  long i = 0;
  for (; i + 16 <= n; i += 16) s = fma(load(a + i), load(b + i), s);
  if (i < n) s = fma(load(a + i, n - i), load(b + i, n - i), s);
  return sum(s);
}

// f(i, live): 16 elements from i on, `live` of them real. Loads and stores of a part go through load(p, live).
template <class F>
inline void by_lanes(long begin, long end, F f) {
  for (long i = begin; i < end; i += 16) f(i, smaller(16, end - i));
}
inline v16 load_live(const float* p, long live) { return live == 16 ? load(p) : load(p, live); }
inline void store_live(float* p, v16 a, long live) {
  if (live == 16) store(p, a);
  else store(p, a, live);
}

// What is stored of n numbers, where that is less than f32.
inline void round_stored(const Call& c, float* p, long n) {
  if (!c.narrow) return;
  for (long i = 0; i < n; i++) {
    uint32_t bits;
    memcpy(&bits, p + i, sizeof bits);
    bits = uint32_t(half_of(bits)) << 16;
    memcpy(p + i, &bits, sizeof bits);
  }
}

}  // namespace BATON_ISA
}  // namespace baton

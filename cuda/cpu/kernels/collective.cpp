// Operations in which the ranks of a group read each other's memory. Every sum goes over the ranks in their order, one chain
// per element. A rank reads after all have come and returns after all have read; what is small goes through the group's
// stages, with one barrier instead of two or three.
#include "collective.h"

namespace baton {
namespace BATON_ISA {
namespace {

constexpr long LINE = 64, GRAIN = 16384;
// Every rank adds up all of what is staged: more than this is faster by slices.
constexpr long STAGED_SUM_BYTES = 64 << 10;

void add_up(const Meeting& m, const float* const* in, long begin, long end, float* out) {
  by_lanes(begin, end, [&](long i, long live) {
    v16 s = load_live(in[0] + i, live);
    for (long r = 1; r < m.ranks; r++) s = s + load_live(in[r] + i, live);
    store_live(out + i, s, live);
  });
}
void add_up(const Meeting& m, const double* const* in, long begin, long end, double* out) {
  for (long i = begin; i < end; i++) {
    double s = in[0][i];
    for (long r = 1; r < m.ranks; r++) s += in[r][i];
    out[i] = s;
  }
}

// out[i] = Σ over ranks of source(r)[i] for i in [begin, end).
template <class T, class F>
void sum_ranks(Call& c, const Meeting& m, F source, long begin, long end, T* out) {
  const T** in = reinterpret_cast<const T**>(c.pool->scratch(0));
  for (long r = 0; r < m.ranks; r++) in[r] = source(r);
  split(*c.pool, end - begin, GRAIN, [&](long from, long to) { add_up(m, in, begin + from, begin + to, out); });
}

void copy_to(Call& c, const void* from, void* to, long bytes) {
  split(*c.pool, bytes, 65536, [&](long begin, long end) {
    memcpy(static_cast<char*>(to) + begin, static_cast<const char*>(from) + begin, size_t(end - begin));
  });
}

template <class T>
void all_reduce_of(Call& c, uint32_t code, long n) {
  Meeting m(c, 1);
  if (!m.valid()) return;
  const T* x = static_cast<const T*>(c.operand[0]);
  T* y = static_cast<T*>(c.operand[1]);
  long bytes = n * long(sizeof(T));
  if (bytes <= STAGE_BYTES && bytes * m.ranks <= STAGED_SUM_BYTES) {
    m.stage(x, bytes);
    if (m.open(code, n, 1, nullptr, nullptr)) sum_ranks(c, m, [&](long r) { return m.staged<T>(r); }, 0, n, y);
    return;
  }
  // Each rank adds up its slice, whole cache lines, and fetches the others' slices. The own x is read by nobody else
  // where y is written first, so y may be x.
  long line = LINE / long(sizeof(T)), lines = parts(n, line);
  auto slice = [&](long r) {
    Rows s(lines, r, m.ranks);
    s.from *= line, s.to = smaller(s.to * line, n);
    return s;
  };
  if (!m.open(code, n, 1, x, y)) return;
  Rows mine = slice(m.rank);
  sum_ranks(c, m, [&](long r) { return m.in<T>(r); }, mine.from, mine.to, y);
  if (!m.barrier()) return;
  for (long k = 1; k < m.ranks; k++) {
    long r = (m.rank + k) % m.ranks;
    Rows s = slice(r);
    copy_to(c, m.out<T>(r) + s.from, y + s.from, s.count() * long(sizeof(T)));
  }
  m.barrier();
}

// The rows that a rank owns, of `whole` [rows, width], lie at `own`: inside at their place, or nowhere in it.
bool well_placed(Call& c, const Meeting& m, int own, int whole, long rows, long width) {
  Rows mine(rows, m.rank, m.ranks);
  long n = mine.count() * width;
  if (n * 4 > long(c.bytes[own]))
    return fail(c, "rank %ld of %ld owns %ld rows and its operand has room for %ld bytes", m.rank, m.ranks, mine.count(),
                long(c.bytes[own]));
  const float *a = floats(c, own), *b = floats(c, whole);
  if (n == 0 || a == b + mine.from * width || a + n <= b || b + rows * width <= a) return true;
  return fail(c, "the rows of rank %ld lie over rows of another rank", m.rank);
}

}  // namespace

void all_reduce(Call& c) { all_reduce_of<float>(c, ALL_REDUCE, size(c, 0)); }
void sum_doubles(Call& c) { all_reduce_of<double>(c, SUM_DOUBLES, size(c, 0)); }

void all_gather_rows(Call& c) {
  long rows = size(c, 0), width = size(c, 1);
  Meeting m(c, 2);
  if (!m.valid() || !well_placed(c, m, 0, 1, rows, width)) return;
  const float* x = floats(c, 0);
  float* y = floats(c, 1);
  // All ranks have to choose alike.
  bool small = parts(rows, m.ranks) * width * 4 <= STAGE_BYTES;
  if (small) m.stage(x, Rows(rows, m.rank, m.ranks).count() * width * 4);
  if (!m.open(ALL_GATHER_ROWS, rows, width, x, nullptr)) return;
  for (long k = 0; k < m.ranks; k++) {
    long r = (m.rank + k) % m.ranks;
    Rows s(rows, r, m.ranks);
    const float* from = r == m.rank ? x : small ? m.staged<float>(r) : m.in<float>(r);
    if (from != y + s.from * width) copy_to(c, from, y + s.from * width, s.count() * width * 4);
  }
  if (!small) m.barrier();
}

void reduce_scatter_rows(Call& c) {
  long rows = size(c, 0), width = size(c, 1);
  Meeting m(c, 2);
  if (!m.valid() || !well_placed(c, m, 1, 0, rows, width)) return;
  const float* x = floats(c, 0);
  Rows mine(rows, m.rank, m.ranks);
  bool small = rows * width * 4 <= STAGE_BYTES;
  if (small) m.stage(x, rows * width * 4);
  if (!m.open(REDUCE_SCATTER_ROWS, rows, width, x, nullptr)) return;
  auto own = [&](long r) { return (small ? m.staged<float>(r) : m.in<float>(r)) + mine.from * width; };
  sum_ranks(c, m, own, 0, mine.count() * width, floats(c, 1));
  if (!small) m.barrier();
}

// The others' rows are written by nobody: they are what x has there.
void reduce_own_rows(Call& c) {
  long rows = size(c, 0), width = size(c, 1), first = size(c, 2), total = size(c, 3);
  Meeting m(c, 4);
  if (!m.valid() || !m.open(REDUCE_OWN_ROWS, rows, width, floats(c, 0), nullptr, first, total)) return;
  if (!m.same_rows()) return;
  const float* x = floats(c, 0);
  float* y = floats(c, 1);
  Rows mine = Rows(total, m.rank, m.ranks).within(first, first + rows);
  long from = (mine.from - first) * width, to = (mine.to - first) * width;
  sum_ranks(c, m, [&](long r) { return m.in<float>(r) + from; }, 0, to - from, y + from);
  if (x != y) copy_to(c, x, y, from * 4), copy_to(c, x + to, y + to, (rows * width - to) * 4);
  m.barrier();
}

void own_rows(Call& c) {
  long rows = size(c, 0), width = size(c, 1);
  Meeting m(c, 2);
  if (!m.valid() || !well_placed(c, m, 1, 0, rows, width)) return;
  Rows mine(rows, m.rank, m.ranks);
  const float* from = floats(c, 0) + mine.from * width;
  if (from != floats(c, 1)) copy_to(c, from, floats(c, 1), mine.count() * width * 4);
}

void all_gather_columns(Call& c) {
  long rows = size(c, 0), width = size(c, 1), from = size(c, 2), to = size(c, 3);
  Meeting m(c, 4);
  if (!m.valid()) return;
  const float* x = floats(c, 0);
  float* y = floats(c, 1);
  bool small = rows * width * 4 <= STAGE_BYTES;
  if (small) m.stage(x, rows * (to - from) * 4);
  if (!m.open(ALL_GATHER_COLUMNS, rows, width, x, nullptr, from, to)) return;
  for (long r = 0, end = 0; r < m.ranks; r++) {
    const Offer& o = m.offer(r);
    if (o.from != end || (end = o.to, r + 1 == m.ranks && end != width)) {
      fail(c, "rank %ld brings columns %ld to %ld of %ld, which leaves a gap or an overlap", r, o.from, o.to, width);
      return;
    }
  }
  split(*c.pool, rows, rows_of(width), [&](long begin, long end) {
    for (long k = 0; k < m.ranks; k++) {
      long r = (m.rank + k) % m.ranks, first = m.offer(r).from, n = m.offer(r).to - first;
      const float* part = small ? m.staged<float>(r) : m.in<float>(r);
      for (long i = begin; i < end; i++) memcpy(y + i * width + first, part + i * n, size_t(n) * 4);
    }
  });
  if (!small) m.barrier();
}

}  // namespace BATON_ISA
}  // namespace baton

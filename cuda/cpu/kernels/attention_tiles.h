// The products inside attention. Rows of a tile may see different ranges of the sum: a causal diagonal, the edge of a
// window. A key that a row does not see is never multiplied, so a NaN behind a mask stays there and every row's sum is one
// chain over its live keys, the same in prefill, decode and training.
#pragma once
#include "tile.h"

namespace baton {
namespace BATON_ISA {

constexpr long KEYS = 256;   // of a block; blocks are counted from the start of the sequence
// Rows that share one block of scores, KEYS and ROWS_PER_TASK are multiples: forward, and backward, where a longer group spares
// loads and stores of the keys' gradients.
constexpr long GROUP = 32, GRAD_GROUP = 64;
constexpr long SCORES = KEYS + 16;  // row step of a block of scores; not a power of two, so rows spread over the cache

// fresh: from zero. whole: continues, all rows alike. tail: after k common steps row r has r more. head: row r starts r
// steps late, k common steps follow.
enum Shape { fresh, whole, tail, head };

template <int R, int P, int STEP, bool HEAD>
inline void corner(StridedRows& a, const float*& b, const Columns& columns, v16 (&sum)[R][P]) {
  if constexpr (STEP + 1 < R) {
    if constexpr (HEAD) tile_step<R, P, 0, STEP + 1>(a, b, columns.step, columns.panel, sum);
    else tile_step<R, P, STEP + 1, R>(a, b, columns.step, columns.panel, sum);
    corner<R, P, STEP + 1, HEAD>(a, b, columns, sum);
  }
}

template <int R, int P, Shape SHAPE>
void attention_tile(long k, StridedRows a, Columns columns, Cells c) {
  v16 sum[R][P];
  if constexpr (SHAPE == fresh) {
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 16
      for (int j = 0; j < P; j++) sum[i][j] = zero();
  } else {
    tile_load<R, P>(c, sum);
  }
  const float* b = columns.p;
  if constexpr (SHAPE == head) corner<R, P, 0, true>(a, b, columns, sum);
  for (long i = 0; i < k; i++) tile_step<R, P, 0, R>(a, b, columns.step, columns.panel, sum);
  if constexpr (SHAPE == tail) corner<R, P, 0, false>(a, b, columns, sum);
  tile_store<R, P>(c, sum);
}

typedef void (*AttentionTile)(long k, StridedRows a, Columns columns, Cells c);

template <int R, Shape SHAPE>
inline AttentionTile attention_tile_of(long rows, long panels) {
  if constexpr (R == 0) {
    return nullptr;
  } else {
    if (rows < R) return attention_tile_of<R - 1, SHAPE>(rows, panels);
    if constexpr (ATTENTION_PANELS >= 3)
      if (panels >= 3) return attention_tile<R, 3, SHAPE>;
    if constexpr (ATTENTION_PANELS >= 2)
      if (panels >= 2) return attention_tile<R, 2, SHAPE>;
    return attention_tile<R, 1, SHAPE>;
  }
}

// `rows` rows × `columns` columns; head and tail take one tile of rows.
template <Shape SHAPE>
inline void attention_product(long rows, long columns, long k, StridedRows a, Columns b, Cells c) {
  long panels = parts(columns, 16), last = columns - (panels - 1) * 16;
  for (long q = 0; q < panels; q += ATTENTION_PANELS) {
    long count = smaller(ATTENTION_PANELS, panels - q), live = q + count == panels ? last : 16;
    for (long i = 0; i < rows; i += ATTENTION_ROWS) {
      long r = smaller(ATTENTION_ROWS, rows - i);
      attention_tile_of<ATTENTION_ROWS, SHAPE>(r, count)(
          k, {a.p + i * a.row_step, a.row_step, a.k_step}, {b.p + q * b.panel, b.step, b.panel},
          {c.p + i * c.row + q * c.panel, c.row, c.panel, live});
    }
  }
}

// Row r continues its chain over [from[r], to[r]) of k; both rise with r, by at most 1 a row.
inline void chains(long rows, const long* from, const long* to, long columns, StridedRows a, Columns b, Cells c) {
  long low = from[rows - 1], high = to[0];
  auto at = [&](long k) { return StridedRows{a.p + k * a.k_step, a.row_step, a.k_step}; };
  auto columns_at = [&](long k) { return Columns{b.p + k * b.step, b.step, b.panel}; };
  auto single = [&](long r, long begin, long end) {
    if (begin < end)
      attention_product<whole>(1, columns, end - begin, {a.p + r * a.row_step + begin * a.k_step, a.row_step, a.k_step},
                               columns_at(begin), {c.p + r * c.row, c.row, c.panel, 0});
  };
  if (low >= high) {
    for (long r = 0; r < rows; r++) single(r, from[r], to[r]);
    return;
  }
  bool late = low - from[0] == rows - 1, more = to[rows - 1] - high == rows - 1;
  if (late && high == to[rows - 1]) {
    attention_product<head>(rows, columns, high - low, at(from[0]), columns_at(from[0]), c);
    return;
  }
  for (long r = 0; r < rows; r++) single(r, from[r], low);
  if (more) {
    attention_product<tail>(rows, columns, high - low, at(low), columns_at(low), c);
    return;
  }
  attention_product<whole>(rows, columns, high - low, at(low), columns_at(low), c);
  for (long r = 0; r < rows; r++) single(r, high, to[r]);
}

// `count` rows of d values as panels [row / 16][d][16], zero past the last row.
inline void pack_transposed(const float* p, long step, long count, long d, float* out) {
  for (long row = 0; row < count; row += 16, out += 16 * d)
    for (long k = 0; k < d; k += 16) {
      long live = smaller(16, d - k);
      v16 r[16];
      for (long j = 0; j < 16; j++) {
        r[j] = row + j < count ? load_live(p + (row + j) * step + k, live) : zero();
        __builtin_prefetch(p + (row + 16 + j) * step + k);
      }
      transpose(r);
      for (long j = 0; j < live; j++) store(out + (k + j) * 16, r[j]);
    }
}
// `count` rows of d values, each with room for whole panels; what lies in the room is never stored by a tile.
inline void pack_padded(const float* p, long step, long count, long d, float* out) {
  long width = parts(d, 16) * 16;
  for (long i = 0; i < count; i++)
    by_lanes(0, d, [&](long k, long live) { store(out + i * width + k, load_live(p + i * step + k, live)); });
}

}  // namespace BATON_ISA
}  // namespace baton

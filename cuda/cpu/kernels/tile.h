// The inner loop of every product: R rows × P panels of 16 columns, accumulators in registers.
#pragma once
#include "kernel.h"

namespace baton {
namespace BATON_ISA {

// Elements of A as the tile walks over k.
template <int R>
struct PackedRows {  // [k][R]
  const float* p;
  v16 at(int row) const { return all(p[row]); }
  void next() { p += R; }
};
struct StridedRows {
  const float* p;
  long row_step, k_step;
  v16 at(int row) const { return all(p[row * row_step]); }
  void next() { p += k_step; }
};

// Element (k, j) of B is p[(j/16)·panel + k·step + j%16].
struct Columns {
  const float* p;
  long step, panel;
};
// Element (i, j) of C is p[i·row + (j/16)·panel + j%16]; the last panel has `live` columns, 1 … 16.
struct Cells {
  float* p;
  long row, panel, live;
};

template <int R, int P>
inline void tile_load(const Cells& c, v16 (&sum)[R][P]) {
#pragma GCC unroll 16
  for (int i = 0; i < R; i++)
#pragma GCC unroll 16
    for (int j = 0; j < P; j++) {
      const float* p = c.p + i * c.row + j * c.panel;
      sum[i][j] = j + 1 == P && c.live < 16 ? load(p, c.live) : load(p);
    }
}
template <int R, int P>
inline void tile_store(const Cells& c, const v16 (&sum)[R][P]) {
#pragma GCC unroll 16
  for (int i = 0; i < R; i++)
#pragma GCC unroll 16
    for (int j = 0; j < P; j++) {
      float* p = c.p + i * c.row + j * c.panel;
      if (j + 1 == P && c.live < 16) store(p, sum[i][j], c.live);
      else store(p, sum[i][j]);
    }
}
// One step of the chain for rows [FROM, TO).
template <int R, int P, int FROM, int TO, class Rows>
inline void tile_step(Rows& a, const float*& b, long step, long panel, v16 (&sum)[R][P]) {
  v16 w[P];
#pragma GCC unroll 16
  for (int j = 0; j < P; j++) w[j] = load(b + j * panel);
#pragma GCC unroll 16
  for (int i = FROM; i < TO; i++) {
    v16 x = a.at(i);
#pragma GCC unroll 16
    for (int j = 0; j < P; j++) sum[i][j] = fma(x, w[j], sum[i][j]);
  }
  a.next();
  b += step;
}

}  // namespace BATON_ISA
}  // namespace baton

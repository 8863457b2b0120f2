#include "gemm.h"

#include "tile.h"

namespace baton {
namespace BATON_ISA {
namespace {

// What comes into the cache while a tile is computed: of every panel, `step` bytes from `b` on for each of the first `steps` of
// k, and where C is continued that of the next tile. Memory is late otherwise: what a tile reads next is further away than a processor looks.
struct Ahead {
  const char* b;
  long step, steps, panel;
  const float* c;
};
// Rows that a panel of a single tile is read ahead: about 150 ns.
constexpr long AHEAD_ROWS = 48, FEW_TILES = 6;
// Rows from which on it pays to turn a transposed B before all of them.
constexpr long TURNED_ROWS = 64;

typedef void (*Tile)(long k, const float* a, Columns b, Cells c, bool carry, Ahead ahead);

template <int R, int P>
void tile(long k, const float* a, Columns b, Cells c, bool carry, Ahead ahead) {
  v16 sum[R][P];
  if (carry) {
    tile_load<R, P>(c, sum);
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 16
      for (int j = 0; j < P; j++) __builtin_prefetch(ahead.c + i * c.row + j * c.panel, 1);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 16
      for (int j = 0; j < P; j++) {
        sum[i][j] = zero();
        // C comes into the cache while the tile is computed: a third of the time where C is large.
        __builtin_prefetch(c.p + i * c.row + j * c.panel, 1);
      }
  }
  PackedRows<R> rows{a};
  const float* p = b.p;
  long i = 0;
  for (; i < ahead.steps; i++) {
    if constexpr (R > 2) {  // a row or two wait for memory anyway, and a processor sees their streams by itself
#pragma GCC unroll 16
      for (int j = 0; j < P; j++) __builtin_prefetch(ahead.b + j * ahead.panel);
      ahead.b += ahead.step;
    }
    tile_step<R, P, 0, R>(rows, p, 16, b.panel, sum);
  }
  for (; i < k; i++) tile_step<R, P, 0, R>(rows, p, 16, b.panel, sum);
  tile_store<R, P>(c, sum);
}

// tiles[rows − 1][panels − 1], filled as far as accumulators fit into registers.
constexpr int MOST_PANELS = 6;
struct Tiles {
  Tile at[TILE_ROWS][MOST_PANELS];
};
template <int R, int P>
constexpr Tile tile_or_null() {
  if constexpr (P <= panels_of(R)) return tile<R, P>;
  else return nullptr;
}
template <int R>
constexpr void fill_rows(Tiles& t) {
  t.at[R - 1][0] = tile_or_null<R, 1>(), t.at[R - 1][1] = tile_or_null<R, 2>();
  t.at[R - 1][2] = tile_or_null<R, 3>(), t.at[R - 1][3] = tile_or_null<R, 4>();
  t.at[R - 1][4] = tile_or_null<R, 5>(), t.at[R - 1][5] = tile_or_null<R, 6>();
  if constexpr (R > 1) fill_rows<R - 1>(t);
}
constexpr Tiles make_tiles() {
  Tiles t{};
  fill_rows<TILE_ROWS>(t);
  return t;
}
constexpr Tiles tiles = make_tiles();

// Rows [begin, end) cut into as few tiles as possible, as equal as possible.
struct Cut {
  long begin, end, count;
  Cut(long begin, long end) : begin(begin), end(end), count(parts(end - begin, TILE_ROWS)) {}
  long at(long tile) const { return begin + (end - begin) * tile / count; }
  long rows(long tile) const { return at(tile + 1) - at(tile); }
  long most() const { return parts(end - begin, count); }
};

// ---- packing: what comes next is fetched into the cache while this is copied ----------------------------------------

// A tile of A becomes [k][rows]. A store writes 16 lanes and the next one covers what was too much; the scratch has 16
// floats of room behind the last tile.
void pack_rows(const Left& a, const Cut& cut, long k0, long k, float* out) {
  for (long tile = 0; tile < cut.count; tile++) {
    long rows = cut.rows(tile);
    const float* p = a.p + cut.at(tile) * a.ld + k0;
    for (long i = 0; i < k; i += 16) {
      long live = smaller(16, k - i);
      v16 r[16];
      for (long j = 0; j < 16; j++) {
        r[j] = j < rows ? load_live(p + j * a.ld + i, live) : zero();
        __builtin_prefetch(p + (rows + j) * a.ld + i);
      }
      transpose(r);
      for (long j = 0; j < live; j++, out += rows) store(out, r[j]);
    }
  }
}

// The same from columns. Sixteen of them at a time go into all tiles, so that memory is read in long runs.
void pack_columns(const Left& a, const Cut& cut, long k0, long k, float* out) {
  for (long i = 0; i < k; i += 16)
    for (long tile = 0; tile < cut.count; tile++) {
      long rows = cut.rows(tile), first = cut.at(tile);
      const float* p = a.p + (k0 + i) * a.ld + first;
      float* to = out + (first - cut.begin) * k + i * rows;
      for (long j = 0; j < smaller(16, k - i); j++) {
        __builtin_prefetch(p + (16 + j) * a.ld);
        v16 r = load(p + j * a.ld, rows);
        if ((k - i - j) * rows >= 16) store(to + j * rows, r);
        else store(to + j * rows, r, rows);  // the next tile is there already
      }
    }
}

// A block of 16 outputs × 16 inputs of a weight, which lie together, with `live` inputs and `steps` outputs that count.
inline void turn(const float* p, long ld, long live, long steps, float* out) {
  v16 r[16];
  for (long j = 0; j < 16; j++) {
    r[j] = j < live ? load(p + 16 * j) : zero();
    __builtin_prefetch(p + 16 * ld + 16 * j);
  }
  transpose(r);
  for (long j = 0; j < steps; j++) store(out + 16 * j, r[j]);
}

// One panel of 16 columns of B becomes [k][16]; `next` panels on lies the one that is packed in its place.
void pack_panel(const Right& b, long panel, long next, long n, long k0, long k, float* out) {
  long live = smaller(16, n - panel * 16);
  if (b.form == Right::columns) {
    const float* p = b.p + panel * 16 * b.ld + k0;
    for (long i = 0; i < k; i += 16) {
      long steps = smaller(16, k - i);
      v16 r[16];
      for (long j = 0; j < 16; j++) {
        r[j] = j < live ? load_live(p + j * b.ld + i, steps) : zero();
        __builtin_prefetch(p + (next * 16 + j) * b.ld + i);
      }
      transpose(r);
      for (long j = 0; j < steps; j++) store(out + 16 * (i + j), r[j]);
    }
    return;
  }
  for (long i = 0; i < k; i += 16) turn(b.p + (k0 + i) * b.ld + panel * 256, b.ld, live, smaller(16, k - i), out + 16 * i);
}

// `count` panels of B behind one another, of which `last` columns of the last one are there.
void pack_panels(const Right& b, long panel, long count, long last, long n, long k0, long k, float* out) {
  if (b.form != Right::rows) {
    for (long j = 0; j < count; j++) pack_panel(b, panel + j, count, n, k0, k, out + j * 16 * k);
    return;
  }
  const float* p = b.p + k0 * b.ld + panel * 16;
  for (long i = 0; i < k; i++, p += b.ld)
    for (long j = 0; j < count; j++) {
      store(out + (j * k + i) * 16, load_live(p + 16 * j, j + 1 < count ? 16 : last));
      __builtin_prefetch(p + (count + j) * 16);
    }
}

// Steps [from, to) of a transposed B in the order of memory, into panels of `ld` steps.
void turn_panels(const Right& b, long n, long from, long to, long ld, float* out) {
  for (long i = from; i < to; i += 16)
    for (long q = 0; q * 16 < n; q++)
      turn(b.p + i * b.ld + q * 256, b.ld, smaller(16, n - q * 16), smaller(16, to - i), out + (q * ld + i - from) * 16);
}

// Steps [k0, k0 + depth) of the rows of `packed`; what is read behind this lies at `after`.
void multiply_block(const float* packed, const Cut& cut, const Product& p, const float* after, long k0, long depth, bool carry,
                    float* panels) {
  const Right& b = p.b;
  const Target& c = p.c;
  long width = panels_of(int(cut.most())), end = parts(p.n, 16);
  for (long q = 0; q < end; q += width) {
    long count = smaller(width, end - q), last = smaller(16, p.n - (q + count - 1) * 16);
    Columns columns{b.p + q * 16 * b.ld + k0 * 16, 16, b.ld * 16};
    if (b.form != Right::panels) {
      pack_panels(b, q, count, last, p.n, k0, depth, panels);
      columns = {panels, 16, depth * 16};
    }
    const float* next = q + width < end ? b.p + (q + width) * 16 * b.ld + k0 * 16 : after;
    auto cells = [&](long tile) {
      long i = cut.at(tile);
      return c.panels ? Cells{c.p + q * 16 * c.ld + i * 16, 16, c.ld * 16, 16} : Cells{c.p + i * c.ld + q * 16, c.ld, 16, last};
    };
    for (long t = 0; t < cut.count; t++) {
      Ahead ahead{nullptr, 64, 0, b.ld * 64, cells(t + 1).p};
      if (b.form == Right::panels) {
        // The next panels' lines are shared out over the tiles; a few tiles take some of every step.
        ahead.b = reinterpret_cast<const char*>(cut.count == 1 ? columns.p + 16 * AHEAD_ROWS : next + depth * t / cut.count * 16);
        ahead.steps = cut.count <= FEW_TILES ? depth : parts(depth, cut.count);
        if (cut.count <= FEW_TILES) ahead.step = 64 / cut.count;
      }
      tiles.at[cut.rows(t) - 1][count - 1](depth, packed + (cut.at(t) - cut.begin) * depth, columns, cells(t), carry, ahead);
    }
  }
}

void add_bias(const Product& p, long row, long row_end) {
  for (long i = row; i < row_end; i++) {
    float* y = p.c.p + i * p.c.ld;
    by_lanes(0, p.n, [&](long j, long live) { store_live(y + j, load_live(y + j, live) + load_live(p.bias + j, live), live); });
  }
}

}  // namespace

Product columns_of(const Product& p, long panel, long panel_end) {
  long step = 16;
  if (p.b.form == Right::panels || p.b.form == Right::columns) step = 16 * p.b.ld;
  if (p.b.form == Right::transposed) step = 256;
  return {{p.b.form, p.b.p + panel * step, p.b.ld}, {p.c.p + panel * 16 * (p.c.panels ? p.c.ld : 1), p.c.ld, p.c.panels},
          smaller(p.n, panel_end * 16) - panel * 16, p.bias ? p.bias + panel * 16 : nullptr};
}

void multiply(Left a, const Product* products, int count, long m, long k, bool carry, float* scratch) {
  long blocks = parts(m, GEMM_ROWS);
  for (long block = 0; block < blocks; block++) {
    Cut cut(m * block / blocks, m * (block + 1) / blocks);
    // One tile reads every panel once: nothing is gained by coming back to it.
    bool once = cut.count == 1 && products[0].b.form == Right::panels;
    long most = once ? GEMM_ROWS * GEMM_DEPTH / TILE_ROWS / 16 * 16 : GEMM_DEPTH;
    for (long k0 = 0; k0 < k || (k == 0 && k0 == 0); k0 += most) {
      long depth = smaller(most, k - k0);
      (a.by_column ? pack_columns : pack_rows)(a, cut, k0, depth, scratch);
      for (int i = 0; i < count; i++) {
        const float* after = i + 1 < count ? products[i + 1].b.p + k0 * 16 : products[0].b.p + (k0 + depth) * 16;
        multiply_block(scratch, cut, products[i], after, k0, depth, carry || k0 > 0, scratch + GEMM_ROWS * GEMM_DEPTH + 16);
      }
    }
    for (int i = 0; i < count; i++)
      if (products[i].bias) add_bias(products[i], cut.begin, cut.end);
  }
}

void multiply(Left a, Right b, Target c, Area area, long n, long k, bool carry, float* scratch) {
  Product p = columns_of({b, c, n}, area.panel, area.panel_end);
  p.c.p += area.row * (c.panels ? 16 : c.ld);
  multiply({a.p + area.row * (a.by_column ? 1 : a.ld), a.ld, a.by_column}, &p, 1, area.row_end - area.row, k, carry, scratch);
}

// Rows are the better cut when each thread still fills many tiles; a decode step cuts the columns into pieces that are worth
// packing its rows again: between the groups of panels that tiles take at once, unless the shares become unequal by that.
Pieces::Pieces(const Pool& pool, const Product* products, int count, long m, long k)
    : products_(products), m_(m), by_rows_(m >= pool.threads() * 4 * TILE_ROWS) {
  long panels = 0, n = 0, threads = pool.threads(), width = panels_of(int(Cut(0, larger(m, 1)).most()));
  for (int i = 0; i < count; i++) panels += parts(products[i].n, 16), n += products[i].n;
  count_ = by_rows_ ? parts(m, GEMM_ROWS) : threads > 1 ? smaller(panels / width / 4, threads * 4) / threads * threads : 1;
  if (by_rows_) count_ = parts(count_, threads) * threads;
  count_ = larger(count_, smaller(threads, by_rows_ ? m : panels));
  unit_ = panels >= 4 * width * count_ ? width : 1;
  if (double(m) * double(n) * double(k) < 32768) count_ = 1;
  for (int i = 0; i < count; i++) all_ += units(i);
}

Area Pieces::area(long piece, int product) const {
  long panels = parts(products_[product].n, 16);
  if (by_rows_) return {m_ * piece / count_, m_ * (piece + 1) / count_, 0, panels};
  long first = 0;
  for (int i = 0; i < product; i++) first += units(i);
  auto at = [&](long unit) { return smaller(panels, larger(0, unit - first) * unit_); };
  return {0, m_, at(all_ * piece / count_), at(all_ * (piece + 1) / count_)};
}

void multiply(Pool& pool, Left a, const Product* products, int count, long m, long k, bool carry) {
  if (m == 0) return;
  Pieces pieces(pool, products, count, m, k);
  parallel(pool, pieces.count(), [&](long piece, int thread) {
    Product mine[MOST_PRODUCTS];
    int used = 0;
    Area rows{};
    for (int i = 0; i < count; i++) {
      Area area = rows = pieces.area(piece, i);
      if (area.panel == area.panel_end) continue;
      mine[used] = columns_of(products[i], area.panel, area.panel_end);
      mine[used++].c.p += area.row * (products[i].c.panels ? 16 : products[i].c.ld);
    }
    if (used == 0) return;
    Left some{a.p + rows.row * (a.by_column ? 1 : a.ld), a.ld, a.by_column};
    multiply(some, mine, used, rows.row_end - rows.row, k, carry, reinterpret_cast<float*>(pool.scratch(thread)));
  });
}

void multiply(Pool& pool, Left a, Right b, Target c, long m, long n, long k, bool carry) {
  if (m == 0 || n == 0) return;
  if (b.form != Right::transposed || m < TURNED_ROWS) {
    Product p{b, c, n};
    return multiply(pool, a, &p, 1, m, k, carry);
  }
  // Turned once for all rows, as much of it at a time as there is room for. The panels are an odd number of steps apart, so that
  // they spread over the cache.
  float* turned = reinterpret_cast<float*>(pool.scratch(0)) + GEMM_SCRATCH;
  long width = smaller(parts(n, 16), GEMM_TURNED / (16 * (GEMM_DEPTH + 1))) * 16;
  long most = (GEMM_TURNED / width - 1) / GEMM_DEPTH * GEMM_DEPTH, ld = smaller(k, most) | 1;
  for (long j = 0; j < n; j += width)
    for (long k0 = 0; k0 < k || (k == 0 && k0 == 0); k0 += most) {
      long columns = smaller(width, n - j), depth = smaller(most, k - k0);
      Right part{b.form, b.p + k0 * b.ld + j * 16, b.ld};
      split(pool, depth, 16, [&](long from, long to) { turn_panels(part, columns, from, to, ld, turned + from * 16); });
      Product p{{Right::panels, turned, ld}, {c.p + j * (c.panels ? c.ld : 1), c.ld, c.panels}, columns};
      multiply(pool, {a.p + k0 * (a.by_column ? a.ld : 1), a.ld, a.by_column}, &p, 1, m, depth, carry || k0 > 0);
    }
}

// In panels the transpose is computed, whose rows are what a panel holds.
void multiply_gradient(Pool& pool, const float* dy, long ld, const float* x, float* dw, bool panels, long m, long n, long k,
                       bool carry) {
  if (panels) multiply(pool, {x, k, true}, {Right::rows, dy, ld}, {dw, k, true}, k, n, m, carry);
  else multiply(pool, {dy, ld, true}, {Right::rows, x, k}, {dw, k, false}, n, k, m, carry);
}

}  // namespace BATON_ISA
}  // namespace baton

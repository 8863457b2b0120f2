// The key-value cache in pages of 16 tokens, and attention over it with the bits of `attention`.
#include "paged.h"
#include "softmax.h"
#include "tile.h"

namespace baton {
namespace BATON_ISA {
void kv_write(Call& c) {
  long t = size(c, 0), kv = size(c, 1), d = size(c, 2);
  const float *k = floats(c, 0), *v = floats(c, 1);
  const int32_t *slots = ints(c, 2), *positions = ints(c, 3), *finished = ints(c, 5);
  Cache cache(floats(c, 6), kv, d, size(c, 3), size(c, 4), ints(c, 4), elements(c, 4), size(c, 5));
  if (!check_places(c, cache, slots, positions, finished, t, elements(c, 5))) return;
  // Row by row, as `paged_attention` goes: a thread then reads the pages that it wrote.
  split(*c.pool, t, 1, [&](long begin, long end) {
    for (long i = begin; i < end; i++) {
      if (finished[slots[i]]) continue;
      long page = cache.page(slots[i], positions[i]), lane = positions[i] % PAGE;
      for (long h = 0; h < kv; h++) cache.put(page, lane, h, k + (i * kv + h) * d, v + (i * kv + h) * d);
    }
  });
}

namespace {

constexpr long BLOCK_PAGES = 16;  // 256 keys, as in `attention`
constexpr long BLOCK = PAGE * BLOCK_PAGES, BLOCK_SCORES = BLOCK + 16;

// Keys and values of a block, by page. The pages of a sequence lie anywhere, so no processor guesses the next one: while a
// block is read, the same lines of the block that comes next are asked for.
struct Pages {
  const float* keys[BLOCK_PAGES];
  const float* values[BLOCK_PAGES];
};

// Pages [first, last) of the block at `base`, for one key-value head. Where the sequence has no page, and for none of the
// bits, there is some address of the cache.
void pages_of(const Cache& cache, long slot, long kv, long base, long first, long last, Pages& out) {
  for (long page = first; page < last; page++) {
    long at = larger(cache.page(slot, base + page * PAGE), 0);
    out.keys[page] = cache.keys(at, kv), out.values[page] = cache.values(at, kv);
  }
}

// Scores of R heads against P pages.
template <int R, int P>
void score_pages(long d, const float* q, const float* const* keys, const float* const* next, float* s) {
  v16 sum[R][P];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 16
    for (int p = 0; p < P; p++) sum[r][p] = zero();
  for (long k = 0; k < d; k++) {
    v16 w[P];
#pragma GCC unroll 16
    for (int p = 0; p < P; p++) w[p] = load(keys[p] + PAGE * k), __builtin_prefetch(next[p] + PAGE * k);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      v16 x = all(q[r * d + k]);
#pragma GCC unroll 16
      for (int p = 0; p < P; p++) sum[r][p] = fma(x, w[p], sum[r][p]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 16
    for (int p = 0; p < P; p++) store(s + r * BLOCK_SCORES + PAGE * p, sum[r][p]);
}

// o += Σ p · v over keys [from, to) of a block, for R heads and columns of one panel width P; the last has `live`.
template <int R, int P>
void gather_pages(long d, const float* p, const float* const* values, const float* const* next, long from, long to, float* o,
                  long live) {
  v16 sum[R][P];
  Cells cells{o, d, 16, live};
  tile_load<R, P>(cells, sum);
  for (long key = from; key < to; key++) {
    const float* row = values[key / PAGE] + key % PAGE * d;
    const float* later = next[key / PAGE] + key % PAGE * d;
    v16 w[P];
#pragma GCC unroll 16
    for (int j = 0; j < P; j++) __builtin_prefetch(later + 16 * j);
#pragma GCC unroll 16
    for (int j = 0; j < P; j++) w[j] = j + 1 == P && live < 16 ? load(row + 16 * j, live) : load(row + 16 * j);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      v16 x = all(p[r * BLOCK_SCORES + key]);
#pragma GCC unroll 16
      for (int j = 0; j < P; j++) sum[r][j] = fma(x, w[j], sum[r][j]);
    }
  }
  tile_store<R, P>(cells, sum);
}

// R heads of one key-value head, for one row.
template <int R>
struct Heads {
  // Chains side by side hide the latency of one, as long as their accumulators fit into registers.
  static constexpr int MOST = ATTENTION_ROWS * ATTENTION_PANELS / R;
  static constexpr int WIDTH = MOST >= 4 ? 4 : MOST >= 2 ? 2 : 1;

  template <int P>
  static void score(long from, long to, long d, const float* q, const Pages& now, const Pages& next, float* s) {
    for (; from + P <= to; from += P) score_pages<R, P>(d, q, now.keys + from, next.keys + from, s + PAGE * from);
    if constexpr (P > 1)
      if (from < to) score<P / 2>(from, to, d, q, now, next, s);
  }
  template <int P>
  static void gather(long column, long d, const float* p, const Pages& now, const Pages& next, long from, long to, float* o) {
    for (; d - column > 16 * (P - 1); column += 16 * P) {
      const float *at[BLOCK_PAGES], *later[BLOCK_PAGES];
      for (long page = from / PAGE; page < parts(to, PAGE); page++)
        at[page] = now.values[page] + column, later[page] = next.values[page] + column;
      gather_pages<R, P>(d, p, at, later, from, to, o + column, smaller(16, d - column - 16 * (P - 1)));
    }
    if constexpr (P > 1)
      if (column < d) gather<P / 2>(column, d, p, now, next, from, to, o);
  }

  // `next` gives the pages of a block that comes after the one at `base`.
  template <class Next>
  static void run(const Cache& cache, long slot, long position, long window, float scale, long kv, const float* q, float* o,
                  Next next) {
    Softmax state[R];
    float scores[R * BLOCK_SCORES];
    long d = cache.d, low = window ? larger(0, position - window + 1) : 0;
    for (int r = 0; r < R; r++) state[r].clear();
    memset(o, 0, size_t(R * d) * 4);
    for (long base = low / BLOCK * BLOCK; base <= position; base += BLOCK) {
      long from = larger(low - base, 0), to = smaller(position + 1 - base, BLOCK);
      Pages now, later;
      pages_of(cache, slot, kv, base, from / PAGE, parts(to, PAGE), now);
      next(base, from / PAGE, parts(to, PAGE), later);
      score<WIDTH>(from / PAGE, parts(to, PAGE), d, q, now, later, scores);
      for (int r = 0; r < R; r++) {
        v16 shrink = all(absorb<false>(state[r], scores + r * BLOCK_SCORES, from, to, scale));
        by_lanes(0, d, [&](long j, long n) {
          store_live(o + r * d + j, load_live(o + r * d + j, n) * shrink, n);
        });
      }
      gather<WIDTH>(0, d, scores, now, later, from, to, o);
    }
    for (int r = 0; r < R; r++) {
      v16 total = all(state[r].total());
      by_lanes(0, d, [&](long j, long n) { store_live(o + r * d + j, load_live(o + r * d + j, n) / total, n); });
    }
  }
};

}  // namespace

// A task is one row and one key-value head. A row whose pages are not all there gives NaN: the slot has finished (its
// pages may be gone and nobody reads the row), or the NaN is seen.
void paged_attention(Call& c) {
  long t = size(c, 0), heads = size(c, 1), kv = size(c, 2), d = size(c, 3), window = size(c, 4), group = heads / kv;
  float scale = real(c, 5);
  const float* q = floats(c, 0);
  const int32_t *slots = ints(c, 2), *positions = ints(c, 3);
  float* o = floats(c, 5);
  Cache cache(floats(c, 1), kv, d, size(c, 6), size(c, 7), ints(c, 4), elements(c, 4), size(c, 8));
  if (!check_indexes(c, "slot", slots, t, cache.slots)) return;
  parallel(*c.pool, t * kv, [&](long task, int) {
    long i = task / kv, head = task % kv, slot = slots[i], position = positions[i];
    const float* from = q + i * heads * d + head * group * d;
    float* to = o + i * heads * d + head * group * d;
    long low = window ? larger(0, position - window + 1) : 0;
    bool there = position >= 0;
    for (long at = low / PAGE * PAGE; there && at <= position; at += PAGE) there = cache.page(slot, at) >= 0;
    if (!there) {
      for (long j = 0; j < group * d; j++) to[j] = __builtin_nanf("");
      return;
    }
    long after = smaller(task + 1, t * kv - 1);
    auto next = [&](long base, long first, long last, Pages& out) {
      pages_of(cache, slots[after / kv], after % kv, base, first, last, out);
    };
    auto run = [&](long first, auto heads_at_once) {
      decltype(heads_at_once)::run(cache, slot, position, window, scale, head, from + first * d, to + first * d, next);
    };
    long h = 0;
    for (; h + 8 <= group; h += 8) run(h, Heads<8>());
    for (; h + 4 <= group; h += 4) run(h, Heads<4>());
    for (; h + 2 <= group; h += 2) run(h, Heads<2>());
    for (; h < group; h++) run(h, Heads<1>());
  });
}

void copy_pages(Call& c) {
  long n = size(c, 0), kv = size(c, 1), d = size(c, 2), layers = size(c, 3), pages = size(c, 4);
  const float* in = floats(c, 0);
  const int32_t *from = ints(c, 1), *to = ints(c, 2);
  float* out = floats(c, 3);
  long page = Cache::page_size(kv, d);
  if (n == 0) return;
  if (!check_indexes(c, "page", from, n, pages) || !check_indexes(c, "page", to, n, pages)) return;
  parallel(*c.pool, layers, [&](long layer, int) {
    for (long i = 0; i < n; i++)
      memmove(out + (layer * pages + to[i]) * page, in + (layer * pages + from[i]) * page, size_t(page) * 4);
  });
}

}  // namespace BATON_ISA
}  // namespace baton

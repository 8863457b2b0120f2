// Causal attention over packed sequences with grouped heads, forward and backward (Dao et al. 2022 for the blocked form).
#include "../../common/opcodes.h"
#include "attention_tiles.h"
#include "softmax.h"

namespace baton {
namespace BATON_ISA {
namespace {

constexpr long ROWS_PER_TASK = 128;
constexpr long HEADS_PER_PASS = 32;  // of one key-value head; bounds the running state

constexpr long FORWARD_SCRATCH =
    (2 * KEYS * MAX_HEAD_DIM + GROUP * SCORES) * 4 + HEADS_PER_PASS * ROWS_PER_TASK * long(sizeof(Softmax));
constexpr long BACKWARD_SCRATCH = (3 * KEYS * MAX_HEAD_DIM + 2 * GRAD_GROUP * MAX_HEAD_DIM + 2 * GRAD_GROUP * SCORES) * 4;
static_assert(FORWARD_SCRATCH <= long(SCRATCH_BYTES) && BACKWARD_SCRATCH <= long(SCRATCH_BYTES), "blocks fit");

struct Shapes {
  long tokens, sequences, heads, kv, d, window, q_step, kv_step, group, width;
  float scale;
  explicit Shapes(const Call& c)
      : tokens(size(c, 0)), sequences(size(c, 1)), heads(size(c, 2)), kv(size(c, 3)), d(size(c, 4)),
        window(size(c, 5) ? size(c, 5) : tokens + 1), q_step(heads * d), kv_step(kv * d), group(heads / kv),
        width(parts(d, 16) * 16), scale(real(c, 6)) {}
  // Keys of a block that starts at `base` which row i sees, relative to the block.
  long from(long i, long base) const { return larger(0, i - window + 1 - base); }
  long to(long i, long base) const { return smaller(KEYS, i + 1 - base); }
  Cells out(float* p, long step) const { return {p, step, 16, 0}; }
};

// Sequence that holds a token: the first whose end is past it.
long sequence_of(const int32_t* ends, long count, long token) {
  long low = 0;
  while (low < count) {
    long middle = (low + count) / 2;
    if (ends[middle] > token) count = middle;
    else low = middle + 1;
  }
  return low;
}

// Scores of rows [row, row_end) against the keys of one block, in panels; a tile of rows leaves out panels that none of its
// rows sees.
void score(const Shapes& z, const float* q, long q_step, long row, long row_end, long base, const float* keys, float* s) {
  long first = z.from(row, base) / 16, last = parts(z.to(row_end - 1, base), 16);
  for (long panel = first; panel < last; panel += ATTENTION_PANELS)
    for (long i = row; i < row_end; i += ATTENTION_ROWS) {
      long rows = smaller(ATTENTION_ROWS, row_end - i);
      long count = smaller(ATTENTION_PANELS, parts(z.to(i + rows - 1, base), 16) - panel);
      if (count > 0)
        attention_product<fresh>(rows, count * 16, z.d, {q + (i - row) * q_step, q_step, 1},
                                 {keys + panel * 16 * z.d, 16, 16 * z.d}, {s + (i - row) * SCORES + panel * 16, SCORES, 16, 0});
    }
}

// Rows of d values that are read soon; a processor does not guess them, because they are a whole token apart.
void fetch(const Shapes& z, const float* rows, long step, long count) {
  for (long i = 0; i < count; i++)
    for (long j = 0; j < z.d; j += 16) __builtin_prefetch(rows + i * step + j);
}

// out[row] += Σ p[row][key] · rows[key] over the live keys of one block.
void gather(const Shapes& z, long row, long row_end, long base, const float* p, const float* rows, float* out, long step) {
  long from[ATTENTION_ROWS], to[ATTENTION_ROWS];
  for (long i = row, next; i < row_end; i = next) {
    next = smaller(row_end, (i / ATTENTION_ROWS + 1) * ATTENTION_ROWS);
    for (long r = i; r < next; r++) from[r - i] = z.from(r, base), to[r - i] = z.to(r, base);
    chains(next - i, from, to, z.d, {p + (i - row) * SCORES, SCORES, 1}, {rows, z.width, 16},
           z.out(out + (i - row) * step, step));
  }
}

// out[key] += Σ p[row][key] · rows[row] over the rows in [row, row_end) that see a key of one block.
void scatter(const Shapes& z, long row, long row_end, long base, const float* p, const float* rows, float* out) {
  long from[ATTENTION_ROWS], to[ATTENTION_ROWS];
  long first = z.from(row, base) / ATTENTION_ROWS * ATTENTION_ROWS, last = z.to(row_end - 1, base);
  for (long j = first; j < last; j += ATTENTION_ROWS) {
    long keys = smaller(ATTENTION_ROWS, last - j);
    for (long r = 0; r < keys; r++) {
      long key = base + j + r;
      from[r] = larger(key, row) - row, to[r] = smaller(row_end, key + z.window) - row;
    }
    // With a window the first keys of a tile may be seen by no row at all; to < from then, and rises again.
    long skip = 0;
    while (skip < keys && to[skip] <= from[skip]) skip++;
    if (skip < keys)
      chains(keys - skip, from + skip, to + skip, z.d, {p + j + skip, 1, SCORES}, {rows, z.width, 16},
             z.out(out + (j + skip) * z.kv_step, z.kv_step));
  }
}

// ---- forward -----------------------------------------------------------------------------------------------------

struct Forward {
  const Shapes& z;
  const float *q, *k, *v;
  float *o, *lse;
  float *keys, *values, *scores;
  Softmax* state;

  // Rows [row, row_end) of a sequence that starts at token `start`, for `count` heads from `head` on.
  void rows(long start, long row, long row_end, long kv, long head, long count) const {
    for (long i = row; i < row_end; i++) {
      memset(o + (start + i) * z.q_step + head * z.d, 0, size_t(count * z.d) * 4);
      for (long h = 0; h < count; h++) state[h * ROWS_PER_TASK + i - row].clear();
    }
    for (long base = larger(0, row - z.window + 1) / KEYS * KEYS; base < row_end; base += KEYS) {
      long live = smaller(KEYS, row_end - base), at = (start + base) * z.kv_step + kv * z.d;
      fetch(z, v + at, z.kv_step, live);
      pack_transposed(k + at, z.kv_step, live, z.d, keys);
      pack_padded(v + at, z.kv_step, live, z.d, values);
      for (long h = 0; h < count; h++)
        for (long i = row, next; i < row_end; i = next) {
          next = smaller(row_end, (i / GROUP + 1) * GROUP);
          fetch(z, q + (start + next) * z.q_step + (head + h) * z.d, z.q_step, smaller(GROUP, row_end - next));
          if (next > base && z.from(i, base) < KEYS) group(start, row, i, next, base, head + h, h);
        }
    }
    for (long h = 0; h < count; h++)
      for (long i = row; i < row_end; i++) finish(start + i, head + h, state[h * ROWS_PER_TASK + i - row]);
  }

  void group(long start, long row, long i, long end, long base, long head, long h) const {
    long at = (start + i) * z.q_step + head * z.d;
    score(z, q + at, z.q_step, i, end, base, keys, scores);
    for (long r = i; r < end; r++) {
      long from = z.from(r, base), to = z.to(r, base);
      if (from >= to) continue;
      float shrink = absorb<false>(state[h * ROWS_PER_TASK + r - row], scores + (r - i) * SCORES, from, to, z.scale);
      if (shrink != 1) {
        float* out = o + (start + r) * z.q_step + head * z.d;
        by_lanes(0, z.d, [&](long j, long n) { store_live(out + j, load_live(out + j, n) * all(shrink), n); });
      }
    }
    gather(z, i, end, base, scores, values, o + at, z.q_step);
  }

  void finish(long token, long head, const Softmax& s) const {
    float* out = o + token * z.q_step + head * z.d;
    v16 total = all(s.total());
    by_lanes(0, z.d, [&](long j, long n) { store_live(out + j, load_live(out + j, n) / total, n); });
    lse[token * z.heads + head] = s.lse();
  }
};

}  // namespace

// A task is ROWS_PER_TASK packed rows and one key-value head.
void attention(Call& c) {
  Shapes z(c);
  const int32_t* ends = ints(c, 3);
  if (!check_ends(c, ends, z.sequences, z.tokens)) return;
  parallel(*c.pool, parts(z.tokens, ROWS_PER_TASK) * z.kv, [&](long task, int thread) {
    float* keys = reinterpret_cast<float*>(c.pool->scratch(thread));
    float* values = keys + KEYS * z.width;
    float* scores = values + KEYS * z.width;
    Softmax* state = reinterpret_cast<Softmax*>(scores + GROUP * SCORES);
    Forward f{z, floats(c, 0), floats(c, 1), floats(c, 2), floats(c, 4), floats(c, 5), keys, values, scores, state};
    long kv = task % z.kv, token = task / z.kv * ROWS_PER_TASK, end = smaller(z.tokens, token + ROWS_PER_TASK);
    for (long s = sequence_of(ends, z.sequences, token); token < end; s++) {
      long start = s ? ends[s - 1] : 0, stop = smaller(end, ends[s]);
      if (stop <= token) continue;
      for (long h = 0; h < z.group; h += HEADS_PER_PASS)
        f.rows(start, token - start, stop - start, kv, kv * z.group + h, smaller(HEADS_PER_PASS, z.group - h));
      token = stop;
    }
  });
}

namespace {

// ---- backward ----------------------------------------------------------------------------------------------------

struct Backward {
  const Shapes& z;
  const float *dO, *q, *k, *v, *o, *lse;
  float *dq, *dk, *dv;
  float *keys, *key_rows, *values, *queries, *grads, *p, *ds;

  void sequence(long start, long length, long kv) const {
    long first = kv * z.group;
    for (long i = 0; i < length; i++) {
      memset(dq + (start + i) * z.q_step + first * z.d, 0, size_t(z.group * z.d) * 4);
      memset(dk + (start + i) * z.kv_step + kv * z.d, 0, size_t(z.d) * 4);
      memset(dv + (start + i) * z.kv_step + kv * z.d, 0, size_t(z.d) * 4);
    }
    for (long base = 0; base < length; base += KEYS) {
      long live = smaller(KEYS, length - base), at = (start + base) * z.kv_step + kv * z.d;
      pack_transposed(k + at, z.kv_step, live, z.d, keys);
      pack_transposed(v + at, z.kv_step, live, z.d, values);
      pack_padded(k + at, z.kv_step, live, z.d, key_rows);
      for (long h = first; h < first + z.group; h++)
        for (long i = base; i < length && z.from(i, base) < KEYS; i += GRAD_GROUP)
          group(start, i, smaller(length, i + GRAD_GROUP), length, base, h, kv);
    }
  }

  // p = exp(scale · q·k − lse), ds = p · (dO·v − dO·o) · scale
  void group(long start, long i, long end, long length, long base, long head, long kv) const {
    long at = (start + i) * z.q_step + head * z.d, kv_at = (start + base) * z.kv_step + kv * z.d;
    long next = at + (end - i) * z.q_step, count = smaller(GRAD_GROUP, length - end);
    fetch(z, o + at, z.q_step, end - i);
    pack_padded(q + at, z.q_step, end - i, z.d, queries);
    pack_padded(dO + at, z.q_step, end - i, z.d, grads);
    fetch(z, q + next, z.q_step, count);
    score(z, queries, z.width, i, end, base, keys, p);
    fetch(z, dO + next, z.q_step, count);
    score(z, grads, z.width, i, end, base, values, ds);
    for (long r = i; r < end; r++) {
      long from = z.from(r, base), to = z.to(r, base), token = start + r;
      float *pr = p + (r - i) * SCORES, *dr = ds + (r - i) * SCORES;
      v16 delta = all(dot(dO + token * z.q_step + head * z.d, o + token * z.q_step + head * z.d, z.d));
      v16 shift = all(lse[token * z.heads + head]), scale = all(z.scale);
      by_lanes(from & ~15L, to, [&](long j, long) {
        v16 e = exp(load(pr + j) * scale - shift);
        store(pr + j, e);
        store(dr + j, e * (load(dr + j) - delta) * scale);
      });
    }
    gather(z, i, end, base, ds, key_rows, dq + at, z.q_step);
    scatter(z, i, end, base, ds, queries, dk + kv_at);
    scatter(z, i, end, base, p, grads, dv + kv_at);
  }
};

}  // namespace

// A task is one sequence and one key-value head: it owns its rows of dq, dk and dv, and walks heads and rows in order.
void attention_grad(Call& c) {
  Shapes z(c);
  const int32_t* ends = ints(c, 6);
  if (!check_ends(c, ends, z.sequences, z.tokens)) return;
  parallel(*c.pool, z.sequences * z.kv, [&](long task, int thread) {
    float* keys = reinterpret_cast<float*>(c.pool->scratch(thread));
    float *key_rows = keys + KEYS * z.width, *values = key_rows + KEYS * z.width, *queries = values + KEYS * z.width;
    float *grads = queries + GRAD_GROUP * z.width, *p = grads + GRAD_GROUP * z.width, *ds = p + GRAD_GROUP * SCORES;
    long s = task / z.kv, start = s ? ends[s - 1] : 0;
    Backward b{z, floats(c, 0), floats(c, 1), floats(c, 2), floats(c, 3), floats(c, 4), floats(c, 5),
               floats(c, 7), floats(c, 8), floats(c, 9), keys, key_rows, values, queries, grads, p, ds};
    b.sequence(start, ends[s] - start, task % z.kv);
  });
}

}  // namespace BATON_ISA
}  // namespace baton

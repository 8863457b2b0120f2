// log p(target) and entropy of a vocabulary head. With z = x·wᵀ and s = z / T: logprob = s[target] − lse, entropy H = lse − Σ p s.
// The logits z exist one tile at a time, and are made again for the gradients, unless a plan has memory for all of them.
#include "collective.h"
#include "gemm.h"
#include "softmax.h"

namespace baton {
namespace BATON_ISA {
namespace {

constexpr long VOCABULARY = 1024;              // of a tile; `sample` has the same, and therefore the same lse
constexpr long TILE_STEP = VOCABULARY + 16;    // floats between rows; not a power of two, so rows spread over the cache
constexpr long FORWARD_ROWS = 128, BACKWARD_ROWS = 504;
static_assert((GEMM_SCRATCH + GEMM_TURNED + BACKWARD_ROWS * TILE_STEP) * 4 <= long(SCRATCH_BYTES), "a tile fits into the scratch");

float* tile_of(Pool& pool, int thread) { return reinterpret_cast<float*>(pool.scratch(thread)) + GEMM_SCRATCH + GEMM_TURNED; }

// Rows of logits, `step` numbers from one to the next.
template <class Float>
struct LogitRows {
  Float* p;
  long step;
  Float* at(long row, long column) const { return p + row * step + column; }
};

// Logits that are kept from the forward pass for the backward pass; p is null where they are not.
template <class Float>
bool whole_logits(Call& c, int attribute, long vocabulary, int operand, LogitRows<Float>& out) {
  out = {nullptr, size(c, attribute)};
  if (out.step == 0) return true;
  // Kernels read and write whole vectors of a row.
  if (out.step < parts(vocabulary, 16) * 16) return fail(c, "rows of %ld logits are kept %ld apart", vocabulary, out.step);
  out.p = floats(c, operand);
  return true;
}

// Raw logits of rows [row, row_end) for one tile of the vocabulary.
void logits(const float* x, Right w, long h, long row, long row_end, long v0, long columns, LogitRows<float> to, float* scratch) {
  multiply({x + row * h, h, false}, {w.form, w.p + v0 * h, h}, {to.p, to.step, false},
           {0, row_end - row, 0, parts(columns, 16)}, columns, h, false, scratch);
}

// Calls done(row, softmax over the vocabulary, score of the row's target) for every row; targets count from `first` on, and
// the score is 0 for those of other shards.
template <class F>
void by_row(Call& c, long first, bool entropy, bool panels, LogitRows<float> keep, F done) {
  long rows = size(c, 0), h = size(c, 1), vocabulary = size(c, 2);
  const float *x = floats(c, 0), inverse = *floats(c, 3);
  Right w = weight_of(floats(c, 1), h, panels);
  const int32_t* targets = ints(c, 2);
  long pieces = larger(parts(rows, FORWARD_ROWS), smaller(c.pool->threads(), parts(rows, 8)));
  parallel(*c.pool, pieces, [&](long piece, int thread) {
    float *scratch = reinterpret_cast<float*>(c.pool->scratch(thread)), *tile = tile_of(*c.pool, thread);
    Softmax state[FORWARD_ROWS];
    float picked[FORWARD_ROWS] = {};
    long row = rows * piece / pieces, row_end = rows * (piece + 1) / pieces;
    for (long i = row; i < row_end; i++) state[i - row].clear();
    for (long v0 = 0; v0 < vocabulary; v0 += VOCABULARY) {
      long columns = smaller(VOCABULARY, vocabulary - v0);
      LogitRows<float> z = keep.p ? LogitRows<float>{keep.at(row, v0), keep.step} : LogitRows<float>{tile, TILE_STEP};
      logits(x, w, h, row, row_end, v0, columns, z, scratch);
      for (long i = row; i < row_end; i++) {
        float *raw = z.at(i - row, 0), *s = keep.p ? tile : raw;
        long target = targets[i] - first - v0;
        if (target >= 0 && target < columns) picked[i - row] = raw[target] * inverse;
        if (entropy) absorb<true>(state[i - row], raw, s, 0, columns, inverse);
        else absorb<false>(state[i - row], raw, s, 0, columns, inverse);
      }
    }
    for (long i = row; i < row_end; i++) done(i, state[i - row], picked[i - row]);
  });
}

}  // namespace

void linear_logprob(Call& c) {
  bool entropy = size(c, 3) == 1;
  float *logprob = floats(c, 4), *lse = floats(c, 5), *entropies = entropy ? floats(c, 6) : nullptr;
  LogitRows<float> keep;
  if (!whole_logits(c, 4, size(c, 2), c.operands - 1, keep) || !check_indexes(c, "target", ints(c, 2), size(c, 0), size(c, 2))) return;
  by_row(c, 0, entropy, size(c, 5) == 1, keep, [&](long i, const Softmax& z, float picked) {
    lse[i] = z.lse();
    logprob[i] = picked - lse[i];
    if (entropy) entropies[i] = lse[i] - sum(load(z.weighted)) / z.total();
  });
}

// Every rank brings maximum, sum and weighted sum of its shard, and the scores of the targets that are its own; every rank
// then combines them in the order of the ranks. A target's score lies in `logprob`: only its owner's element is read by
// others, so only that one has to wait for them before the result replaces it.
void shard_logprob(Call& c) {
  long rows = size(c, 0), vocabulary = size(c, 2), first = size(c, 4);
  bool entropy = size(c, 3) == 1;
  const int32_t* targets = ints(c, 2);
  float *logprob = floats(c, 4), *lse = floats(c, 5), *entropies = entropy ? floats(c, 6) : nullptr;
  float* work = floats(c, c.operands - 1);
  Meeting m(c, 6);
  LogitRows<float> keep;
  if (!m.valid() || !whole_logits(c, 7, vocabulary, c.operands - 2, keep) || !check_indexes(c, "target", targets, rows, size(c, 5))) return;
  by_row(c, first, entropy, size(c, 8) == 1, keep, [&](long i, const Softmax& z, float picked) {
    logprob[i] = picked;
    work[3 * i] = z.top;
    work[3 * i + 1] = z.total();
    work[3 * i + 2] = entropy ? sum(load(z.weighted)) : 0;
  });
  if (!m.open(SHARD_LOGPROB, rows, size(c, 5), work, logprob, first, first + vocabulary)) return;
  auto mine = [&](long i) { return targets[i] >= first && targets[i] < first + vocabulary; };
  split(*c.pool, rows, 256, [&](long begin, long end) {
    for (long i = begin; i < end; i++) {
      float top = -INF, total = 0, weighted = 0, picked = 0;
      for (long r = 0; r < m.ranks; r++) top = m.in<float>(r)[3 * i] > top ? m.in<float>(r)[3 * i] : top;
      for (long r = 0; r < m.ranks; r++) {
        const float* part = m.in<float>(r) + 3 * i;
        float shrink = exp(part[0] - top);
        total += part[1] * shrink;
        weighted += part[2] * shrink;
        if (targets[i] >= m.offer(r).from && targets[i] < m.offer(r).to) picked = m.out<float>(r)[i];
      }
      lse[i] = top + log(total);
      if (entropy) entropies[i] = lse[i] - weighted / total;
      if (!mine(i)) logprob[i] = picked - lse[i];
    }
  });
  if (!m.barrier()) return;
  for (long i = 0; i < rows; i++)
    if (mine(i)) logprob[i] -= lse[i];
}

namespace {

// What flows into one row.
struct RowGrad {
  float dlogprob, lse, dentropy, entropy, inverse;
  long target;  // in this tile, if it is
};

// Gradients of raw logits, which may lie in their place: with ℓ = s − lse and p = eˡ, ds = dlogprob (δ − p) − dentropy · p (ℓ + H).
void differentiate(const float* z, float* s, long columns, const RowGrad& g) {
  bool here = g.target >= 0 && g.target < columns;
  float target = here ? z[g.target] : 0.f;
  v16 inverse = all(g.inverse), lse = all(g.lse), dl = all(g.dlogprob), de = all(g.dentropy), entropy = all(g.entropy);
  auto mass = [&](v16 raw) {
    v16 l = raw * inverse - lse;
    return exp(l) * fma(de, l + entropy, dl);
  };
  for (long j = 0; j < columns; j += 16) store(s + j, zero() - mass(load(z + j)) * inverse);
  if (here) s[g.target] = (g.dlogprob - first(mass(all(target)))) * g.inverse;
}

// Two forks per tile: rows (logits, their gradients, dx), then columns (dw). dx walks the vocabulary in order, dw the rows.
// Targets count from `shard` on, of `total`; without `dw` only x has a gradient. The attributes from `first` on say so.
void head_gradient(Call& c, bool entropy, int first, float* dx, float* dw) {
  long shard = size(c, first), total = size(c, first + 1);
  bool panels = size(c, first + 3) == 1;
  long rows = size(c, 0), h = size(c, 1), vocabulary = size(c, 2);
  const float *dlogprob = floats(c, 0), *x = floats(c, 1), inverse = *floats(c, 4), *lse = floats(c, 5);
  Right w = weight_of(floats(c, 2), h, panels), back = weight_back(w.p, h, panels);
  const int32_t* targets = ints(c, 3);
  const float *dentropy = entropy ? floats(c, 6) : nullptr, *entropies = entropy ? floats(c, 7) : nullptr;
  LogitRows<const float> keep;
  if (!whole_logits(c, first + 2, vocabulary, entropy ? 8 : 6, keep) || !check_indexes(c, "target", targets, rows, total)) return;
  Pool& pool = *c.pool;
  float* tile = tile_of(pool, 0);
  for (long r0 = 0; r0 < rows; r0 += BACKWARD_ROWS) {
    long count = smaller(BACKWARD_ROWS, rows - r0);
    for (long v0 = 0; v0 < vocabulary; v0 += VOCABULARY) {
      long columns = smaller(VOCABULARY, vocabulary - v0);
      long pieces = smaller(pool.threads() > 1 ? 2 * pool.threads() : 1, parts(count, 8));
      parallel(pool, pieces, [&](long piece, int thread) {
        float* scratch = reinterpret_cast<float*>(pool.scratch(thread));
        long row = count * piece / pieces, row_end = count * (piece + 1) / pieces;
        float* mine = tile + row * TILE_STEP;
        if (!keep.p) logits(x, w, h, r0 + row, r0 + row_end, v0, columns, {mine, TILE_STEP}, scratch);
        for (long i = row; i < row_end; i++) {
          long at = r0 + i;
          float* s = tile + i * TILE_STEP;
          differentiate(keep.p ? keep.at(at, v0) : s, s, columns,
                        {dlogprob[at], lse[at], entropy ? dentropy[at] : 0.f, entropy ? entropies[at] : 0.f, inverse,
                         targets[at] - shard - v0});
        }
        multiply({mine, TILE_STEP, false}, {back.form, back.p + v0 * h, h}, {dx + (r0 + row) * h, h, false},
                 {0, row_end - row, 0, parts(h, 16)}, h, columns, v0 > 0, scratch);
      });
      if (dw) multiply_gradient(pool, tile, TILE_STEP, x + r0 * h, dw + v0 * h, panels, count, columns, h, true);
    }
  }
}

}  // namespace

void linear_logprob_grad(Call& c) {
  float *dx = floats(c, c.operands - 2), *dw = floats(c, c.operands - 1);
  bool panels = size(c, 8) == 1;
  continue_or_zero(size(c, 3) == 1, floats(c, c.operands - 3), dw, weight_elements(size(c, 2), size(c, 1), panels));
  head_gradient(c, size(c, 4) == 1, 5, dx, dw);
}

void linear_logprob_dx(Call& c) {
  head_gradient(c, size(c, 3) == 1, 4, floats(c, c.operands - 1), nullptr);
}

}  // namespace BATON_ISA
}  // namespace baton

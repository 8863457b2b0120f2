// log p(target) and entropy over a few tokens of the vocabulary that every row names: those that truncated sampling had kept.
// A row has room for `width` ids; the first that is negative ends its list. Nothing is computed for other tokens.
#include "softmax.h"

namespace baton {
namespace BATON_ISA {
namespace {

constexpr long MOST = 1024;  // ids of a row; one tile of a softmax
constexpr long STEPS = 32;   // of a chain, whose weights are gathered before they are used

// Ids of row i, all of them below `total`.
struct Row {
  const int32_t* ids;
  long count;
};
Row row_of(const int32_t* kept, long i, long width) {
  long n = 0;
  while (n < width && kept[i * width + n] >= 0) n++;
  return {kept + i * width, n};
}
bool check_kept(Call& c, const int32_t* kept, long rows, long width, long total) {
  if (width > MOST) return fail(c, "%ld tokens are kept of each row and at most %ld can be", width, MOST);
  for (long i = 0; i < rows * width; i++)
    if (kept[i] >= total) return fail(c, "kept token %ld is %d and there are %ld", i, kept[i], total);
  return true;
}

// Rows of a weight that a shard has: element k of one is at p[step·k].
struct Shard {
  const float* w;
  long h, first, v;
  bool panels;
  long step = panels ? 16 : 1;
  bool has(long id) const { return id >= first && id < first + v; }
  long offset(long id) const { return WeightRow(id - first, h, panels).start; }
};

// Chains of sixteen ids side by side, with the bits of `matmul`.
v16 logits(const float* x, const Shard& s, const int32_t* ids, long live) {
  const float* at[16];
  for (long l = 0; l < 16; l++) at[l] = s.w + (l < live && s.has(ids[l]) ? s.offset(ids[l]) : 0);
  alignas(64) float some[STEPS * 16];
  v16 sum = zero();
  for (long k0 = 0; k0 < s.h; k0 += STEPS) {
    long n = smaller(STEPS, s.h - k0);
    for (long k = 0; k < n; k++)
      for (long l = 0; l < 16; l++) some[16 * k + l] = at[l][s.step * (k0 + k)];
    for (long k = 0; k < n; k++) sum = fma(all(x[k0 + k]), load(some + 16 * k), sum);
  }
  return sum;
}

}  // namespace

void kept_logits(Call& c) {
  long rows = size(c, 0), h = size(c, 1), v = size(c, 2), width = size(c, 3);
  const float* x = floats(c, 0);
  const int32_t* kept = ints(c, 2);
  float* z = floats(c, 3);
  Shard shard{floats(c, 1), h, size(c, 4), v, size(c, 6) == 1};
  if (!check_kept(c, kept, rows, width, size(c, 5))) return;
  split(*c.pool, rows, 1, [&](long begin, long end) {
    for (long i = begin; i < end; i++) {
      Row row = row_of(kept, i, width);
      memset(z + i * width, 0, size_t(width) * 4);
      for (long j = 0; j < row.count; j += 16) {
        long live = smaller(16, row.count - j);
        alignas(64) float out[16];
        store(out, logits(x + i * h, shard, row.ids + j, live));
        for (long l = 0; l < live; l++)
          if (shard.has(row.ids[j + l])) z[i * width + j + l] = out[l];
      }
    }
  });
}

// Walks the ids of a row in order.
void kept_logits_dx(Call& c) {
  long rows = size(c, 0), h = size(c, 1), width = size(c, 3);
  const float* dz = floats(c, 0);
  const int32_t* kept = ints(c, 2);
  float* dx = floats(c, 3);
  Shard shard{floats(c, 1), h, size(c, 4), size(c, 2), size(c, 6) == 1};
  if (!check_kept(c, kept, rows, width, size(c, 5))) return;
  split(*c.pool, rows, 1, [&](long begin, long end) {
    for (long i = begin; i < end; i++) {
      Row row = row_of(kept, i, width);
      float* out = dx + i * h;
      memset(out, 0, size_t(h) * 4);
      for (long j = 0; j < row.count; j++) {
        if (!shard.has(row.ids[j])) continue;
        const float* w = shard.w + shard.offset(row.ids[j]);
        v16 by = all(dz[i * width + j]);
        by_lanes(0, h, [&](long k, long live) {
          alignas(64) float some[16] = {};
          for (long l = 0; l < live; l++) some[l] = w[shard.step * (k + l)];
          store_live(out + k, fma(by, load(some), load_live(out + k, live)), live);
        });
      }
    }
  });
}

// Walks the rows in order: a thread owns columns.
void kept_logits_dw(Call& c) {
  long rows = size(c, 0), h = size(c, 1), v = size(c, 2), width = size(c, 3);
  const float *dz = floats(c, 0), *x = floats(c, 1);
  const int32_t* kept = ints(c, 2);
  float* dw = floats(c, c.operands - 1);
  Shard shard{dw, h, size(c, 5), v, size(c, 7) == 1};
  if (!check_kept(c, kept, rows, width, size(c, 6))) return;
  continue_or_zero(size(c, 4) == 1, floats(c, 3), dw, weight_elements(v, h, shard.panels));
  split(*c.pool, h, 16, [&](long begin, long end) {
    for (long i = 0; i < rows; i++) {
      Row row = row_of(kept, i, width);
      for (long j = 0; j < row.count; j++) {
        if (!shard.has(row.ids[j])) continue;
        float* out = dw + shard.offset(row.ids[j]);
        v16 by = all(dz[i * width + j]);
        by_lanes(begin, end, [&](long k, long live) {
          alignas(64) float some[16] = {};
          for (long l = 0; l < live; l++) some[l] = out[shard.step * (k + l)];
          store(some, fma(by, load_live(x + i * h + k, live), load(some)));
          for (long l = 0; l < live; l++) out[shard.step * (k + l)] = some[l];
        });
      }
    }
  });
}

void kept_logprob(Call& c) {
  long rows = size(c, 0), width = size(c, 1);
  bool entropy = size(c, 2) == 1;
  const float *z = floats(c, 0), inverse = *floats(c, 3);
  const int32_t *kept = ints(c, 1), *targets = ints(c, 2);
  float *logprob = floats(c, 4), *lse = floats(c, 5), *entropies = entropy ? floats(c, 6) : nullptr;
  if (!check_kept(c, kept, rows, width, INT32_MAX)) return;
  for (long i = 0; i < rows; i++) {
    Row row = row_of(kept, i, width);
    bool found = false;
    for (long j = 0; j < row.count; j++) found = found || row.ids[j] == targets[i];
    if (!found) {
      fail(c, "target %ld is %d, which is not among the %ld kept tokens", i, targets[i], row.count);
      return;
    }
  }
  split(*c.pool, rows, rows_of(width), [&](long begin, long end) {
    alignas(64) float s[MOST];
    for (long i = begin; i < end; i++) {
      Row row = row_of(kept, i, width);
      Softmax state;
      state.clear();
      float picked = 0;
      for (long j = 0; j < row.count; j++) {
        s[j] = z[i * width + j];
        if (row.ids[j] == targets[i]) picked = s[j] * inverse;
      }
      if (entropy) absorb<true>(state, s, 0, row.count, inverse);
      else absorb<false>(state, s, 0, row.count, inverse);
      lse[i] = state.lse();
      logprob[i] = picked - lse[i];
      if (entropy) entropies[i] = lse[i] - sum(load(state.weighted)) / state.total();
    }
  });
}

// As `linear_logprob_grad`: with ℓ = s − lse and p = eˡ, ds = dlogprob (δ − p) − dentropy · p (ℓ + H).
void kept_logprob_grad(Call& c) {
  long rows = size(c, 0), width = size(c, 1);
  bool entropy = size(c, 2) == 1;
  const float *dlogprob = floats(c, 0), *z = floats(c, 1), *lse = floats(c, 5);
  const int32_t *kept = ints(c, 2), *targets = ints(c, 3);
  const float *dentropy = entropy ? floats(c, 6) : nullptr, *entropies = entropy ? floats(c, 7) : nullptr;
  float* dz = floats(c, c.operands - 1);
  v16 inverse = all(*floats(c, 4));
  if (!check_kept(c, kept, rows, width, INT32_MAX)) return;
  split(*c.pool, rows, rows_of(width), [&](long begin, long end) {
    for (long i = begin; i < end; i++) {
      Row row = row_of(kept, i, width);
      v16 shift = all(lse[i]), dl = all(dlogprob[i]), de = all(entropy ? dentropy[i] : 0.f);
      v16 h = all(entropy ? entropies[i] : 0.f);
      memset(dz + i * width, 0, size_t(width) * 4);
      by_lanes(0, row.count, [&](long j, long live) {
        v16 l = load_live(z + i * width + j, live) * inverse - shift, mass = exp(l) * fma(de, l + h, dl);
        alignas(64) float other[16], own[16];
        store(other, zero() - mass * inverse);
        store(own, (dl - mass) * inverse);
        for (long n = 0; n < live; n++) dz[i * width + j + n] = row.ids[j + n] == targets[i] ? own[n] : other[n];
      });
    }
  });
}

}  // namespace BATON_ISA
}  // namespace baton

// Draws the next token of every running slot and advances the slot's state.
//
// The stored logprob is that of softmax(logits / T) over the whole vocabulary, with the bits of `linearLogprob`. Then the
// topK largest are kept (ties: lower id first), then the shortest prefix of them, largest first, that holds topP of
// their mass (at least one). The draw is the inverse of the cumulative distribution in the order of ids at a uniform
// number from Philox4x32-10 (Salmon et al. 2011): key (keyLow, keyHigh), counter (index, sample, position in the
// response, 0), first word. It depends on nothing else, so a sample is the same in any batch on any device.
//
// `sampleKept` also stores the ids that were kept (those whose mass is not 0 in single precision), ascending, and its logprob
// is that of the softmax over them, with the bits of `keptLogprob`.
#include "softmax.h"

namespace baton {
namespace BATON_ISA {
namespace {

constexpr long TILE = 1024;  // as in head.cpp
enum Sampler { KEY_LOW, KEY_HIGH, INDEX, SAMPLE, LIMIT, SAMPLER_COLUMNS = 8 };
enum Finished { RUNNING, STOPPED, FULL };

// The first word of Philox4x32-10, as a number in (0, 1).
double uniform(uint32_t key0, uint32_t key1, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
  for (int round = 0; round < 10; round++, key0 += 0x9E3779B9u, key1 += 0xBB67AE85u) {
    uint64_t a = uint64_t(0xD2511F53u) * c0, b = uint64_t(0xCD9E8D57u) * c2;
    uint32_t n0 = uint32_t(b >> 32) ^ c1 ^ key0, n2 = uint32_t(a >> 32) ^ c3 ^ key1;
    c1 = uint32_t(b), c3 = uint32_t(a), c0 = n0, c2 = n2;
  }
  return (c0 + .5) * (1. / 4294967296.);
}

// Integers in the order of the numbers; −0 and 0 are one number.
uint32_t order(float s) {
  s += 0.f;
  uint32_t bits;
  memcpy(&bits, &s, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// What is kept: everything above `key`, and the first `ties` tokens at it.
struct Kept {
  uint32_t key = 0;
  long ties = 0;
  bool all = true;
};

struct Row {
  const float* logits;
  long vocabulary;
  float inverse, top;

  // f(first id, count, s[], e[]) for every tile in order; e = exp(s − top), 0 where not kept. Stops when f gives false.
  template <class F>
  void tiles(Kept kept, F f) const {
    alignas(64) float s[TILE], e[TILE];
    for (long v0 = 0; v0 < vocabulary; v0 += TILE) {
      long n = smaller(TILE, vocabulary - v0);
      by_lanes(0, n, [&](long j, long live) {
        v16 x = load_live(logits + v0 + j, live) * baton::BATON_ISA::all(inverse);
        store(s + j, x);
        store(e + j, exp(x - baton::BATON_ISA::all(top)));
      });
      if (!kept.all)
        for (long j = 0; j < n; j++) {
          uint32_t key = order(s[j]);
          if (key < kept.key || (key == kept.key && kept.ties-- <= 0)) e[j] = 0;
        }
      if (!f(v0, n, s, e)) return;
    }
  }

  // Σ e of a tile in 16 double lanes and one tree.
  static double mass(const float* e, long n) {
    double lane[16] = {};
    long j = 0;
    for (; j + 16 <= n; j += 16)
      for (int l = 0; l < 16; l++) lane[l] += double(e[j + l]);
    for (int l = 0; j < n; j++, l++) lane[l] += double(e[j]);
    for (int half = 8; half; half /= 2)
      for (int l = 0; l < half; l++) lane[l] += lane[l + half];
    return lane[0];
  }
  double mass(Kept kept) const {
    double total = 0;
    tiles(kept, [&](long, long n, const float*, const float* e) { return total += mass(e, n), true; });
    return total;
  }

  // Finds the key at which the weight of everything above it is below `target` and that of everything not below it is
  // not, one byte at a time from the top; `above` is the former. A token weighs 1, or its e.
  uint32_t cut(Kept kept, bool by_mass, double target, double& above, double& at) const {
    uint32_t prefix = 0;
    above = at = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
      double bins[256] = {};
      bool used[256] = {};
      tiles(kept, [&](long, long n, const float* s, const float* e) {
        for (long j = 0; j < n; j++) {
          uint32_t key = order(s[j]);
          if (shift < 24 && (key >> (shift + 8)) != (prefix >> (shift + 8))) continue;
          if (by_mass && e[j] == 0) continue;
          bins[key >> shift & 255] += by_mass ? double(e[j]) : 1.;
          used[key >> shift & 255] = true;
        }
        return true;
      });
      int bin = 255, last = -1;
      for (; bin >= 0; bin--) {
        if (!used[bin]) continue;
        last = bin;
        if (above + bins[bin] >= target) break;
        above += bins[bin];
      }
      if (bin < 0) above -= bins[last], bin = last;  // rounding left the target out of reach: keep down to the lowest
      prefix |= uint32_t(bin) << shift;
      at = bins[bin];
    }
    return prefix;
  }

  Kept filter(long top_k, double top_p) const {
    Kept kept;
    double above, at;
    if (top_k > 0 && top_k < vocabulary) {
      uint32_t key = cut(kept, false, double(top_k), above, at);
      kept = {key, top_k - long(above), false};
    }
    if (top_p < 1) {
      double target = top_p * mass(kept);
      uint32_t key = cut(kept, true, target, above, at);
      // Tokens at one key weigh the same.
      double each = 0;
      tiles(kept, [&](long, long n, const float* s, const float* e) {
        for (long j = 0; j < n && each == 0; j++)
          if (e[j] != 0 && order(s[j]) == key) each = double(e[j]);
        return each == 0;
      });
      long most = long(at / each + .5), ties = 1;
      while (ties < most && above + double(ties) * each < target) ties++;
      kept = {key, ties, false};
    }
    return kept;
  }

  long draw(Kept kept, double u) const {
    double target = u * mass(kept), before = 0;
    long token = -1;
    tiles(kept, [&](long v0, long n, const float*, const float* e) {
      double in = mass(e, n);
      if (in > 0 && before + in > target) {
        double sum = before;
        for (long j = 0; j < n; j++) {
          if (e[j] == 0) continue;
          token = v0 + j;
          sum += double(e[j]);
          if (sum > target) break;
        }
        return false;
      }
      before += in;
      // If rounding leaves the target beyond the last tile, the last token that was kept is the one.
      for (long j = n; in > 0 && j-- > 0;)
        if (e[j] != 0) {
          token = v0 + j;
          break;
        }
      return true;
    });
    return token;
  }

  // Lists the kept ids in `ids`, −1 behind the last of at most `width`, and returns the log-sum-exp over them.
  float list(Kept kept, int32_t* ids, long width) const {
    alignas(64) float s[TILE];
    long n = 0;
    tiles(kept, [&](long v0, long count, const float*, const float* e) {
      for (long j = 0; j < count && n < width; j++)
        if (e[j] != 0) s[n] = logits[v0 + j], ids[n++] = int32_t(v0 + j);
      return n < width;
    });
    for (long j = n; j < width; j++) ids[j] = -1;
    Softmax state;
    state.clear();
    absorb<false>(state, s, 0, n, inverse);
    return state.lse();
  }

  // First id of the largest logit, which is in the tile at `v0`.
  long largest(long v0) const {
    long token = v0;
    for (long j = v0; j < smaller(v0 + TILE, vocabulary); j++)
      if (logits[j] > logits[token]) token = j;
    return token;
  }
};

// `width` ids of kept tokens are stored for every token; none where it is 0.
void draw_tokens(Call& c, long width) {
  long rows = size(c, 0), vocabulary = size(c, 1), top_k = size(c, 3), stop_count = size(c, 5), max_new = size(c, 6);
  double temperature = c.attribute[2], top_p = c.attribute[4];
  bool greedy = temperature == 0;
  float inverse = greedy ? 1.f : float(1 / temperature);
  const float* logits = floats(c, 0);
  const int32_t *slots = ints(c, 1), *sampler = ints(c, 6), *stops = ints(c, 7);
  int32_t *token = static_cast<int32_t*>(c.operand[2]), *position = static_cast<int32_t*>(c.operand[3]);
  int32_t *finished = static_cast<int32_t*>(c.operand[4]), *count = static_cast<int32_t*>(c.operand[5]);
  int32_t* out_tokens = static_cast<int32_t*>(c.operand[8]);
  float* out_logprobs = floats(c, 9);
  long limit = smaller(elements(c, 6) / SAMPLER_COLUMNS, elements(c, 8) / larger(max_new, 1));
  for (int operand = 2; operand <= 5; operand++) limit = smaller(limit, elements(c, operand));
  limit = smaller(limit, elements(c, 9) / larger(max_new, 1));
  int32_t* out_kept = width ? static_cast<int32_t*>(c.operand[10]) : nullptr;
  if (width) limit = smaller(limit, elements(c, 10) / larger(max_new * width, 1));
  if (width > TILE) {
    fail(c, "%ld tokens are kept of each row and at most %ld can be", width, TILE);
    return;
  }
  if (!check_indexes(c, "slot", slots, rows, limit)) return;
  for (long i = 0; i < rows; i++)
    if (!finished[slots[i]] && (count[slots[i]] < 0 || count[slots[i]] >= max_new)) {
      fail(c, "slot %d has %d tokens and room for %ld", slots[i], count[slots[i]], max_new);
      return;
    }
  long broken = -1;
  parallel(*c.pool, rows, [&](long i, int) {
    long slot = slots[i];
    if (finished[slot]) return;
    alignas(64) float s[TILE];
    Softmax state;
    state.clear();
    long best = 0;  // the first tile with the largest logit
    Row row{logits + i * vocabulary, vocabulary, inverse, 0};
    for (long v0 = 0; v0 < vocabulary; v0 += TILE) {
      long n = smaller(TILE, vocabulary - v0);
      float before = state.top;
      memcpy(s, row.logits + v0, size_t(n) * 4);
      absorb<false>(state, s, 0, n, inverse);
      if (state.top > before) best = v0;
    }
    row.top = state.top;
    float lse = state.lse();
    if (!__builtin_isfinite(lse)) {
      __atomic_store_n(&broken, slot, __ATOMIC_RELAXED);
      return;
    }
    const int32_t* z = sampler + slot * SAMPLER_COLUMNS;
    long at = count[slot];
    if (at >= max_new) return;  // a slot named twice
    uint32_t key[] = {uint32_t(z[KEY_LOW]), uint32_t(z[KEY_HIGH])};
    Kept kept = greedy ? Kept{} : row.filter(top_k, top_p);
    long drawn = greedy ? row.largest(best)
                        : row.draw(kept, uniform(key[0], key[1], uint32_t(z[INDEX]), uint32_t(z[SAMPLE]), uint32_t(at), 0));
    if (width && !greedy) lse = row.list(kept, out_kept + (slot * max_new + at) * width, width);
    out_tokens[slot * max_new + at] = int32_t(drawn);
    out_logprobs[slot * max_new + at] = row.logits[drawn] * inverse - lse;
    token[slot] = int32_t(drawn);
    position[slot]++;
    count[slot] = int32_t(at + 1);
    bool stop = false;
    for (long j = 0; j < stop_count; j++) stop = stop || stops[j] == drawn;
    // Last: who reads the state while this runs and sees a slot finished sees all of its tokens.
    int32_t now = stop ? STOPPED : at + 1 == z[LIMIT] ? FULL : RUNNING;
    __atomic_store_n(&finished[slot], now, __ATOMIC_RELEASE);
  });
  if (broken >= 0) fail(c, "the logits of slot %ld are not finite", broken);
}

}  // namespace

void sample(Call& c) { draw_tokens(c, 0); }
void sample_kept(Call& c) { draw_tokens(c, size(c, 3)); }

}  // namespace BATON_ISA
}  // namespace baton

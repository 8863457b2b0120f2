// A softmax that sees its row in blocks: the running maximum, and sums in 16 lanes that shrink when the maximum grows.
// Attention, the vocabulary head and sampling share it, and therefore each other's bits.
#pragma once
#include "kernel.h"

namespace baton {
namespace BATON_ISA {

struct Softmax {
  float top;
  float sum[16];       // Σ e, by index mod 16
  float weighted[16];  // Σ e·s, kept when asked for

  void clear() {
    top = -INF;
    store(sum, zero());
    store(weighted, zero());
  }
  float total() const { return baton::BATON_ISA::sum(load(sum)); }
  float lse() const { return top + log(total()); }
};

// Takes the scores raw[from, to) · scale of the next block, whose start is a multiple of 16 from the row's, and leaves
// e = exp(raw · scale − top) in s, which may be the same. Returns the factor by which everything before this block shrinks. Both
// have room up to a multiple of 16; what lies outside [from, to) is not used, whatever it is.
template <bool WEIGHTED>
inline float absorb(Softmax& state, const float* raw, float* s, long from, long to, float scale) {
  long begin = from & ~15L;
  v16 factor = all(scale), top = all(state.top);
  auto live = [&](long j) { return lanes(larger(from - j, 0), smaller(to - j, 16)); };
  auto inside = [&](long j) { return j >= from && j + 16 <= to; };
  for (long j = begin; j < to; j += 16) {
    v16 x = load(raw + j) * factor;
    if (!inside(j)) x = pick(live(j), x, all(-INF));
    store(s + j, x);
    top = most(top, x);
  }
  float peak = largest(top);
  // The two ends of exp, without computing it.
  float shrink = state.top == peak ? 1.f : state.top == -INF ? 0.f : exp(state.top - peak);
  state.top = peak;
  v16 shift = all(peak), sum = load(state.sum) * all(shrink), weighted = zero();
  if (WEIGHTED) weighted = load(state.weighted) * all(shrink);
  for (long j = begin; j < to; j += 16) {
    v16 x = load(s + j), e = exp(x - shift);
    sum = sum + e;
    // A dead lane has e = 0 and x = −∞, whose product is NaN.
    if (WEIGHTED) weighted = inside(j) ? fma(e, x, weighted) : pick(live(j), fma(e, x, weighted), weighted);
    store(s + j, e);
  }
  store(state.sum, sum);
  if (WEIGHTED) store(state.weighted, weighted);
  return shrink;
}
template <bool WEIGHTED>
inline float absorb(Softmax& state, float* s, long from, long to, float scale) {
  return absorb<WEIGHTED>(state, s, s, from, to, scale);
}

}  // namespace BATON_ISA
}  // namespace baton

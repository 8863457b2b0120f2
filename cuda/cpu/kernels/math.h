// exp, log and what follows from them, on sixteen lanes. A scalar goes through the same polynomials, in one lane.
#pragma once
#include "simd.h"

namespace baton {
namespace BATON_ISA {

constexpr float INF = __builtin_inff();
// ln 2 in two parts: the first has so few bits that its product with an exponent is exact.
constexpr float LN2_HIGH = 0.693145752f, LN2_LOW = 1.42860677e-6f;
constexpr float EXP_SERIES[] = {.5f, .166665763f, .0416665561f, .00836317893f, .0013926184f};

// eˣ within 1 ulp; 0 below -87.34 (the threads flush subnormals), infinity above 88.72; NaN stays NaN.
// x = n ln 2 + r, eʳ = 1 + r + r² q(r), where q interpolates at the Chebyshev points of |r| ≤ ln 2 / 2.
inline v16 exp(v16 x) {
  x = least(all(89.f), most(all(-104.f), x));
  v16 n = rounded(x * all(1.44269504f));
  v16 r = fma(n, all(-LN2_LOW), fma(n, all(-LN2_HIGH), x));
  v16 q = all(EXP_SERIES[4]);
  q = fma(q, r, all(EXP_SERIES[3]));
  q = fma(q, r, all(EXP_SERIES[2]));
  q = fma(q, r, all(EXP_SERIES[1]));
  q = fma(q, r, all(EXP_SERIES[0]));
  return times_power(fma(r * r, q, r) + all(1.f), n);
}

// log(1 + f) from f and 2 + f. With s = f/(2 + f): log(1 + f) = 2 artanh s = 2s + s·R(s²), and 2s = f - s·f.
template <int TERMS>
inline v16 log_of(v16 f, v16 two_f, v16 carry) {
  v16 s = f / two_f, z = s * s, r = all(2.f / (2 * TERMS + 1));
#pragma GCC unroll 8
  for (int i = TERMS - 1; i > 0; i--) r = fma(r, z, all(2.f / (2 * i + 1)));
  r = r * z;
  return f - (s * (f - r) - carry);
}

// ln x within 1 ulp; -infinity at 0, NaN below; subnormal numbers are 0.
inline v16 log(v16 x) {
  v16 mantissa, exponent;
  split(x, mantissa, exponent);
  m16 large = at_least(mantissa, all(1.41421356f));
  mantissa = pick(large, mantissa * all(.5f), mantissa);
  exponent = exponent + pick(large, all(1.f), zero());
  v16 f = mantissa - all(1.f);
  v16 out = fma(exponent, all(LN2_HIGH), log_of<5>(f, f + all(2.f), exponent * all(LN2_LOW)));
  out = pick(less(zero(), x), pick(at_least(x, all(INF)), x, out), all(-INF));
  out = pick(less(x, zero()), all(__builtin_nanf("")), out);
  return pick(at_least(x, all(-INF)), out, x);
}

inline v16 sigmoid(v16 x) { return all(1.f) / (all(1.f) + exp(zero() - x)); }
// silu(gate) · up
inline v16 gated(v16 gate, v16 up) { return gate * sigmoid(gate) * up; }

// ln sigmoid(x) = min(x, 0) - ln(1 + e), e = exp(-|x|) in (0, 1], without losing a small e.
inline v16 log_sigmoid(v16 x) {
  v16 e = exp(zero() - magnitude(x));
  return least(x, zero()) - log_of<8>(e, e + all(2.f), zero());
}

inline float exp(float x) { return first(exp(all(x))); }
inline float log(float x) { return first(log(all(x))); }

}  // namespace BATON_ISA
}  // namespace baton

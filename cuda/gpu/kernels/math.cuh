// exp, log and what follows from them: the polynomials of cuda/cpu/kernels/math.h on one number, with the same bits.
#ifndef BATON_MATH
#define BATON_MATH
// Kernels that are compiled while a program runs have this text and no headers (chain_source.cpp).
#ifndef BATON_NO_HEADERS
#include <cuda_runtime.h>
#endif

namespace baton {

#ifdef BATON_NO_HEADERS
#define INF __int_as_float(0x7f800000)
#else
constexpr float INF = __builtin_inff();
#endif
constexpr float LN2_HIGH = 0.693145752f, LN2_LOW = 1.42860677e-6f;

__device__ inline float nan_number() { return __int_as_float(0x7fc00000); }

__device__ inline float power_of_two(int n) { return __int_as_float((n + 127) << 23); }

// b when either is NaN or both are equal.
__device__ inline float least_of(float a, float b) { return a < b ? a : b; }
__device__ inline float most_of(float a, float b) { return a > b ? a : b; }

__device__ inline float exp_of(float x) {
  x = least_of(89.f, most_of(-104.f, x));
  float n = rintf(x * 1.44269504f);
  float r = fmaf(n, -LN2_LOW, fmaf(n, -LN2_HIGH, x));
  float q = .0013926184f;
  q = fmaf(q, r, .00836317893f);
  q = fmaf(q, r, .0416665561f);
  q = fmaf(q, r, .166665763f);
  q = fmaf(q, r, .5f);
  float a = fmaf(r * r, q, r) + 1.f;
  int whole = n == n ? int(n) : 0, half = whole >> 1;
  return a * power_of_two(half) * power_of_two(whole - half);
}

template <int TERMS>
__device__ inline float log_series(float f, float two_f, float carry) {
  float s = f / two_f, z = s * s, r = 2.f / (2 * TERMS + 1);
  for (int i = TERMS - 1; i > 0; i--) r = fmaf(r, z, 2.f / (2 * i + 1));
  r = r * z;
  return f - (s * (f - r) - carry);
}

__device__ inline float log_of(float x) {
  int bits = __float_as_int(x);
  float exponent = float(int(unsigned(bits) >> 23) - 127), mantissa = __int_as_float((bits & 0x7fffff) | 0x3f800000);
  bool large = mantissa >= 1.41421356f;
  mantissa = large ? mantissa * .5f : mantissa;
  exponent = exponent + (large ? 1.f : 0.f);
  float f = mantissa - 1.f;
  float out = fmaf(exponent, LN2_HIGH, log_series<5>(f, f + 2.f, exponent * LN2_LOW));
  out = 0.f < x ? (x >= INF ? x : out) : -INF;
  out = x < 0.f ? nan_number() : out;
  return x >= -INF ? out : x;
}

__device__ inline float sigmoid_of(float x) { return 1.f / (1.f + exp_of(0.f - x)); }
__device__ inline float swiglu_of(float gate, float up) { return gate * sigmoid_of(gate) * up; }
__device__ inline float log_sigmoid_of(float x) {
  float e = exp_of(0.f - fabsf(x));
  return least_of(x, 0.f) - log_series<8>(e, e + 2.f, 0.f);
}

}  // namespace baton

#endif

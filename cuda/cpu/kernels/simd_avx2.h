// v16 on AVX2 and FMA: two registers. See simd.h for what each function means.
#include <immintrin.h>

namespace baton {
namespace BATON_ISA {

struct v16 { __m256 lo, hi; };
struct m16 { __m256 lo, hi; };

// All ones in the lanes first, first + 1, … that are below n.
inline __m256 lanes_below(long n, int first) {
  __m256i lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first));
  return _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(int(n)), lane));
}

inline v16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline v16 all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline v16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline v16 load(const float* p, long n) {
  return {_mm256_maskload_ps(p, _mm256_castps_si256(lanes_below(n, 0))),
          _mm256_maskload_ps(p + 8, _mm256_castps_si256(lanes_below(n, 8)))};
}
inline void store(float* p, v16 a) { _mm256_storeu_ps(p, a.lo), _mm256_storeu_ps(p + 8, a.hi); }
inline void store(float* p, v16 a, long n) {
  _mm256_maskstore_ps(p, _mm256_castps_si256(lanes_below(n, 0)), a.lo);
  _mm256_maskstore_ps(p + 8, _mm256_castps_si256(lanes_below(n, 8)), a.hi);
}

inline v16 operator+(v16 a, v16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline v16 operator-(v16 a, v16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline v16 operator*(v16 a, v16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline v16 operator/(v16 a, v16 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline v16 fma(v16 a, v16 b, v16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline v16 least(v16 a, v16 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline v16 most(v16 a, v16 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline v16 root(v16 a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
inline v16 magnitude(v16 a) {
  __m256 sign = _mm256_set1_ps(-0.f);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}

inline m16 less(v16 a, v16 b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)};
}
inline m16 at_least(v16 a, v16 b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_GE_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_GE_OQ)};
}
inline m16 lanes(long from, long to) {
  return {_mm256_andnot_ps(lanes_below(from, 0), lanes_below(to, 0)),
          _mm256_andnot_ps(lanes_below(from, 8), lanes_below(to, 8))};
}
inline v16 pick(m16 m, v16 a, v16 b) {
  return {_mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi)};
}

inline v16 rounded(v16 a) {
  constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.lo, nearest), _mm256_round_ps(a.hi, nearest)};
}
// Two factors, each a normal number, so that results below the normal range are rounded once.
inline __m256 times_power(__m256 a, __m256 n) {
  __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1), bias = _mm256_set1_epi32(127);
  __m256i one = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  __m256i two = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(a, _mm256_castsi256_ps(one)), _mm256_castsi256_ps(two));
}
inline v16 times_power(v16 a, v16 n) { return {times_power(a.lo, n.lo), times_power(a.hi, n.hi)}; }
inline void split(__m256 a, __m256& mantissa, __m256& exponent) {
  __m256i bits = _mm256_castps_si256(a);
  exponent = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(bits, 23), _mm256_set1_epi32(127)));
  bits = _mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi32(0x7fffff)), _mm256_set1_epi32(0x3f800000));
  mantissa = _mm256_castsi256_ps(bits);
}
inline void split(v16 a, v16& mantissa, v16& exponent) {
  split(a.lo, mantissa.lo, exponent.lo);
  split(a.hi, mantissa.hi, exponent.hi);
}

inline float first(v16 a) { return _mm256_cvtss_f32(a.lo); }
inline float sum(v16 a) {
  __m256 b = _mm256_add_ps(a.lo, a.hi);
  __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
inline float largest(v16 a) {
  __m256 b = _mm256_max_ps(a.lo, a.hi);
  __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

inline void transpose8(__m256 r[8]) {
  __m256 t[8], u[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; j++) {
      u[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0x44);
      u[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0xee);
    }
  for (int i = 0; i < 4; i++) {
    r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
  }
}
inline void transpose(v16 r[16]) {
  __m256 quarter[4][8];
  for (int i = 0; i < 8; i++) {
    quarter[0][i] = r[i].lo, quarter[1][i] = r[i].hi;
    quarter[2][i] = r[i + 8].lo, quarter[3][i] = r[i + 8].hi;
  }
  for (int q = 0; q < 4; q++) transpose8(quarter[q]);
  for (int i = 0; i < 8; i++) {
    r[i] = {quarter[0][i], quarter[2][i]};
    r[i + 8] = {quarter[1][i], quarter[3][i]};
  }
}

// Largest tile of a product: 12 accumulators, two halves of a panel row, one broadcast.
constexpr int TILE_ROWS = 6;
constexpr int panels_of(int rows) { return rows >= 4 ? 1 : rows >= 3 ? 2 : rows >= 2 ? 3 : 5; }
// Tile of attention: powers of two, so that a tile never straddles two key blocks.
constexpr int ATTENTION_ROWS = 4, ATTENTION_PANELS = 1;

}  // namespace BATON_ISA
}  // namespace baton

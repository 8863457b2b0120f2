// v16 on AVX-512: one register. See simd.h for what each function means.
#include <immintrin.h>

namespace baton {
namespace BATON_ISA {

struct v16 { __m512 v; };
struct m16 { __mmask16 v; };

inline __mmask16 first_lanes(long n) { return __mmask16((1u << n) - 1); }

inline v16 zero() { return {_mm512_setzero_ps()}; }
inline v16 all(float x) { return {_mm512_set1_ps(x)}; }
inline v16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline v16 load(const float* p, long n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
inline void store(float* p, v16 a) { _mm512_storeu_ps(p, a.v); }
inline void store(float* p, v16 a, long n) { _mm512_mask_storeu_ps(p, first_lanes(n), a.v); }

inline v16 operator+(v16 a, v16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline v16 operator-(v16 a, v16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline v16 operator*(v16 a, v16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline v16 operator/(v16 a, v16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline v16 fma(v16 a, v16 b, v16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline v16 least(v16 a, v16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline v16 most(v16 a, v16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline v16 root(v16 a) { return {_mm512_sqrt_ps(a.v)}; }
inline v16 magnitude(v16 a) { return {_mm512_abs_ps(a.v)}; }

inline m16 less(v16 a, v16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline m16 at_least(v16 a, v16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
inline m16 lanes(long from, long to) { return {__mmask16(first_lanes(to) & ~first_lanes(from))}; }
inline v16 pick(m16 m, v16 a, v16 b) { return {_mm512_mask_blend_ps(m.v, b.v, a.v)}; }

inline v16 rounded(v16 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline v16 times_power(v16 a, v16 n) { return {_mm512_scalef_ps(a.v, n.v)}; }
inline void split(v16 a, v16& mantissa, v16& exponent) {
  __m512i bits = _mm512_castps_si512(a.v);
  exponent.v = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_srli_epi32(bits, 23), _mm512_set1_epi32(127)));
  bits = _mm512_or_si512(_mm512_and_si512(bits, _mm512_set1_epi32(0x7fffff)), _mm512_set1_epi32(0x3f800000));
  mantissa.v = _mm512_castsi512_ps(bits);
}

inline float first(v16 a) { return _mm512_cvtss_f32(a.v); }
inline float sum(v16 a) {
  __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
inline float largest(v16 a) {
  __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

inline void transpose(v16 r[16]) {
  __m512 t[16], u[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i].v, r[i + 1].v);
    t[i + 1] = _mm512_unpackhi_ps(r[i].v, r[i + 1].v);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; j++) {
      u[i + 2 * j] = _mm512_shuffle_ps(t[i + j], t[i + j + 2], 0x44);
      u[i + 2 * j + 1] = _mm512_shuffle_ps(t[i + j], t[i + j + 2], 0xee);
    }
  for (int i = 0; i < 4; i++) {
    __m512 a = _mm512_shuffle_f32x4(u[i], u[i + 4], 0x88), b = _mm512_shuffle_f32x4(u[i], u[i + 4], 0xdd);
    __m512 c = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0x88), d = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0xdd);
    r[i].v = _mm512_shuffle_f32x4(a, c, 0x88);
    r[i + 8].v = _mm512_shuffle_f32x4(a, c, 0xdd);
    r[i + 4].v = _mm512_shuffle_f32x4(b, d, 0x88);
    r[i + 12].v = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
}

// Largest tile of a product: 28 accumulators, two panel rows, one broadcast.
constexpr int TILE_ROWS = 14;
constexpr int panels_of(int rows) { return rows >= 10 ? 2 : rows >= 8 ? 3 : rows >= 6 ? 4 : rows >= 4 ? 5 : 6; }
// Tile of attention: powers of two, so that a tile never straddles two key blocks.
constexpr int ATTENTION_ROWS = 8, ATTENTION_PANELS = 3;

}  // namespace BATON_ISA
}  // namespace baton

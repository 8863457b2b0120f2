// v16 as an array, for any processor. See simd.h for what each function means.
#include <string.h>

namespace baton {
namespace BATON_ISA {

struct v16 { float x[16]; };
struct m16 { bool x[16]; };

#define EACH(expression) \
  v16 out; \
  for (int i = 0; i < 16; i++) out.x[i] = (expression); \
  return out

inline v16 zero() { EACH(0.f); }
inline v16 all(float a) { EACH(a); }
inline v16 load(const float* p) { EACH(p[i]); }
inline v16 load(const float* p, long n) { EACH(i < n ? p[i] : 0.f); }
inline void store(float* p, v16 a) { memcpy(p, a.x, sizeof a.x); }
inline void store(float* p, v16 a, long n) { memcpy(p, a.x, size_t(n) * sizeof(float)); }

inline v16 operator+(v16 a, v16 b) { EACH(a.x[i] + b.x[i]); }
inline v16 operator-(v16 a, v16 b) { EACH(a.x[i] - b.x[i]); }
inline v16 operator*(v16 a, v16 b) { EACH(a.x[i] * b.x[i]); }
inline v16 operator/(v16 a, v16 b) { EACH(a.x[i] / b.x[i]); }
inline v16 fma(v16 a, v16 b, v16 c) { EACH(__builtin_fmaf(a.x[i], b.x[i], c.x[i])); }
inline v16 least(v16 a, v16 b) { EACH(a.x[i] < b.x[i] ? a.x[i] : b.x[i]); }
inline v16 most(v16 a, v16 b) { EACH(a.x[i] > b.x[i] ? a.x[i] : b.x[i]); }
inline v16 root(v16 a) { EACH(__builtin_sqrtf(a.x[i])); }
inline v16 magnitude(v16 a) { EACH(__builtin_fabsf(a.x[i])); }
inline v16 rounded(v16 a) { EACH(__builtin_rintf(a.x[i])); }
inline v16 pick(m16 m, v16 a, v16 b) { EACH(m.x[i] ? a.x[i] : b.x[i]); }
#undef EACH

#define EACH(expression) \
  m16 out; \
  for (int i = 0; i < 16; i++) out.x[i] = (expression); \
  return out

inline m16 less(v16 a, v16 b) { EACH(a.x[i] < b.x[i]); }
inline m16 at_least(v16 a, v16 b) { EACH(a.x[i] >= b.x[i]); }
inline m16 lanes(long from, long to) { EACH(from <= i && i < to); }
#undef EACH

inline float power_of_two(int n) {
  int bits = (n + 127) << 23;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
// Two factors, each a normal number, so that results below the normal range are rounded once.
inline v16 times_power(v16 a, v16 n) {
  for (int i = 0; i < 16; i++) {
    // A NaN has no integer value; `a` is then NaN as well.
    int whole = n.x[i] == n.x[i] ? int(n.x[i]) : 0, half = whole >> 1;
    a.x[i] = a.x[i] * power_of_two(half) * power_of_two(whole - half);
  }
  return a;
}
inline void split(v16 a, v16& mantissa, v16& exponent) {
  for (int i = 0; i < 16; i++) {
    unsigned bits;
    memcpy(&bits, &a.x[i], sizeof bits);
    exponent.x[i] = float(int(bits >> 23) - 127);
    bits = (bits & 0x7fffff) | 0x3f800000;
    memcpy(&mantissa.x[i], &bits, sizeof bits);
  }
}

inline float first(v16 a) { return a.x[0]; }
inline float sum(v16 a) {
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) a.x[i] += a.x[i + half];
  return a.x[0];
}
inline float largest(v16 a) {
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) a.x[i] = a.x[i] > a.x[i + half] ? a.x[i] : a.x[i + half];
  return a.x[0];
}
inline void transpose(v16 r[16]) {
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < i; j++) {
      float x = r[i].x[j];
      r[i].x[j] = r[j].x[i];
      r[j].x[i] = x;
    }
}

constexpr int TILE_ROWS = 4;
constexpr int panels_of(int) { return 1; }
constexpr int ATTENTION_ROWS = 4, ATTENTION_PANELS = 1;

}  // namespace BATON_ISA
}  // namespace baton

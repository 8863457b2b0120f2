// AdamW (Loshchilov and Hutter 2019, algorithm 2) and the sums of squares that its clipping needs.
#include "kernel.h"

namespace baton {
namespace BATON_ISA {

// Every gradient is cut into chunks; a chunk is summed in 16 double lanes, and the chunks of a gradient in order.
void square_sums(Call& c) {
  constexpr long CHUNK = 65536, MOST = long(SCRATCH_BYTES / sizeof(double));
  double *chunks = reinterpret_cast<double*>(c.pool->scratch(0)), *sums = static_cast<double*>(c.operand[c.operands - 1]);
  for (long i = 0; i < size(c, 0); i++) sums[i] = 0;
  for (int i = 0; i < c.operands - 1; i++) {
    const float* g = floats(c, i);
    long n = size(c, 1 + 2 * i), count = parts(n, CHUNK);
    if (count > MOST) {
      fail(c, "%ld chunks of a gradient do not fit into the scratch", count);
      return;
    }
    parallel(*c.pool, count, [&](long chunk, int) {
      double lane[16] = {};
      long j = chunk * CHUNK, end = smaller(n, j + CHUNK);
      for (; j + 16 <= end; j += 16)
        for (int l = 0; l < 16; l++) lane[l] += double(g[j + l]) * double(g[j + l]);
      for (int l = 0; j < end; j++, l++) lane[l] += double(g[j]) * double(g[j]);
      for (int half = 8; half; half /= 2)
        for (int l = 0; l < half; l++) lane[l] += lane[l + half];
      chunks[chunk] = lane[0];
    });
    double& sum = sums[size(c, 2 + 2 * i)];
    for (long k = 0; k < count; k++) sum += chunks[k];
  }
}

void norm(Call& c) {
  const double* sums = static_cast<const double*>(c.operand[0]);
  double sum = 0;
  for (long i = 0; i < size(c, 0); i++) sum += sums[i];
  *floats(c, 1) = float(__builtin_sqrt(sum));
}

void adamw(Call& c) {
  long n = size(c, 0);
  double beta1 = c.attribute[1], beta2 = c.attribute[2], decay = c.attribute[4];
  float eps = real(c, 3), clip = real(c, 5);
  const float *p = floats(c, 0), *g = floats(c, 1), *m = floats(c, 2), *v = floats(c, 3), *hyper = floats(c, 4);
  float norm = *floats(c, 5), *p_out = floats(c, 6), *m_out = floats(c, 7), *v_out = floats(c, 8);
  float* rounded = size(c, 6) == 1 ? floats(c, 9) : nullptr;
  if (!__builtin_isfinite(norm)) return;
  float lr = hyper[0], scale = 1;
  if (clip > 0 && norm + 1e-6f > clip) scale = clip / (norm + 1e-6f);
  v16 keep = all(float(1 - double(lr) * decay)), step = all(lr / hyper[1]);
  v16 unbias = all(1.f / __builtin_sqrtf(hyper[2])), e = all(eps), factor = all(scale);
  v16 b1 = all(float(1 - beta1)), b2 = all(float(beta2)), c2 = all(float(1 - beta2));
  split(*c.pool, n, 8192, [&](long begin, long end) {
    by_lanes(begin, end, [&](long i, long live) {
      v16 gi = load_live(g + i, live) * factor, mi = load_live(m + i, live), vi = load_live(v + i, live);
      mi = mi + b1 * (gi - mi);
      vi = b2 * vi + c2 * gi * gi;
      store_live(m_out + i, mi, live);
      store_live(v_out + i, vi, live);
      v16 pi = load_live(p + i, live) * keep;
      pi = pi - step * mi / (root(vi) * unbias + e);
      store_live(p_out + i, pi, live);
      if (rounded) store_live(rounded + i, pi, live);
    });
  });
}

}  // namespace BATON_ISA
}  // namespace baton

// Sums and copies over segments given by their ends, and generalised advantage estimation.
#include "kernel.h"

namespace baton {
namespace BATON_ISA {
namespace {

// f(segment, begin, end) for every segment.
template <class F>
void by_segment(Call& c, const int32_t* ends, long count, F f) {
  split(*c.pool, count, 64, [&](long from, long to) {
    for (long i = from; i < to; i++) f(i, i ? ends[i - 1] : 0, ends[i]);
  });
}

}  // namespace

void segment_sum(Call& c) {
  long n = size(c, 0), count = size(c, 1);
  const float* x = floats(c, 0);
  float* y = floats(c, 2);
  if (!check_ends(c, ints(c, 1), count, n)) return;
  by_segment(c, ints(c, 1), count, [&](long i, long begin, long end) {
    float s = 0;
    for (long j = begin; j < end; j++) s += x[j];
    y[i] = s;
  });
}

void segment_spread(Call& c) {
  long n = size(c, 0), count = size(c, 1);
  const float* y = floats(c, 0);
  float* x = floats(c, 2);
  if (!check_ends(c, ints(c, 1), count, n)) return;
  by_segment(c, ints(c, 1), count, [&](long i, long begin, long end) {
    for (long j = begin; j < end; j++) x[j] = y[i];
  });
}

void segment_last(Call& c) {
  long n = size(c, 0), count = size(c, 1);
  const float* x = floats(c, 0);
  float* y = floats(c, 2);
  if (!check_ends(c, ints(c, 1), count, n)) return;
  by_segment(c, ints(c, 1), count, [&](long i, long begin, long end) { y[i] = begin < end ? x[end - 1] : 0.f; });
}

void segment_at_end(Call& c) {
  long n = size(c, 0), count = size(c, 1);
  const float* y = floats(c, 0);
  float* x = floats(c, 2);
  if (!check_ends(c, ints(c, 1), count, n)) return;
  by_segment(c, ints(c, 1), count, [&](long i, long begin, long end) {
    for (long j = begin; j < end; j++) x[j] = j + 1 == end ? y[i] : 0.f;
  });
}

void segment_length(Call& c) {
  long count = size(c, 0);
  const int32_t* ends = ints(c, 0);
  float* y = floats(c, 1);
  if (!check_ends(c, ends, count, count ? ends[count - 1] : 0)) return;
  by_segment(c, ends, count, [&](long i, long begin, long end) { y[i] = float(end - begin); });
}

void total(Call& c) {
  const float* x = floats(c, 0);
  float s = size(c, 1) == 1 ? *floats(c, 1) : 0.f;
  for (long i = 0; i < size(c, 0); i++) s += x[i];
  *floats(c, c.operands - 1) = s;
}

// Schulman et al. 2016, eq. 16: A[t] = δ[t] + γλ A[t+1], δ[t] = r[t] + γ V[t+1] − V[t]; V after the last is `finals`.
void gae(Call& c) {
  long n = size(c, 0), count = size(c, 1);
  double gamma = c.attribute[2], lambda = c.attribute[3];
  const float *rewards = floats(c, 0), *values = floats(c, 1), *finals = floats(c, 2);
  float* advantages = floats(c, 4);
  if (!check_ends(c, ints(c, 3), count, n)) return;
  by_segment(c, ints(c, 3), count, [&](long i, long begin, long end) {
    double advantage = 0, next = finals[i];
    for (long t = end - 1; t >= begin; t--) {
      advantage = rewards[t] + gamma * next - values[t] + gamma * lambda * advantage;
      next = values[t];
      advantages[t] = float(advantage);
    }
  });
}

}  // namespace BATON_ISA
}  // namespace baton

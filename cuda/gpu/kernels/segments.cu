// Sums and copies over segments given by their ends, and generalised advantage estimation.
#include "kernel.cuh"

namespace baton {
namespace {

constexpr unsigned THREADS = 256;

// A chain over x[0, n) that starts at s: the block brings elements in, its first thread adds them in order.
__device__ float chain(const float* x, long n, float s, float* stage) {
  for (long base = 0; base < n; base += THREADS) {
    __syncthreads();
    if (base + threadIdx.x < n) stage[threadIdx.x] = x[base + threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0)
      for (long i = 0; i < smaller(THREADS, n - base); i++) s = s + stage[i];
  }
  return s;
}

struct Range {
  long begin, end;
  __device__ Range(const int* ends, long i) : begin(i ? ends[i - 1] : 0), end(ends[i]) {}
};

__global__ void segment_sum_kernel(Reporter r, const float* x, const int* ends, float* y) {
  __shared__ float stage[THREADS];
  if (r.faulty()) return;
  Range z(ends, blockIdx.x);
  float s = chain(x + z.begin, z.end - z.begin, 0.f, stage);
  if (threadIdx.x == 0) y[blockIdx.x] = s;
}
__global__ void segment_spread_kernel(Reporter r, const float* y, const int* ends, float* x, bool at_end) {
  if (r.faulty()) return;
  Range z(ends, blockIdx.x);
  for (long j = z.begin + threadIdx.x; j < z.end; j += THREADS) x[j] = !at_end || j + 1 == z.end ? y[blockIdx.x] : 0.f;
}
__global__ void segment_last_kernel(Reporter r, const float* x, const int* ends, float* y, long count) {
  if (r.faulty()) return;
  for (long i = first_index(); i < count; i += index_step()) {
    Range z(ends, i);
    y[i] = z.begin < z.end ? x[z.end - 1] : 0.f;
  }
}
__global__ void segment_length_kernel(const int* ends, float* y, long count) {
  for (long i = first_index(); i < count; i += index_step()) y[i] = float(Range(ends, i).end - Range(ends, i).begin);
}
__global__ void total_kernel(const float* x, const float* prior, float* y, long n) {
  __shared__ float stage[THREADS];
  float s = chain(x, n, prior ? *prior : 0.f, stage);
  if (threadIdx.x == 0) *y = s;
}

// Schulman et al. 2016, eq. 16, from the end of each sequence.
__global__ void gae_kernel(Reporter r, const float* rewards, const float* values, const float* finals, const int* ends,
                           float* advantages, long count, double gamma, double lambda) {
  if (r.faulty()) return;
  for (long i = first_index(); i < count; i += index_step()) {
    Range z(ends, i);
    double advantage = 0, next = finals[i];
    for (long t = z.end - 1; t >= z.begin; t--) {
      advantage = rewards[t] + gamma * next - values[t] + gamma * lambda * advantage;
      next = values[t];
      advantages[t] = float(advantage);
    }
  }
}

}  // namespace

void segment_sum(Call& c) {
  long n = size(c, 0), count = size(c, 1);
  check_ends(c, ints(c, 1), count, n);
  launch(c, segment_sum_kernel, dim3(unsigned(count)), THREADS, 0, reporter(c), floats(c, 0), ints(c, 1), floats(c, 2));
}

void segment_spread(Call& c) {
  long n = size(c, 0), count = size(c, 1);
  check_ends(c, ints(c, 1), count, n);
  launch(c, segment_spread_kernel, dim3(unsigned(count)), THREADS, 0, reporter(c), floats(c, 0), ints(c, 1), floats(c, 2), false);
}

void segment_at_end(Call& c) {
  long n = size(c, 0), count = size(c, 1);
  check_ends(c, ints(c, 1), count, n);
  launch(c, segment_spread_kernel, dim3(unsigned(count)), THREADS, 0, reporter(c), floats(c, 0), ints(c, 1), floats(c, 2), true);
}

void segment_last(Call& c) {
  long n = size(c, 0), count = size(c, 1);
  check_ends(c, ints(c, 1), count, n);
  launch(c, segment_last_kernel, dim3(blocks_of(count, THREADS)), THREADS, 0, reporter(c), floats(c, 0), ints(c, 1), floats(c, 2),
         count);
}

void segment_length(Call& c) {
  long count = size(c, 0);
  launch(c, segment_length_kernel, dim3(blocks_of(count, THREADS)), THREADS, 0, ints(c, 0), floats(c, 1), count);
}

void total(Call& c) {
  const float* prior = size(c, 1) == 1 ? floats(c, 1) : nullptr;
  launch(c, total_kernel, dim3(1), THREADS, 0, floats(c, 0), prior, floats(c, c.operands - 1), size(c, 0));
}

void gae(Call& c) {
  long n = size(c, 0), count = size(c, 1);
  check_ends(c, ints(c, 3), count, n);
  launch(c, gae_kernel, dim3(blocks_of(count, 32)), 32, 0, reporter(c), floats(c, 0), floats(c, 1), floats(c, 2), ints(c, 3),
         floats(c, 4), count, c.attribute[2], c.attribute[3]);
}

}  // namespace baton

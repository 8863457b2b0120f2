// Copies between segments: many small runs go into one kernel, large ones to the copy engines.
#include "kernels/kernel.cuh"
#include "runtime.h"

namespace baton {
namespace {

constexpr int BATCH = 48;
constexpr uint64_t LARGE = 4 << 20;

struct Run {
  const float* from;
  float* to;
  long width, count, from_stride, to_stride;  // floats
};
struct Runs {
  Run run[BATCH];
};

__global__ void move_kernel(Runs runs, float weight) {
  const Run& m = runs.run[blockIdx.y];
  float rest = 1 - weight;
  for (long i = first_index(); i < m.width * m.count; i += index_step()) {
    long row = i / m.width, column = i % m.width;
    float* to = m.to + row * m.to_stride + column;
    float from = m.from[row * m.from_stride + column];
    // A copy keeps every bit, whatever it means.
    if (weight == 1) *reinterpret_cast<int*>(to) = *reinterpret_cast<const int*>(m.from + row * m.from_stride + column);
    else *to = weight * from + rest * *to;
  }
}

}  // namespace

void copy_memory(Call& c, const std::vector<Move>& moves, double weight) {
  Runs runs;
  int count = 0;
  long most = 0;
  auto flush = [&] {
    if (count) launch(c, move_kernel, dim3(blocks_of(most, 256), unsigned(count)), 256, 0, runs, float(weight));
    count = 0, most = 0;
  };
  for (const Move& m : moves) {
    bool whole = m.count == 1 || (m.from_stride == m.bytes && m.to_stride == m.bytes);
    bool far = !c.device->reaches(gpu_of(m.from)) || !c.device->reaches(gpu_of(m.to));
    if (weight == 1 && whole && (far || m.bytes * m.count >= LARGE)) {
      succeeded(c, cudaMemcpyAsync(m.to, m.from, m.bytes * m.count, cudaMemcpyDefault, c.stream));
      continue;
    }
    if (far && weight == 1 && m.from_stride >= m.bytes) {
      succeeded(c, cudaMemcpy2DAsync(m.to, m.to_stride, m.from, m.from_stride, m.bytes, m.count, cudaMemcpyDefault, c.stream));
      continue;
    }
    if (far) {
      fail(c, "GPU %d cannot read or write the memory of GPU %d directly, which a weighted copy needs", c.device->gpu(),
           gpu_of(m.from));
      return;
    }
    long width = long(m.bytes / 4), n = whole ? width * long(m.count) : width;
    runs.run[count++] = {reinterpret_cast<const float*>(m.from), reinterpret_cast<float*>(m.to), n, whole ? 1 : long(m.count),
                         long(m.from_stride / 4), long(m.to_stride / 4)};
    most = larger(most, long(m.bytes / 4 * m.count));
    if (count == BATCH) flush();
  }
  flush();
}

}  // namespace baton

// Copies between segments: many small runs go into one kernel, large ones to the copy engines.
#include "kernels/kernel.cuh"
#include "runtime.h"

namespace baton {
namespace {

constexpr int BATCH = 48;
constexpr uint64_t LARGE = 4 << 20;

struct Run {
  const char* from;
  char* to;
  long width, count, from_stride, to_stride;  // elements
};
struct Runs {
  Run run[BATCH];
};

// Copies elements of the width of T, whatever they mean.
template <class T>
__global__ void move_kernel(Runs runs) {
  const Run& m = runs.run[blockIdx.y];
  for (long i = first_index(); i < m.width * m.count; i += index_step()) {
    long row = i / m.width, column = i % m.width;
    reinterpret_cast<T*>(m.to)[row * m.to_stride + column] = reinterpret_cast<const T*>(m.from)[row * m.from_stride + column];
  }
}
// to = weight · from + (1 − weight) · to, over fp32 numbers; `from` may be bf16.
template <class T>
__global__ void blend_kernel(Runs runs, float weight) {
  const Run& m = runs.run[blockIdx.y];
  float rest = 1 - weight;
  for (long i = first_index(); i < m.width * m.count; i += index_step()) {
    long row = i / m.width, column = i % m.width;
    float* to = reinterpret_cast<float*>(m.to) + row * m.to_stride + column;
    float from = number(reinterpret_cast<const T*>(m.from)[row * m.from_stride + column]);
    *to = weight == 1 ? from : weight * from + rest * *to;
  }
}

// The widest elements that all of a move's places and sizes are multiples of.
long width_of(const Move& m) {
  uint64_t all = m.bytes | reinterpret_cast<uintptr_t>(m.from) | reinterpret_cast<uintptr_t>(m.to);
  if (m.count > 1) all |= m.from_stride | m.to_stride;
  return all % 16 == 0 ? 16 : all % 4 == 0 ? 4 : 2;
}

}  // namespace

void copy_memory(Call& c, const std::vector<Move>& moves, double weight) {
  Runs runs;
  int count = 0;
  long most = 0;
  long width = 0;  // of the elements that are batched: 0 for blends, −1 for blends of bf16
  auto flush = [&] {
    dim3 blocks(blocks_of(most, 256), unsigned(count));
    if (count && width == -1) launch(c, blend_kernel<bf16>, blocks, 256, 0, runs, float(weight));
    else if (count && width == 0) launch(c, blend_kernel<float>, blocks, 256, 0, runs, float(weight));
    else if (count && width == 16) launch(c, move_kernel<uint4>, blocks, 256, 0, runs);
    else if (count && width == 4) launch(c, move_kernel<uint32_t>, blocks, 256, 0, runs);
    else if (count) launch(c, move_kernel<uint16_t>, blocks, 256, 0, runs);
    count = 0, most = 0;
  };
  for (const Move& m : moves) {
    bool whole = m.count == 1 || (m.from_stride * (m.widen ? 2 : 1) == m.bytes && m.to_stride == m.bytes);
    bool far = !c.device->reaches(gpu_of(m.from)) || !c.device->reaches(gpu_of(m.to));
    bool plain = weight == 1 && !m.widen;
    if (plain && whole && (far || m.bytes * m.count >= LARGE)) {
      succeeded(c, cudaMemcpyAsync(m.to, m.from, m.bytes * m.count, cudaMemcpyDefault, c.stream));
      continue;
    }
    if (far && plain && m.from_stride >= m.bytes) {
      succeeded(c, cudaMemcpy2DAsync(m.to, m.to_stride, m.from, m.from_stride, m.bytes, m.count, cudaMemcpyDefault, c.stream));
      continue;
    }
    if (far) {
      fail(c, "GPU %d cannot read or write the memory of GPU %d directly, which a weighted copy needs", c.device->gpu(),
           gpu_of(m.from));
      return;
    }
    long each = plain ? width_of(m) : 4, n = long(m.bytes) / each, kind = plain ? each : m.widen ? -1 : 0;
    if (kind != width) flush(), width = kind;
    runs.run[count++] = {m.from, m.to, whole ? n * long(m.count) : n, whole ? 1 : long(m.count),
                         long(m.from_stride) * (m.widen ? 2 : 1) / each, long(m.to_stride) / each};
    most = larger(most, n * long(m.count));
    if (count == BATCH) flush();
  }
  flush();
}

}  // namespace baton

// AdamW (Loshchilov and Hutter 2019, algorithm 2) and the sums of squares that its clipping needs.
#include "packs.cuh"

namespace baton {
namespace {

constexpr long CHUNK = 65536;  // as on the CPU: summed in sixteen double lanes, chunks in order

template <class G>
__global__ void chunk_squares_kernel(const G* g, long n, double* chunks, long count) {
  long chunk = long(blockIdx.x) * 8 + threadIdx.x / 16;
  int lane = int(threadIdx.x % 16);
  double s = 0;
  if (chunk < count)
#pragma unroll 8
    for (long j = chunk * CHUNK + lane; j < smaller(n, (chunk + 1) * CHUNK); j += 16) s = s + double(number(g[j])) * double(number(g[j]));
  s = fold16(s);
  if (chunk < count && lane == 0) chunks[chunk] = s;
}

constexpr unsigned STAGE = 256;

// s + x[0] + x[1] + …, in order: a block brings the numbers in, its first thread adds them and has the sum.
__device__ double in_order(const double* x, long n, double s) {
  __shared__ double stage[STAGE];
  for (long base = 0; base < n; base += STAGE) {
    __syncthreads();
    if (base + threadIdx.x < n) stage[threadIdx.x] = x[base + threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0)
      for (long i = 0; i < smaller(STAGE, n - base); i++) s = s + stage[i];
  }
  return s;
}

__global__ void add_chunks_kernel(const double* chunks, long count, double* sum) {
  double s = in_order(chunks, count, *sum);
  if (threadIdx.x == 0) *sum = s;
}

__global__ void norm_kernel(const double* sums, float* norm, long n) {
  double s = in_order(sums, n, 0);
  if (threadIdx.x == 0) *norm = float(sqrt(s));
}

struct Adam {
  double decay;
  float beta1, beta2, rest2, eps, clip;  // 1 − β₁, β₂, 1 − β₂
};

template <class G, int PER>
__global__ void adamw_kernel(const float* p, const G* g, const float* m, const float* v, const float* hyper, const float* norm,
                             float* p_out, float* m_out, float* v_out, bf16* rounded, long n, Adam a) {
  float length = *norm;
  if (!(fabsf(length) < INF)) return;
  float lr = hyper[0], scale = 1;
  if (a.clip > 0 && length + 1e-6f > a.clip) scale = a.clip / (length + 1e-6f);
  float keep = float(1 - double(lr) * a.decay), step = lr / hyper[1], unbias = 1.f / sqrtf(hyper[2]);
  for (long i = first_index() * PER; i < n; i += index_step() * PER) {
    float gi[PER], mi[PER], vi[PER], pi[PER];
    read<PER>(g + i, gi), read<PER>(m + i, mi), read<PER>(v + i, vi), read<PER>(p + i, pi);
#pragma unroll
    for (int e = 0; e < PER; e++) {
      gi[e] = gi[e] * scale;
      mi[e] = mi[e] + a.beta1 * (gi[e] - mi[e]);
      vi[e] = a.beta2 * vi[e] + a.rest2 * gi[e] * gi[e];
      pi[e] = pi[e] * keep - step * mi[e] / (sqrtf(vi[e]) * unbias + a.eps);
    }
    write<PER>(m_out + i, mi), write<PER>(v_out + i, vi), write<PER>(p_out + i, pi);
    if (rounded) write<PER>(rounded + i, pi);
  }
}

}  // namespace

void square_sums(Call& c) {
  double *chunks = reinterpret_cast<double*>(c.scratch), *sums = static_cast<double*>(c.operand[c.operands - 1]);
  if (size(c, 0)) succeeded(c, cudaMemsetAsync(sums, 0, size_t(size(c, 0)) * sizeof(double), c.stream));
  for (int i = 0; i < c.operands - 1; i++) {
    long n = size(c, 1 + 2 * i), count = parts(n, CHUNK);
    if (uint64_t(count) * sizeof(double) > SCRATCH_BYTES) {
      fail(c, "%ld chunks of a gradient do not fit into the scratch", count);
      return;
    }
    by_type(c, i, [&](auto type) {
      typedef decltype(type) G;
      launch(c, chunk_squares_kernel<G>, dim3(unsigned(parts(count, 8))), 128, 0, at<G>(c, i), n, chunks, count);
    });
    launch(c, add_chunks_kernel, dim3(1), STAGE, 0, chunks, count, sums + size(c, 2 + 2 * i));
  }
}

void norm(Call& c) {
  launch(c, norm_kernel, dim3(1), STAGE, 0, static_cast<const double*>(c.operand[0]), floats(c, 1), size(c, 0));
}

void adamw(Call& c) {
  long n = size(c, 0);
  Adam a{c.attribute[4], float(1 - c.attribute[1]), float(c.attribute[2]), float(1 - c.attribute[2]), real(c, 3), real(c, 5)};
  bf16* rounded = size(c, 6) == 1 ? at<bf16>(c, 9) : nullptr;
  by_type(c, 1, [&](auto type) {
    typedef decltype(type) G;
    auto run = [&](auto kernel, long each) {
      launch(c, kernel, dim3(blocks_of(parts(n, each), 256)), 256, 0, floats(c, 0), at<G>(c, 1), floats(c, 2), floats(c, 3), floats(c, 4),
             floats(c, 5), floats(c, 6), floats(c, 7), floats(c, 8), rounded, n, a);
    };
    // Four numbers are sixteen bytes of what is stored in fp32, which is most of it.
    bool wide = n % 4 == 0 && aligned(floats(c, 0), at<G>(c, 1), floats(c, 2), floats(c, 3), floats(c, 6), floats(c, 7), floats(c, 8), rounded);
    if (wide) run(adamw_kernel<G, 4>, 4);
    else run(adamw_kernel<G, 1>, 1);
  });
}

}  // namespace baton

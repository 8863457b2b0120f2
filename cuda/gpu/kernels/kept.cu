// log p(target) and entropy over a few tokens of the vocabulary that every row names: see cuda/cpu/kernels/kept.cpp.
#include "softmax.cuh"

namespace baton {
namespace {

constexpr unsigned THREADS = 256;
constexpr long ROWS_OF_W = 128;  // whose gradient a block makes

// Rows of a weight that a shard has: element k of one is at p[step·k].
struct Shard {
  long h, first, v;
  bool panels;
  long step = panels ? 16 : 1;
  __device__ bool has(long id) const { return id >= first && id < first + v; }
  __device__ long offset(long id) const { return WeightRow(id - first, h, panels).start; }
};

// As products on tensor cores round fp32 operands.
__device__ float rounded(float x, bool bf16_math) { return bf16_math ? number(stored<bf16>(x)) : x; }

// Ids of a row; what is behind the first negative one does not count. Called by a whole block.
__device__ long count_of(const int* ids, long width, int* shared) {
  __syncthreads();
  if (threadIdx.x == 0) *shared = int(width);
  __syncthreads();
  for (long j = threadIdx.x; j < width; j += blockDim.x)
    if (ids[j] < 0) atomicMin(shared, int(j));
  __syncthreads();
  return *shared;
}

__global__ void check_kept_kernel(Reporter r, const int* kept, long n, long total) {
  for (long i = first_index(); i < n; i += index_step())
    if (kept[i] >= total) r.inside(KEPT, i, kept[i], total);
}

// A block takes a row, a thread an id: a chain over k, with the bits of `matmul`.
__global__ void kept_logits_kernel(Reporter r, Numbers x, Numbers w, const int* kept, float* z, Shard shard, long width,
                                   bool bf16_math) {
  __shared__ int shared;
  if (r.faulty()) return;
  long i = blockIdx.x, n = count_of(kept + i * width, width, &shared);
  for (long j = threadIdx.x; j < width; j += THREADS) {
    int id = j < n ? kept[i * width + j] : -1;
    float sum = 0;
    if (id >= 0 && shard.has(id)) {
      long at = shard.offset(id);
      for (long k = 0; k < shard.h; k++)
        sum = fmaf(rounded(x[i * shard.h + k], bf16_math), rounded(w[at + shard.step * k], bf16_math), sum);
    }
    z[i * width + j] = sum;
  }
}

// A block takes a row, a thread columns: a chain over the ids.
__global__ void kept_dx_kernel(Reporter r, const float* dz, Numbers w, const int* kept, OutNumbers dx, Shard shard, long width) {
  __shared__ int shared;
  if (r.faulty()) return;
  long i = blockIdx.x, n = count_of(kept + i * width, width, &shared);
  for (long k = threadIdx.x; k < shard.h; k += THREADS) {
    float sum = 0;
    for (long j = 0; j < n; j++) {
      int id = kept[i * width + j];
      if (shard.has(id)) sum = fmaf(dz[i * width + j], w[shard.offset(id) + shard.step * k], sum);
    }
    dx.set(i * shard.h + k, sum);
  }
}

// A block takes some rows of w and looks for them among all ids, in order; a thread takes columns: a chain over the rows of x.
// `dz` is 0 behind the end of a row's list. A gradient in bf16 is rounded once, at the end of its chain, which is in registers
// then: such a block takes one row, and some of its columns.
template <class G>
__global__ void kept_dw_kernel(Reporter r, const float* dz, Numbers x, const int* kept, G* dw, Shard shard, long width, long all) {
  constexpr bool HALF = sizeof(G) == 2;
  __shared__ unsigned votes[THREADS / 32];
  if (r.faulty()) return;
  long rows = HALF ? 1 : ROWS_OF_W, low = shard.first + blockIdx.x * rows, high = smaller(low + rows, shard.first + shard.v);
  long column = long(blockIdx.y) * THREADS + threadIdx.x, own = shard.offset(low) + shard.step * column;
  float sum = HALF && column < shard.h ? number(dw[own]) : 0.f;
  for (long base = 0; base < all; base += THREADS) {
    long at = base + threadIdx.x;
    bool mine = at < all && kept[at] >= low && kept[at] < high;
    unsigned vote = __ballot_sync(ALL, mine);
    __syncthreads();
    if (threadIdx.x % 32 == 0) votes[threadIdx.x / 32] = vote;
    __syncthreads();
    for (unsigned warp = 0; warp < THREADS / 32; warp++)
      for (unsigned bits = votes[warp]; bits; bits &= bits - 1) {
        long e = base + 32 * warp + __ffs(int(bits)) - 1, row = e / width * shard.h;
        if constexpr (HALF) {
          if (column < shard.h) sum = fmaf(dz[e], x[row + column], sum);
        } else {
          G* out = dw + shard.offset(kept[e]);
          for (long k = threadIdx.x; k < shard.h; k += THREADS) out[shard.step * k] = fmaf(dz[e], x[row + k], out[shard.step * k]);
        }
      }
  }
  if constexpr (HALF)
    if (column < shard.h) dw[own] = stored<G>(sum);
}

struct Outputs {
  float *logprob, *lse, *entropy;
};

__global__ void __launch_bounds__(THREADS) kept_logprob_kernel(Reporter r, const float* z, const int* kept, const int* targets,
                                                               const float* inverse, Outputs out, long width) {
  __shared__ float s[TILE], scaled[TILE], share[32], picked;
  __shared__ int shared;
  __shared__ int found;
  long i = blockIdx.x, n = count_of(kept + i * width, width, &shared);
  if (threadIdx.x == 0) found = 0;
  __syncthreads();
  for (long j = threadIdx.x; j < n; j += THREADS) {
    s[j] = z[i * width + j];
    if (kept[i * width + j] == targets[i]) picked = s[j] * *inverse, found = 1;
  }
  __syncthreads();
  if (!found) {
    if (threadIdx.x == 0) r.report(NOT_KEPT, 0, i, targets[i], n);
    return;
  }
  RowSoftmax state;
  absorb(state, s, out.entropy ? scaled : nullptr, 0, n, *inverse, share);
  __syncthreads();
  if (threadIdx.x >= 32) return;
  float total = lanes_total(state.sum), weighted = lanes_total(state.weighted);
  if (threadIdx.x != 0) return;
  float lse = state.top + log_of(total);
  out.lse[i] = lse;
  out.logprob[i] = picked - lse;
  if (out.entropy) out.entropy[i] = lse - weighted / total;
}

struct Gradient {
  const float *dlogprob, *lse, *dentropy, *entropy, *inverse;
};

// As the head's: with ℓ = s − lse and p = eˡ, ds = dlogprob (δ − p) − dentropy · p (ℓ + H).
__global__ void kept_logprob_grad_kernel(const float* z, const int* kept, const int* targets, Gradient g, float* dz, long width) {
  __shared__ int shared;
  long i = blockIdx.x, n = count_of(kept + i * width, width, &shared);
  float inverse = *g.inverse, lse = g.lse[i], dl = g.dlogprob[i], de = g.dentropy ? g.dentropy[i] : 0.f;
  float entropy = g.dentropy ? g.entropy[i] : 0.f;
  for (long j = threadIdx.x; j < width; j += THREADS) {
    long e = i * width + j;
    float l = z[e] * inverse - lse, mass = exp_of(l) * fmaf(de, l + entropy, dl);
    dz[e] = j >= n ? 0.f : kept[e] == targets[i] ? (dl - mass) * inverse : 0.f - mass * inverse;
  }
}

bool fits(Call& c, long width) {
  return width <= TILE || fail(c, "%ld tokens are kept of each row and at most %ld can be", width, TILE);
}

void check_kept(Call& c, const int* kept, long n, long total) {
  launch(c, check_kept_kernel, dim3(blocks_of(n, THREADS)), THREADS, 0, reporter(c), kept, n, total);
}

}  // namespace

void kept_logits(Call& c) {
  long rows = size(c, 0), width = size(c, 3);
  if (!fits(c, width)) return;
  check_kept(c, ints(c, 2), rows * width, size(c, 5));
  launch(c, kept_logits_kernel, dim3(unsigned(rows)), THREADS, 0, reporter(c), numbers(c, 0), numbers(c, 1), ints(c, 2), floats(c, 3),
         Shard{size(c, 1), size(c, 4), size(c, 2), size(c, 6) == 1}, width, on_tensor_cores(is_half(c, 0) || is_half(c, 1)));
}

void kept_logits_dx(Call& c) {
  long rows = size(c, 0), width = size(c, 3);
  if (!fits(c, width)) return;
  check_kept(c, ints(c, 2), rows * width, size(c, 5));
  launch(c, kept_dx_kernel, dim3(unsigned(rows)), THREADS, 0, reporter(c), floats(c, 0), numbers(c, 1), ints(c, 2),
         out_numbers(c, 3), Shard{size(c, 1), size(c, 4), size(c, 2), size(c, 6) == 1}, width);
}

void kept_logits_dw(Call& c) {
  long rows = size(c, 0), h = size(c, 1), v = size(c, 2), width = size(c, 3);
  void* dw = c.operand[c.operands - 1];
  const void* prior = size(c, 4) == 1 ? c.operand[3] : nullptr;
  size_t bytes = size_t(weight_elements(v, h, size(c, 7) == 1)) * bytes_of(c.type[c.operands - 1]);
  if (!fits(c, width)) return;
  if (!prior) succeeded(c, cudaMemsetAsync(dw, 0, bytes, c.stream));
  else if (prior != dw) succeeded(c, cudaMemcpyAsync(dw, prior, bytes, cudaMemcpyDefault, c.stream));
  check_kept(c, ints(c, 2), rows * width, size(c, 6));
  by_type(c, c.operands - 1, [&](auto gradient) {
    typedef decltype(gradient) G;
    bool half = sizeof(G) == 2;
    dim3 blocks(unsigned(half ? v : parts(v, ROWS_OF_W)), unsigned(half ? parts(h, THREADS) : 1));
    launch(c, kept_dw_kernel<G>, blocks, THREADS, 0, reporter(c), floats(c, 0), numbers(c, 1), ints(c, 2), static_cast<G*>(dw),
           Shard{h, size(c, 5), v, size(c, 7) == 1}, width, rows * width);
  });
}

void kept_logprob(Call& c) {
  long rows = size(c, 0), width = size(c, 1);
  bool entropy = size(c, 2) == 1;
  if (!fits(c, width)) return;
  launch(c, kept_logprob_kernel, dim3(unsigned(rows)), THREADS, 0, reporter(c), floats(c, 0), ints(c, 1), ints(c, 2), floats(c, 3),
         Outputs{floats(c, 4), floats(c, 5), entropy ? floats(c, 6) : nullptr}, width);
}

void kept_logprob_grad(Call& c) {
  long rows = size(c, 0), width = size(c, 1);
  bool entropy = size(c, 2) == 1;
  if (!fits(c, width)) return;
  Gradient g{floats(c, 0), floats(c, 5), entropy ? floats(c, 6) : nullptr, entropy ? floats(c, 7) : nullptr, floats(c, 4)};
  launch(c, kept_logprob_grad_kernel, dim3(unsigned(rows)), THREADS, 0, floats(c, 1), ints(c, 2), ints(c, 3), g,
         floats(c, c.operands - 1), width);
}

}  // namespace baton

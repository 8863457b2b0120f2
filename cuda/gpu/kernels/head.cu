// log p(target) and entropy of a vocabulary head, in pieces of logits that fit into the scratch.
// With z = x·wᵀ and s = z / T: logprob = s[target] − lse, entropy H = lse − Σ p s. Where a plan has memory for all logits, they are made
// there instead of in the scratch, and the backward pass reads them.
#include "head.cuh"
#include "softmax.cuh"

namespace baton {
namespace {

constexpr unsigned THREADS = 256;
constexpr long STATE = 34;  // floats of a row: top, 16 sums, 16 weighted sums, the target's score
#ifdef BATON_EMULATION
// Small enough for tests to need several pieces.
constexpr long WIDTH = TILE, FLOATS = 256 * (STATE + 64 + WIDTH), ROWS = 256;
#else
constexpr long WIDTH = 4 * TILE, FLOATS = long(SCRATCH_BYTES) / 4, ROWS = 4096;
#endif
static_assert(FLOATS * 4 <= long(SCRATCH_BYTES), "the pieces fit into the scratch");

// How rows and vocabulary are cut, so that what is in the scratch fits: of every row its state, `sums` numbers, and as many logits as there
// is room for then, at least WIDTH. Many rows at a time, since all of the weight and of its gradient are read for each piece of them; few
// rows are one piece with the whole vocabulary.
struct Cut {
  long rows, vocabulary, sums, most;
  Cut(long rows, long vocabulary, long sums)
      : rows(rows), vocabulary(vocabulary), sums(sums), most(smaller(ROWS, FLOATS / (STATE + sums + WIDTH))) {
    if (most > 16) most = most / 16 * 16;
  }
  long count(long r0) const { return smaller(most, rows - r0); }
  // Numbers from one row of logits to the next: whole tiles.
  long width(long count) const { return smaller(parts(vocabulary, TILE), (FLOATS / count - STATE - sums) / TILE) * TILE; }
};

__global__ void __launch_bounds__(THREADS) absorb_kernel(Reporter r, const float* logits, long ld, float* states, const int* targets,
                                                         const float* inverse, long v0, long columns, long first, long total,
                                                         bool entropy, long row0) {
  __shared__ float s[TILE], scaled[TILE], share[32];
  long i = blockIdx.x;
  float *state = states + i * STATE, scale = *inverse;
  const float* row = logits + i * ld;
  RowSoftmax z;
  if (v0 > 0) {
    z.top = state[0];
    if (threadIdx.x < 16) z.sum = state[1 + threadIdx.x], z.weighted = state[17 + threadIdx.x];
  } else if (threadIdx.x == 0) {
    state[33] = 0;
    r.inside(TARGET, row0 + i, targets[i], total);
  }
  if (threadIdx.x == 0) {
    long target = targets[i] - first - v0;
    if (target >= 0 && target < columns) state[33] = row[target] * scale;
  }
  for (long begin = 0; begin < columns; begin += TILE) {
    long n = smaller(TILE, columns - begin);
    __syncthreads();
    for (long j = threadIdx.x; j < n; j += THREADS) s[j] = row[begin + j];
    absorb(z, s, entropy ? scaled : nullptr, 0, n, scale, share);
  }
  __syncthreads();
  if (threadIdx.x == 0) state[0] = z.top;
  if (threadIdx.x < 16) state[1 + threadIdx.x] = z.sum, state[17 + threadIdx.x] = z.weighted;
}

// A running softmax, in any order: largest score, Σ e and Σ e·s of what a thread has seen.
struct Seen {
  float top = -INF, sum = 0, weighted = 0;
  __device__ void shrink(float peak) {
    float by = top == peak ? 1.f : exp_of(top - peak);
    sum = sum * by, weighted = weighted * by, top = peak;
  }
  __device__ void add(Seen other) {
    float peak = most(top, other.top);
    shrink(peak), other.shrink(peak);
    sum = sum + other.sum, weighted = weighted + other.weighted;
  }
};

// The same where products are on tensor cores: each thread keeps a softmax of its own over scores that it reads four at a time.
__global__ void __launch_bounds__(THREADS) absorb_any_kernel(Reporter r, const float* logits, long ld, float* states,
                                                             const int* targets, const float* inverse, long v0, long columns,
                                                             long first, long total, bool entropy, long row0) {
  __shared__ Seen share[THREADS / 32];
  long i = blockIdx.x;
  float *state = states + i * STATE, scale = *inverse;
  const float* row = logits + i * ld;
  Seen z;
  for (long j = 4 * threadIdx.x; j < columns; j += 4 * THREADS) {
    float4 v = *reinterpret_cast<const float4*>(row + j);
    float s[4] = {v.x * scale, v.y * scale, v.z * scale, v.w * scale}, peak = z.top;
#pragma unroll
    for (int e = 0; e < 4; e++) {
      if (j + e >= columns) s[e] = -INF;
      peak = most(s[e], peak);
    }
    if (peak == -INF) continue;
    z.shrink(peak);
#pragma unroll
    for (int e = 0; e < 4; e++) {
      float mass = exp_of(s[e] - peak);
      z.sum = z.sum + mass;
      if (entropy && mass > 0) z.weighted = fmaf(mass, s[e], z.weighted);
    }
  }
  for (int half = 16; half; half /= 2)
    z.add({__shfl_xor_sync(ALL, z.top, half), __shfl_xor_sync(ALL, z.sum, half), __shfl_xor_sync(ALL, z.weighted, half)});
  if (threadIdx.x % 32 == 0) share[threadIdx.x / 32] = z;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (unsigned w = 1; w < THREADS / 32; w++) z.add(share[w]);
  long target = targets[i] - first - v0;
  if (v0 > 0) {
    z.add({state[0], state[1], state[17]});
  } else {
    for (int e = 0; e < STATE; e++) state[e] = 0;
    r.inside(TARGET, row0 + i, targets[i], total);
  }
  state[0] = z.top, state[1] = z.sum, state[17] = z.weighted;
  if (target >= 0 && target < columns) state[33] = row[target] * scale;
}

// A half-warp finishes a row.
__global__ void finish_kernel(const float* states, HeadOutputs out, long rows, bool entropy) {
  long i = long(blockIdx.x) * 8 + threadIdx.x / 16;
  int lane = int(threadIdx.x % 16);
  bool live = i < rows;
  const float* state = states + i * STATE;
  float total = fold16(live ? state[1 + lane] : 0.f), weighted = fold16(live ? state[17 + lane] : 0.f);
  if (!live || lane != 0) return;
  if (out.work) {
    out.logprob[i] = state[33];
    out.work[3 * i] = state[0], out.work[3 * i + 1] = total, out.work[3 * i + 2] = entropy ? weighted : 0.f;
    return;
  }
  float lse = state[0] + log_of(total);
  out.lse[i] = lse;
  out.logprob[i] = state[33] - lse;
  if (entropy) out.entropy[i] = lse - weighted / total;
}

struct HeadGradient {
  const float *dlogprob, *lse, *dentropy, *entropy, *inverse;
  const int* targets;
};

// The gradient of a raw logit: with ℓ = s − lse and p = eˡ, ds = dlogprob (δ − p) − dentropy · p (ℓ + H).
struct RowGradient {
  float inverse, lse, dl, de, entropy;
  long target;
  __device__ RowGradient(const HeadGradient& g, long i, long before)
      : inverse(*g.inverse), lse(g.lse[i]), dl(g.dlogprob[i]), de(g.dentropy ? g.dentropy[i] : 0.f),
        entropy(g.dentropy ? g.entropy[i] : 0.f), target(g.targets[i] - before) {}
  __device__ float of(float s, long j) const {
    float l = s * inverse - lse, mass = exp_of(l) * fmaf(de, l + entropy, dl);
    return j == target ? (dl - mass) * inverse : 0.f - mass * inverse;
  }
};

// Gradients of raw logits, which may lie in their place.
__global__ void differentiate_kernel(Reporter r, const float* raw, long raw_ld, float* out, long ld, HeadGradient g, long v0, long columns,
                                     long first, long total, long row0) {
  long i = blockIdx.y;
  RowGradient row(g, i, first + v0);
  if (v0 == 0 && blockIdx.x == 0 && threadIdx.x == 0) r.inside(TARGET, row0 + i, g.targets[i], total);
  for (long j = first_index(); j < columns; j += index_step()) out[i * ld + j] = row.of(raw[i * raw_ld + j], j);
}

// The same, rounded for the products that follow: a row of bf16 numbers takes the first half of the place of a row of logits. Where it is
// that row's own, what is written of a tile lies over scores that all threads have read, of this tile or of earlier ones.
__global__ void __launch_bounds__(THREADS) differentiate_half_kernel(Reporter r, const float* raw, long raw_ld, float* to, long ld,
                                                                     HeadGradient g, long v0, long columns, long first, long total,
                                                                     long row0) {
  long i = blockIdx.x;
  const float* scores = raw + i * raw_ld;
  bf16* out = reinterpret_cast<bf16*>(to + i * ld);
  RowGradient row(g, i, first + v0);
  if (v0 == 0 && threadIdx.x == 0) r.inside(TARGET, row0 + i, g.targets[i], total);
  for (long begin = 0; begin < columns; begin += 4 * THREADS) {
    long j = begin + 4 * threadIdx.x;
    bool live = j < columns;
    float4 s = live ? *reinterpret_cast<const float4*>(scores + j) : float4{0, 0, 0, 0};
    __syncthreads();
    // Numbers past the last column are nobody's.
    if (live) {
      bf16 four[4] = {stored<bf16>(row.of(s.x, j)), stored<bf16>(row.of(s.y, j + 1)), stored<bf16>(row.of(s.z, j + 2)),
                      stored<bf16>(row.of(s.w, j + 3))};
      memcpy(out + j, four, sizeof four);
    }
  }
}

__global__ void round_kernel(const float* from, bf16* to, long n) {
  for (long i = first_index(); i < n; i += index_step()) to[i] = stored<bf16>(from[i]);
}

}  // namespace

void head_rows(Call& c, long first, long total, bool entropy, bool panels, HeadOutputs out) {
  long rows = size(c, 0), h = size(c, 1), vocabulary = size(c, 2);
  Numbers x = numbers(c, 0), w = numbers(c, 1);
  auto absorb = on_tensor_cores(x.half || w.half) ? absorb_any_kernel : absorb_kernel;
  Cut cut(rows, vocabulary, 0);
  for (long r0 = 0; r0 < rows; r0 += cut.most) {
    long count = cut.count(r0), ld = cut.width(count);
    float *logits = reinterpret_cast<float*>(c.scratch), *states = logits + count * ld;
    for (long v0 = 0; v0 < vocabulary; v0 += ld) {
      long columns = smaller(ld, vocabulary - v0);
      LogitRows z{logits, ld};
      if (out.logits.p) z = {out.logits.at(r0, v0), out.logits.step};
      multiply(c, {x.from(r0 * h), h, 1}, weight_of(w.from(v0 * h), h, panels), {{z.p, false}, z.step, false}, NO_NUMBERS, count,
               columns, h);
      launch(c, absorb, dim3(unsigned(count)), THREADS, 0, reporter(c), z.p, z.step, states, ints(c, 2) + r0, floats(c, 3), v0, columns,
             first, total, entropy, r0);
    }
    HeadOutputs at{out.logprob + r0, out.lse + r0, out.entropy + r0, out.work ? out.work + 3 * r0 : nullptr, out.logits};
    launch(c, finish_kernel, dim3(unsigned(parts(count, 8))), 128, 0, states, at, count, entropy);
  }
}

// Whether rows of kept logits are long enough: kernels read and write four of them at a time.
bool whole_logits(Call& c, int attribute, long vocabulary, int operand, LogitRows& out) {
  out = {nullptr, size(c, attribute)};
  if (out.step == 0) return true;
  if (out.step < vocabulary || out.step % 4) return fail(c, "rows of %ld logits are kept %ld apart", vocabulary, out.step);
  out.p = floats(c, operand);
  return true;
}

void linear_logprob(Call& c) {
  bool entropy = size(c, 3) == 1;
  LogitRows keep;
  if (!whole_logits(c, 4, size(c, 2), c.operands - 1, keep)) return;
  head_rows(c, 0, size(c, 2), entropy, size(c, 5) == 1, {floats(c, 4), floats(c, 5), floats(c, entropy ? 6 : 5), nullptr, keep});
}

namespace {

// Targets count from `first` on, of `total`; without `dw` only x has a gradient. The attributes from `at` on say so.
void head_gradient(Call& c, bool entropy, int at, OutNumbers dx, OutNumbers dw) {
  long first = size(c, at), total = size(c, at + 1);
  bool panels = size(c, at + 3) == 1;
  long rows = size(c, 0), h = size(c, 1), vocabulary = size(c, 2);
  Numbers x = numbers(c, 1), w = numbers(c, 2);
  // Gradients of logits are rounded where x and w are, so that the products by them are of three bf16 matrices.
  bool half = x.half && w.half && on_tensor_cores(true);
  // Sums over pieces of the vocabulary are fp32: those of a bf16 gradient are rounded once, at their end.
  Cut cut(rows, vocabulary, dx.half ? h : 0);
  LogitRows keep;
  if (!whole_logits(c, at + 2, vocabulary, entropy ? 8 : 6, keep)) return;
  if (cut.most == 0) {
    fail(c, "rows of %ld numbers are more than the scratch holds", h);
    return;
  }
  for (long r0 = 0; r0 < rows; r0 += cut.most) {
    long count = cut.count(r0), ld = cut.width(count);
    float *logits = reinterpret_cast<float*>(c.scratch), *sums = logits + count * ld;
    HeadGradient g{floats(c, 0) + r0, floats(c, 5) + r0, entropy ? floats(c, 6) + r0 : nullptr, entropy ? floats(c, 7) + r0 : nullptr,
                   floats(c, 4), ints(c, 3) + r0};
    for (long v0 = 0; v0 < vocabulary; v0 += ld) {
      long columns = smaller(ld, vocabulary - v0);
      OutNumbers dx_rows = dx.half ? OutNumbers{sums, false} : dx.from(r0 * h), dw_rows = dw.p ? dw.from(v0 * h) : dw;
      LogitRows z{logits, ld};
      if (keep.p) z = {keep.at(r0, v0), keep.step};
      else
        multiply(c, {x.from(r0 * h), h, 1}, weight_of(w.from(v0 * h), h, panels), {{logits, false}, ld, false}, NO_NUMBERS, count,
                 columns, h);
      if (half)
        launch(c, differentiate_half_kernel, dim3(unsigned(count)), THREADS, 0, reporter(c), z.p, z.step, logits, ld, g, v0, columns,
               first, total, r0);
      else
        launch(c, differentiate_kernel, dim3(unsigned(parts(columns, THREADS)), unsigned(count)), THREADS, 0, reporter(c), z.p, z.step,
               logits, ld, g, v0, columns, first, total, r0);
      Numbers made{logits, half};
      long step = half ? 2 * ld : ld;
      multiply(c, {made, step, 1}, weight_back(w.from(v0 * h), h, panels), {dx_rows, h, false}, v0 > 0 ? dx_rows.numbers() : NO_NUMBERS,
               count, h, columns);
      if (dw.p) multiply_gradient(c, made, step, x.from(r0 * h), dw_rows, panels, dw_rows.numbers(), count, columns, h);
    }
    if (dx.half)
      launch(c, round_kernel, dim3(blocks_of(count * h, THREADS)), THREADS, 0, sums, static_cast<bf16*>(dx.from(r0 * h).p), count * h);
  }
}

}  // namespace

void linear_logprob_grad(Call& c) {
  OutNumbers dx = out_numbers(c, c.operands - 2), dw = out_numbers(c, c.operands - 1);
  const void* prior = size(c, 3) == 1 ? c.operand[c.operands - 3] : nullptr;
  bool panels = size(c, 8) == 1;
  size_t bytes = size_t(weight_elements(size(c, 2), size(c, 1), panels)) * bytes_of(c.type[c.operands - 1]);
  if (!prior) succeeded(c, cudaMemsetAsync(dw.p, 0, bytes, c.stream));
  else if (prior != dw.p) succeeded(c, cudaMemcpyAsync(dw.p, prior, bytes, cudaMemcpyDefault, c.stream));
  head_gradient(c, size(c, 4) == 1, 5, dx, dw);
}

void linear_logprob_dx(Call& c) {
  head_gradient(c, size(c, 3) == 1, 4, out_numbers(c, c.operands - 1), {nullptr, false});
}

}  // namespace baton

// log p(target) and entropy of a vocabulary head, in panels of logits that fit into the scratch.
// With s = x·wᵀ / T: logprob = s[target] − lse, entropy H = lse − Σ p s.
#include "head.cuh"
#include "softmax.cuh"

namespace baton {
namespace {

constexpr long ROWS = 1024, WIDTH = 8192;  // of a panel of logits
constexpr unsigned THREADS = 256;
constexpr long STATE = 34;                 // floats of a row: top, 16 sums, 16 weighted sums, the target's score
constexpr long SUM_FLOATS = long(SCRATCH_BYTES) / 4 - ROWS * WIDTH;  // behind a panel, for sums of gradients
static_assert((ROWS * WIDTH + ROWS * STATE) * 4 <= long(SCRATCH_BYTES), "a panel fits into the scratch");

__global__ void __launch_bounds__(THREADS) absorb_kernel(Reporter r, const float* logits, float* states, const int* targets,
                                                         const float* inverse, long v0, long columns, long first, long total,
                                                         bool entropy, long row0) {
  __shared__ float s[TILE], scaled[TILE], share[32];
  long i = blockIdx.x;
  float *state = states + i * STATE, scale = *inverse;
  const float* row = logits + i * WIDTH;
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

// Raw logits become their gradients: with ℓ = s − lse and p = eˡ, ds = dlogprob (δ − p) − dentropy · p (ℓ + H).
__global__ void differentiate_kernel(Reporter r, float* logits, HeadGradient g, long v0, long columns, long first, long total,
                                     long row0) {
  long i = blockIdx.y;
  float inverse = *g.inverse, lse = g.lse[i], dl = g.dlogprob[i], de = g.dentropy ? g.dentropy[i] : 0.f;
  float entropy = g.dentropy ? g.entropy[i] : 0.f;
  long target = g.targets[i] - first - v0;
  if (v0 == 0 && blockIdx.x == 0 && threadIdx.x == 0) r.inside(TARGET, row0 + i, g.targets[i], total);
  for (long j = first_index(); j < columns; j += index_step()) {
    float* s = logits + i * WIDTH + j;
    float l = *s * inverse - lse, mass = exp_of(l) * fmaf(de, l + entropy, dl);
    *s = j == target ? (dl - mass) * inverse : 0.f - mass * inverse;
  }
}

__global__ void round_kernel(const float* from, bf16* to, long n) {
  for (long i = first_index(); i < n; i += index_step()) to[i] = stored<bf16>(from[i]);
}

}  // namespace

void head_rows(Call& c, long first, long total, bool entropy, bool panels, HeadOutputs out) {
  long rows = size(c, 0), h = size(c, 1), vocabulary = size(c, 2);
  Numbers x = numbers(c, 0), w = numbers(c, 1);
  OutNumbers panel{c.scratch, false};
  float *logits = reinterpret_cast<float*>(c.scratch), *states = logits + ROWS * WIDTH;
  for (long r0 = 0; r0 < rows; r0 += ROWS) {
    long count = smaller(ROWS, rows - r0);
    for (long v0 = 0; v0 < vocabulary; v0 += WIDTH) {
      long columns = smaller(WIDTH, vocabulary - v0);
      multiply(c, {x.from(r0 * h), h, 1}, weight_of(w.from(v0 * h), h, panels), {panel, WIDTH, false}, NO_NUMBERS, count, columns, h);
      launch(c, absorb_kernel, dim3(unsigned(count)), THREADS, 0, reporter(c), logits, states, ints(c, 2) + r0, floats(c, 3), v0,
             columns, first, total, entropy, r0);
    }
    HeadOutputs at{out.logprob + r0, out.lse + r0, out.entropy + r0, out.work ? out.work + 3 * r0 : nullptr};
    launch(c, finish_kernel, dim3(unsigned(parts(count, 8))), 128, 0, states, at, count, entropy);
  }
}

void linear_logprob(Call& c) {
  bool entropy = size(c, 3) == 1;
  head_rows(c, 0, size(c, 2), entropy, size(c, 4) == 1, {floats(c, 4), floats(c, 5), floats(c, entropy ? 6 : 5), nullptr});
}

namespace {

// Targets count from `first` on, of `total`; without `dw` only x has a gradient.
void head_gradient(Call& c, bool entropy, long first, long total, bool panels, OutNumbers dx, OutNumbers dw) {
  long rows = size(c, 0), h = size(c, 1), vocabulary = size(c, 2);
  Numbers x = numbers(c, 1), w = numbers(c, 2);
  OutNumbers panel{c.scratch, false};
  float* logits = reinterpret_cast<float*>(c.scratch);
  // Sums over panels of the vocabulary are fp32: those of a bf16 gradient are rounded once, at their end.
  float* sums = logits + ROWS * WIDTH;
  long most = dx.half ? smaller(ROWS, SUM_FLOATS / h) : ROWS;
  if (most == 0) {
    fail(c, "rows of %ld numbers are more than the scratch holds", h);
    return;
  }
  for (long r0 = 0; r0 < rows; r0 += most) {
    long count = smaller(most, rows - r0);
    HeadGradient g{floats(c, 0) + r0, floats(c, 5) + r0, entropy ? floats(c, 6) + r0 : nullptr, entropy ? floats(c, 7) + r0 : nullptr,
                   floats(c, 4), ints(c, 3) + r0};
    for (long v0 = 0; v0 < vocabulary; v0 += WIDTH) {
      long columns = smaller(WIDTH, vocabulary - v0);
      OutNumbers dx_rows = dx.half ? OutNumbers{sums, false} : dx.from(r0 * h), dw_rows = dw.p ? dw.from(v0 * h) : dw;
      multiply(c, {x.from(r0 * h), h, 1}, weight_of(w.from(v0 * h), h, panels), {panel, WIDTH, false}, NO_NUMBERS, count, columns, h);
      launch(c, differentiate_kernel, dim3(unsigned(parts(columns, THREADS)), unsigned(count)), THREADS, 0, reporter(c), logits, g, v0,
             columns, first, total, r0);
      Numbers made = panel.numbers();
      multiply(c, {made, WIDTH, 1}, weight_back(w.from(v0 * h), h, panels), {dx_rows, h, false},
               v0 > 0 ? dx_rows.numbers() : NO_NUMBERS, count, h, columns);
      if (dw.p)
        multiply_gradient(c, made, WIDTH, x.from(r0 * h), dw_rows, panels, dw_rows.numbers(), count, columns, h);
    }
    if (dx.half)
      launch(c, round_kernel, dim3(blocks_of(count * h, THREADS)), THREADS, 0, sums, static_cast<bf16*>(dx.from(r0 * h).p), count * h);
  }
}

}  // namespace

void linear_logprob_grad(Call& c) {
  OutNumbers dx = out_numbers(c, c.operands - 2), dw = out_numbers(c, c.operands - 1);
  const void* prior = size(c, 3) == 1 ? c.operand[c.operands - 3] : nullptr;
  bool panels = size(c, 7) == 1;
  size_t bytes = size_t(weight_elements(size(c, 2), size(c, 1), panels)) * bytes_of(c.type[c.operands - 1]);
  if (!prior) succeeded(c, cudaMemsetAsync(dw.p, 0, bytes, c.stream));
  else if (prior != dw.p) succeeded(c, cudaMemcpyAsync(dw.p, prior, bytes, cudaMemcpyDefault, c.stream));
  head_gradient(c, size(c, 4) == 1, size(c, 5), size(c, 6), panels, dx, dw);
}

void linear_logprob_dx(Call& c) {
  head_gradient(c, size(c, 3) == 1, size(c, 4), size(c, 5), size(c, 6) == 1, out_numbers(c, c.operands - 1), {nullptr, false});
}

}  // namespace baton

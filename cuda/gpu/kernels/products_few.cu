// Products of few rows with weights in rows, all bf16, on tensor cores: decode steps, where nothing counts but how fast weights come
// from memory. A lane copies sixteen bytes of a row at a time and gives them to the tensor cores as they are: which step of k is which makes
// no difference as long as both operands agree. A row's bits depend on nothing but the row and the weight, so products of the same rows run
// in one launch with the bits that each has alone: blocks of several weights side by side, or half of a block's columns of each of two.
#include "fragments.cuh"
#include "operands.cuh"

namespace baton {
namespace {

constexpr int MOST_ROWS = 128, GROUPS = 4, COLUMNS = 8 * GROUPS, DEPTH = 64, WARPS = 8, THREADS = 32 * WARPS;
// Copies of a lane for one step, and of a warp for the steps that are under way while one is multiplied. They go through shared memory,
// since a compiler may put a load into a register as late as it likes, and then few are under way.
constexpr int COPIES = 2 * GROUPS, STAGES = 3, RING = STAGES * COPIES * 32 * 8;
// From row to row of a warp's sums, in the place of its copies: eight rows of pairs fall into different banks.
constexpr int STEP = COLUMNS + 8;

struct Weight {
  const bf16* p;
  long ld, n;
  Target target;
};
struct Weights {
  Weight of[MOST_PRODUCTS];
  unsigned end[MOST_PRODUCTS];  // blocks of columns up to and with this one's
};

// A block makes 16·TILES rows × 32 columns. Its warps share k out, so that as much of the weight is under way as if there were eight times as
// many columns, and add up at the end, in their order. Gated: sixteen columns of one weight and the same sixteen of the other.
template <int TILES, Joint JOINT>
__global__ void __launch_bounds__(THREADS) few_kernel(const bf16* x, long x_ld, Weights weights, long m, long k) {
  constexpr bool GATED = JOINT == Joint::gated;
  constexpr int ROWS = 16 * TILES, WIDTH = GATED ? COLUMNS / 2 : COLUMNS;
  static_assert(ROWS * STEP * sizeof(float) <= RING * sizeof(bf16));
  DYNAMIC_SHARED(bf16, shared);
  int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32), g = lane / 4, t = lane % 4;
  int which = GATED || blockIdx.x < weights.end[0] ? 0 : blockIdx.x < weights.end[1] ? 1 : 2;
  const Weight& weight = weights.of[which];
  long row = long(blockIdx.y) * ROWS, column = long(blockIdx.x - (which ? weights.end[which - 1] : 0)) * WIDTH;
  bf16* ring = shared + warp * RING + lane * 8;
  // Rows and columns past the last are the last one again, whose sums nobody keeps.
  const bf16 *from_w[GROUPS], *from_x[TILES][2];
#pragma unroll
  for (int j = 0; j < GROUPS; j++) {
    const Weight& of = GATED && j >= GROUPS / 2 ? weights.of[1] : weight;
    from_w[j] = of.p + smaller(column + 8 * j % WIDTH + g, of.n - 1) * of.ld;
  }
#pragma unroll
  for (int i = 0; i < TILES; i++)
#pragma unroll
    for (int lower = 0; lower < 2; lower++) from_x[i][lower] = x + smaller(row + 16 * i + g + 8 * lower, m - 1) * x_ld;
  auto fetch = [&](long k0, int stage) {
    if (k0 < k)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        long depth = k0 + 32 * h + 8 * t;
        bool live = depth < k;
#pragma unroll
        for (int j = 0; j < GROUPS; j++)
          copy_beside(ring + (stage * COPIES + h * GROUPS + j) * 256, from_w[j] + (live ? depth : 0), live);
      }
    commit_copies();
  };
  float sum[TILES][GROUPS][4] = {};
  long k0 = long(warp) * DEPTH;
  constexpr long STRIDE = WARPS * DEPTH;
#pragma unroll
  for (int stage = 0; stage < STAGES - 1; stage++) fetch(k0 + stage * STRIDE, stage);
  for (int stage = 0; k0 < k; k0 += STRIDE, stage = stage == STAGES - 1 ? 0 : stage + 1) {
    uint4 fx[2][TILES][2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      long depth = k0 + 32 * h + 8 * t;
#pragma unroll
      for (int i = 0; i < TILES; i++)
#pragma unroll
        for (int lower = 0; lower < 2; lower++)
          fx[h][i][lower] = depth < k ? *reinterpret_cast<const uint4*>(from_x[i][lower] + depth) : uint4{0, 0, 0, 0};
    }
    wait_for_copies<STAGES - 2>();
    fetch(k0 + (STAGES - 1) * STRIDE, stage == 0 ? STAGES - 1 : stage - 1);  // where the last step was read
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
      for (int j = 0; j < GROUPS; j++) {
        uint4 w = *reinterpret_cast<const uint4*>(ring + (stage * COPIES + h * GROUPS + j) * 256);
        uint32_t w0[2] = {w.x, w.y}, w1[2] = {w.z, w.w};
#pragma unroll
        for (int i = 0; i < TILES; i++) {
          uint4 upper = fx[h][i][0], lower = fx[h][i][1];
          uint32_t first[4] = {upper.x, lower.x, upper.y, lower.y}, second[4] = {upper.z, lower.z, upper.w, lower.w};
          mma(sum[i][j], first, w0);
          mma(sum[i][j], second, w1);
        }
      }
  }
  wait_for_copies();
  __syncwarp();
  float* sums = reinterpret_cast<float*>(shared + warp * RING);
#pragma unroll
  for (int i = 0; i < TILES; i++)
#pragma unroll
    for (int j = 0; j < GROUPS; j++)
#pragma unroll
      for (int e = 0; e < 4; e += 2)
        *reinterpret_cast<float2*>(sums + (16 * i + g + 4 * e) * STEP + 8 * j + 2 * t) = {sum[i][j][e], sum[i][j][e + 1]};
  __syncthreads();
  const Target& target = weight.target;
  for (int e = int(threadIdx.x); e < ROWS * WIDTH; e += THREADS) {
    long r = row + e / WIDTH, q = column + e % WIDTH;
    if (r >= m || q >= weight.n) continue;
    auto whole = [&](int at) {
      const float* parts = reinterpret_cast<const float*>(shared) + e / WIDTH * STEP + e % WIDTH + at;
      float s = parts[0];
#pragma unroll
      for (int from = 1; from < WARPS; from++) s = s + parts[from * RING / 2];
      return s;
    };
    if (GATED) target.p.set(place(target, r, q), swiglu_of(target.p.rounded(whole(0)), target.p.rounded(whole(WIDTH))));
    else target.p.set(place(target, r, q), with_bias(target, q, whole(0)));
  }
}

}  // namespace

bool multiply_few(Call& c, Left left, const Product* product, int count, Joint joint, long m, long k) {
  if (m > MOST_ROWS || left.column != 1 || !in_eights(left.p) || left.row % 8 || k % 8) return false;
  Weights weights{};
  unsigned blocks = 0;
  for (int i = 0; i < MOST_PRODUCTS; i++) {
    if (i < count) {
      const auto& [right, target, n] = product[i];
      if (right.form != Right::columns || target.panels || !in_eights(right.p) || right.ld % 8) return false;
      weights.of[i] = {static_cast<const bf16*>(right.p.p), right.ld, n, target};
      blocks += unsigned(parts(n, COLUMNS));
    }
    weights.end[i] = blocks;
  }
  const bf16* x = static_cast<const bf16*>(left.p.p);
  auto run = [&](auto kernel, unsigned columns, int rows) {
    launch(c, kernel, dim3(columns, unsigned(parts(m, rows))), THREADS, WARPS * RING * sizeof(bf16), x, left.row, weights, m, k);
  };
  auto with = [&](auto one, auto two, unsigned columns) { m <= 16 ? run(one, columns, 16) : run(two, columns, 32); };
  if (joint == Joint::gated)
    with(few_kernel<1, Joint::gated>, few_kernel<2, Joint::gated>, unsigned(parts(product[0].n, COLUMNS / 2)));
  else with(few_kernel<1, Joint::beside>, few_kernel<2, Joint::beside>, blocks);
  return true;
}

}  // namespace baton

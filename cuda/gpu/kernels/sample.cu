// Draws the next token of every running slot and advances the slot's state; what is drawn is defined in
// cuda/cpu/kernels/sample.cpp. A block takes a row. The mass of a prefix (topP) is counted in units of 2⁻⁴⁰, so that it does
// not depend on the order of threads.
#include "softmax.cuh"

namespace baton {
namespace {

constexpr unsigned THREADS = 256;
constexpr long MOST_TILES = 1024;  // of the largest vocabulary, 2²⁰
constexpr double UNIT = 1099511627776.;
enum Sampler { KEY_LOW, KEY_HIGH, INDEX_WORD, SAMPLE_WORD, LIMIT, SAMPLER_COLUMNS = 8 };
enum Finished { RUNNING, STOPPED, FULL };

// The first word of Philox4x32-10 (Salmon et al. 2011), as a number in (0, 1).
__device__ double uniform(unsigned key0, unsigned key1, unsigned c0, unsigned c1, unsigned c2, unsigned c3) {
  for (int round = 0; round < 10; round++, key0 += 0x9E3779B9u, key1 += 0xBB67AE85u) {
    unsigned high_a = __umulhi(0xD2511F53u, c0), low_a = 0xD2511F53u * c0;
    unsigned high_b = __umulhi(0xCD9E8D57u, c2), low_b = 0xCD9E8D57u * c2;
    unsigned n0 = high_b ^ c1 ^ key0, n2 = high_a ^ c3 ^ key1;
    c1 = low_b, c3 = low_a, c0 = n0, c2 = n2;
  }
  return (c0 + .5) * (1. / 4294967296.);
}

// Integers in the order of the numbers; −0 and 0 are one number.
__device__ unsigned order(float s) {
  s = s + 0.f;
  unsigned bits = unsigned(__float_as_int(s));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// What is kept: everything above `key`, and the tokens at it up to the id `last`.
struct Kept {
  unsigned key = 0;
  long last = 0;
  bool all = true;
  __device__ bool keeps(unsigned k, long id) const { return all || k > key || (k == key && id <= last); }
};

struct Shared {
  float s[TILE], e[TILE], share[32];
  double mass[MOST_TILES];
  unsigned long long weight[256];
  unsigned count[256];
  unsigned prefix;
  double above, at;  // weight above the key, and what has to be reached
  long found;
  unsigned tokens_at;
};

struct Row {
  const float* logits;
  long vocabulary;
  float inverse, top;

  __device__ float scaled(long j) const { return logits[j] * inverse; }
  // exp(s − top), 0 where not kept.
  __device__ float weight(const Kept& kept, long j) const {
    float s = scaled(j);
    return kept.keeps(order(s), j) ? exp_of(s - top) : 0.f;
  }

  // Σ of every tile in sixteen double lanes and one tree, and the sum of them all, in order. A half-warp takes a tile.
  __device__ double mass(const Kept& kept, Shared& z) const {
    long tiles = parts(vocabulary, TILE);
    __syncthreads();
    for (long base = 0; base < tiles; base += THREADS / 16) {
      long tile = base + threadIdx.x / 16;
      double sum = 0;
      if (tile < tiles)
        for (long j = tile * TILE + threadIdx.x % 16; j < smaller(vocabulary, (tile + 1) * TILE); j += 16)
          sum = sum + double(weight(kept, j));
      sum = fold16(sum);
      if (tile < tiles && threadIdx.x % 16 == 0) z.mass[tile] = sum;
    }
    __syncthreads();
    double all = 0;
    for (long t = 0; t < tiles; t++) all = all + z.mass[t];
    return all;
  }

  // Finds the key at which the weight of everything above it is below `target` and that of everything not below it is not,
  // one byte at a time from the top. A token weighs 1, or its e in units; `target` is then a share of all.
  __device__ unsigned cut(const Kept& kept, bool by_mass, double target, Shared& z) const {
    unsigned prefix = 0;
    if (threadIdx.x == 0) z.above = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
      __syncthreads();
      z.weight[threadIdx.x] = 0, z.count[threadIdx.x] = 0;
      __syncthreads();
      for (long j = threadIdx.x; j < vocabulary; j += THREADS) {
        unsigned key = order(scaled(j));
        if (shift < 24 && (key >> (shift + 8)) != (prefix >> (shift + 8))) continue;
        float e = by_mass ? weight(kept, j) : 1.f;
        if (by_mass && e == 0) continue;
        atomicAdd(&z.count[key >> shift & 255], 1u);
        if (by_mass) atomicAdd(&z.weight[key >> shift & 255], (unsigned long long)(double(e) * UNIT));
      }
      __syncthreads();
      if (threadIdx.x == 0) {
        auto weight_of = [&](int bin) { return by_mass ? double(z.weight[bin]) : double(z.count[bin]); };
        if (by_mass && shift == 24) {
          double all = 0;
          for (int bin = 0; bin < 256; bin++) all = all + weight_of(bin);
          z.at = target * all;  // what has to be reached; kept here for the next bytes
        }
        double reach = by_mass ? z.at : target;
        int bin = 255, last = -1;
        for (; bin >= 0; bin--) {
          if (z.count[bin] == 0) continue;
          last = bin;
          if (z.above + weight_of(bin) >= reach) break;
          z.above = z.above + weight_of(bin);
        }
        if (bin < 0) z.above = z.above - weight_of(last), bin = last;
        z.prefix = prefix | unsigned(bin) << shift;
        z.tokens_at = z.count[bin];
        z.found = by_mass ? long(z.weight[bin]) : long(z.count[bin]);
      }
      __syncthreads();
      prefix = z.prefix;
    }
    return prefix;
  }

  // The id of the n-th token (n ≥ 1) at a key.
  __device__ long tie(unsigned key, long n, Shared& z) const {
    long id = vocabulary;
    for (long v0 = 0; v0 < vocabulary && id == vocabulary; v0 += THREADS) {
      long j = v0 + threadIdx.x;
      unsigned votes = __ballot_sync(ALL, j < vocabulary && order(scaled(j)) == key);
      __syncthreads();
      if (threadIdx.x % 32 == 0) z.count[threadIdx.x / 32] = votes;
      __syncthreads();
      for (unsigned w = 0; w < THREADS / 32 && id == vocabulary; w++) {
        unsigned bits = z.count[w];
        long here = __popc(bits);
        if (n > here) {
          n -= here;
          continue;
        }
        for (; n > 1; n--) bits &= bits - 1;
        id = v0 + 32 * w + __ffs(bits) - 1;
      }
    }
    return id;
  }

  __device__ Kept filter(long top_k, double top_p, Shared& z) const {
    Kept kept;
    if (top_k > 0 && top_k < vocabulary) {
      unsigned key = cut(kept, false, double(top_k), z);
      long ties = top_k - long(z.above);
      kept = {key, tie(key, ties, z), false};
    }
    if (top_p < 1) {
      unsigned key = cut(kept, true, top_p, z);
      double above = z.above, reach = z.at, each = double(z.found) / double(larger(1, z.tokens_at));
      long most = z.tokens_at, ties = 1;
      while (ties < most && above + double(ties) * each < reach) ties++;
      kept = {key, tie(key, ties, z), false};
    }
    return kept;
  }

  // The inverse of the cumulative distribution in the order of ids.
  __device__ long draw(const Kept& kept, double u, Shared& z) const {
    double target = u * mass(kept, z), before = 0;
    long tiles = parts(vocabulary, TILE), tile = -1, last = 0;
    for (long t = 0; t < tiles && tile < 0; t++) {
      double in = z.mass[t];
      if (in > 0) last = t;
      if (in > 0 && before + in > target) tile = t;
      else before = before + in;
    }
    // If rounding leaves the target beyond the last tile, the last token that was kept is the one.
    long v0 = (tile < 0 ? last : tile) * TILE, n = smaller(TILE, vocabulary - v0);
    for (long j = threadIdx.x; j < n; j += THREADS) z.e[j] = weight(kept, v0 + j);
    __syncthreads();
    if (threadIdx.x == 0) {
      long token = v0;
      double sum = before;
      for (long j = 0; j < n; j++) {
        if (z.e[j] == 0) continue;
        token = v0 + j;
        sum = sum + double(z.e[j]);
        if (tile >= 0 && sum > target) break;
      }
      z.found = token;
    }
    __syncthreads();
    return z.found;
  }

  // Lists the kept ids in `ids`, −1 behind the last of at most `width`, and returns the log-sum-exp over them. `draw` has
  // left the mass of every tile: most hold none.
  __device__ float list(const Kept& kept, int* ids, long width, Shared& z) const {
    constexpr long EACH = TILE / THREADS;
    long n = 0;
    for (long t = 0; t < parts(vocabulary, TILE) && n < width; t++) {
      if (z.mass[t] == 0) continue;
      // A thread has neighbours, and goes behind those of all threads before it.
      long from = t * TILE + threadIdx.x * EACH, to = smaller(vocabulary, from + EACH);
      unsigned own = 0;
      for (long j = from; j < to; j++) own += weight(kept, j) != 0;
      __syncthreads();
      z.count[threadIdx.x] = own;
      __syncthreads();
      long at = n;
      for (unsigned i = 0; i < THREADS; i++) {
        if (i < threadIdx.x) at += z.count[i];
        n += z.count[i];
      }
      for (long j = from; j < to && at < width; j++)
        if (weight(kept, j) != 0) z.s[at] = logits[j], ids[at++] = int(j);
    }
    n = smaller(n, width);
    for (long j = n + threadIdx.x; j < width; j += THREADS) ids[j] = -1;
    __syncthreads();
    RowSoftmax state;
    absorb(state, z.s, nullptr, 0, n, inverse, z.share);
    __syncthreads();
    if (threadIdx.x < 32) {
      float sum = lanes_total(state.sum);
      if (threadIdx.x == 0) z.share[0] = sum;
    }
    __syncthreads();
    return state.top + log_of(z.share[0]);
  }

  // First id of the largest logit, which is in the tile at `v0`.
  __device__ long largest(long v0, Shared& z) const {
    float own = -INF;
    long end = smaller(v0 + TILE, vocabulary);
    for (long j = v0 + threadIdx.x; j < end; j += THREADS) own = most(own, logits[j]);
    float peak = block_most(own, z.share);
    __syncthreads();
    if (threadIdx.x == 0) z.count[0] = 0x7fffffff;
    __syncthreads();
    for (long j = v0 + threadIdx.x; j < end; j += THREADS)
      if (logits[j] == peak) atomicMin(reinterpret_cast<int*>(&z.count[0]), int(j));
    __syncthreads();
    return long(z.count[0]);
  }
};

struct State {
  const int *slots, *sampler, *stops;
  int *token, *position, *finished, *count, *out_tokens;
  float* out_logprobs;
  int* out_kept;  // null where the kept ids are not stored
  long vocabulary, top_k, stop_count, max_new, limit;
  double temperature, top_p;
};

// Before any row draws: a row with a wrong slot stops them all.
__global__ void check_slots_kernel(Reporter r, const int* slots, long rows, long limit) {
  for (long i = first_index(); i < rows; i += index_step()) r.inside(SLOT, i, slots[i], limit);
}

__global__ void __launch_bounds__(THREADS) sample_kernel(Reporter r, const float* logits, State a) {
  __shared__ Shared z;
  long i = blockIdx.x, slot = a.slots[i];
  if (r.faulty() && r.fault->what == INDEX) return;
  if (slot < 0 || slot >= a.limit || a.finished[slot]) return;
  long at = a.count[slot];
  if (at < 0 || at >= a.max_new) {
    if (threadIdx.x == 0) r.report(NO_ROOM, 0, slot, at, a.max_new);
    return;
  }
  bool greedy = a.temperature == 0;
  Row row{logits + i * a.vocabulary, a.vocabulary, greedy ? 1.f : float(1 / a.temperature), 0};
  RowSoftmax state;
  long best = 0;  // the first tile with the largest logit
  for (long v0 = 0; v0 < a.vocabulary; v0 += TILE) {
    long n = smaller(TILE, a.vocabulary - v0);
    float before = state.top;
    __syncthreads();
    for (long j = threadIdx.x; j < n; j += THREADS) z.s[j] = row.logits[v0 + j];
    absorb(state, z.s, nullptr, 0, n, row.inverse, z.share);
    if (state.top > before) best = v0;
  }
  row.top = state.top;
  __syncthreads();
  if (threadIdx.x < 32) {
    float sum = lanes_total(state.sum);
    if (threadIdx.x == 0) z.share[0] = sum;
  }
  __syncthreads();
  float lse = state.top + log_of(z.share[0]);
  if (!(fabsf(lse) < INF)) {
    if (threadIdx.x == 0) r.report(NOT_FINITE, 0, slot, 0);
    return;
  }
  __syncthreads();
  const int* words = a.sampler + slot * SAMPLER_COLUMNS;
  long drawn;
  if (greedy) {
    drawn = row.largest(best, z);
  } else {
    double u = uniform(unsigned(words[KEY_LOW]), unsigned(words[KEY_HIGH]), unsigned(words[INDEX_WORD]),
                       unsigned(words[SAMPLE_WORD]), unsigned(at), 0);
    Kept kept = row.filter(a.top_k, a.top_p, z);
    drawn = row.draw(kept, u, z);
    if (a.out_kept) lse = row.list(kept, a.out_kept + (slot * a.max_new + at) * a.top_k, a.top_k, z);
  }
  if (threadIdx.x != 0) return;
  a.out_tokens[slot * a.max_new + at] = int(drawn);
  a.out_logprobs[slot * a.max_new + at] = row.logits[drawn] * row.inverse - lse;
  a.token[slot] = int(drawn);
  a.position[slot] = a.position[slot] + 1;
  a.count[slot] = int(at + 1);
  bool stop = false;
  for (long j = 0; j < a.stop_count; j++) stop = stop || a.stops[j] == drawn;
  // Last: who reads the state while this runs and sees a slot finished sees all of its tokens.
  __threadfence();
  a.finished[slot] = stop ? STOPPED : at + 1 == words[LIMIT] ? FULL : RUNNING;
}

// `width` ids of kept tokens are stored for every token; none where it is 0.
void draw_tokens(Call& c, long width) {
  long rows = size(c, 0), max_new = size(c, 6);
  auto state = [&](int operand) { return static_cast<int*>(c.operand[operand]); };
  long limit = smaller(elements(c, 6) / SAMPLER_COLUMNS, elements(c, 8) / larger(max_new, 1));
  for (int operand = 2; operand <= 5; operand++) limit = smaller(limit, elements(c, operand));
  limit = smaller(limit, elements(c, 9) / larger(max_new, 1));
  if (width > TILE) {
    fail(c, "%ld tokens are kept of each row and at most %ld can be", width, TILE);
    return;
  }
  if (width) limit = smaller(limit, elements(c, 10) / larger(max_new * width, 1));
  State a{ints(c, 1), ints(c, 6), ints(c, 7), state(2), state(3), state(4), state(5), state(8), floats(c, 9),
          width ? state(10) : nullptr,
          size(c, 1), size(c, 3), size(c, 5), max_new, limit, c.attribute[2], c.attribute[4]};
  if (parts(a.vocabulary, TILE) > MOST_TILES) {
    fail(c, "a vocabulary of %ld is more than %ld", a.vocabulary, MOST_TILES * TILE);
    return;
  }
  launch(c, check_slots_kernel, dim3(blocks_of(rows, 256)), 256, 0, reporter(c), a.slots, rows, limit);
  launch(c, sample_kernel, dim3(unsigned(rows)), THREADS, 0, reporter(c), floats(c, 0), a);
}

}  // namespace

void sample(Call& c) { draw_tokens(c, 0); }
void sample_kept(Call& c) { draw_tokens(c, size(c, 3)); }

}  // namespace baton

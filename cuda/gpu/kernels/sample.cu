// Draws the next token of every running slot and advances the slot's state; what is drawn is defined in
// cuda/cpu/kernels/sample.cpp. A block takes a row and walks over its logits twice, whatever is asked for:
//   1. the largest score of every tile, and where a filter (topK, topP) is asked for that of up to 4096 groups of tokens;
//   2. exponentials, which sixteen warps make and put into shared memory. There one warp adds them, for log-sum-exp in the order of the
//      CPU, and another adds the mass of every tile in double. Tokens at or above a threshold that as many groups reach as tokens are
//      wanted go into a list: few more than those.
// A filter is then a selection byte by byte in that list, and the draw reads one tile. Only where the list does not hold them (more
// tokens at one number than it has room for; more than two or three thousand that make up topP) the same selection walks over the row.
//
// The floor is one pass, 4 V bytes for each row: 0.6 MB of a vocabulary of 152k, at 3 TB/s 13 µs for 64 rows and 52 µs for 256. For few
// rows it is the chain of V / 16 additions of four clocks that the CPU's bits take, about 25 µs, which no second block could share.
//
// The mass of a prefix (topP) is counted in units of 2⁻⁴⁰, so that it does not depend on the order of threads.
#include "packs.cuh"
#include "selection.cuh"

namespace baton {
namespace {

constexpr unsigned MAKERS = 512, ADDERS = 32, THREADS = MAKERS + 2 * ADDERS, WARPS = THREADS / 32;
constexpr long MOST_TILES = 1024;  // of the largest vocabulary, 2²⁰
constexpr int PAIR = 2;            // tiles of a stage: four numbers for every maker
constexpr int TILE_BITS = 10;
static_assert(TILE == 1 << TILE_BITS, "an id says which tile it is in");
constexpr int GROUPS = 4096;       // of tokens, whose largest scores say where a list has to begin
constexpr int LIST = 4095;         // tokens of a list: their units fit into two words
constexpr int NUCLEUS = 2048;      // groups that reach into a list for topP alone
constexpr int COPIES = 8;          // of bins, so that fewer lanes meet at one
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

struct Shared {
  union {
    struct {
      float e[2][PAIR][TILE];     // of two stages, under the largest score so far
      float last[2][PAIR][TILE];  // and under that of the row, where it is another one
    };
    unsigned bins[COPIES * 768];  // tokens and the two words of their units, 256 of each
    Units unsorted[LIST];
  };
  union {
    unsigned group[GROUPS];
    Units list[LIST];
  };
  double mass[MOST_TILES];
  Units weight[256], part[WARPS];
  union {
    float peak[MOST_TILES + 1];
    unsigned end[MOST_TILES];  // of a tile in the list
  };
  float share[32];
  unsigned count[256];
  unsigned found;
  int first[2];
  long token;
  Cut cut;
};
static_assert(sizeof(Shared) <= 81 << 10, "two blocks have room in a multiprocessor of an A100, one in that of any card");

// Σ over the block.
__device__ Units block_units(Units a, Shared& z) {
  for (int half = 16; half; half /= 2) a = a + __shfl_xor_sync(ALL, a, half);
  __syncthreads();
  if (threadIdx.x % 32 == 0) z.part[threadIdx.x / 32] = a;
  __syncthreads();
  a = 0;
  for (unsigned w = 0; w < WARPS; w++) a = a + z.part[w];
  return a;
}
// Σ over the lanes up to this one.
template <class T>
__device__ T running_sum(T a) {
  int lane = int(threadIdx.x % 32);
  for (int step = 1; step < 32; step *= 2) {
    T other = __shfl_sync(ALL, a, lane >= step ? lane - step : lane);
    if (lane >= step) a = a + other;
  }
  return a;
}

// Of the bins of a byte, from the highest down, the first with tokens by which `reach` is reached, or the lowest. The first warp.
__device__ void choose(const Cut& before, double reach, int shift, Shared& z) {
  int high = 255 - 8 * int(threadIdx.x);
  Units own = 0;
  for (int b = 0; b < 8; b++) own += z.weight[high - b];
  Units above = before.above + running_sum(own) - own;
  int last = -1;
  Units over = 0;
  bool found = false;
  for (int b = 0; b < 8 && !found; b++) {
    int bin = high - b;
    if (z.count[bin] == 0) continue;
    last = bin, over = above, above += z.weight[bin];
    found = double(above) >= reach;
  }
  unsigned reached = __ballot_sync(ALL, found), used = __ballot_sync(ALL, last >= 0);
  if (reached ? int(threadIdx.x) == __ffs(int(reached)) - 1 : used >> threadIdx.x == 1)
    z.cut = {before.key | unsigned(last) << shift, z.count[last], over, z.weight[last]};
}

struct Row {
  const float* logits;
  long vocabulary;
  float inverse, top;
  bool wide;  // may be read sixteen bytes at a time

  __device__ long tiles() const { return parts(vocabulary, TILE); }
  __device__ All all() const { return {logits, inverse, vocabulary}; }

  // Four logits from j on, −∞ behind the last.
  __device__ void four(long j, float (&v)[4]) const {
    if (wide && j < vocabulary) read<4>(logits + j, v);
    else
      for (int e = 0; e < 4; e++) v[e] = j + e < vocabulary ? logits[j + e] : -INF;
  }

  // exp(s − top), 0 where not kept.
  template <class S>
  __device__ float weight(const S& from, const Kept& kept, long i) const {
    float s = from.score(i);
    return kept.all || kept.keeps(order(s), from.id(i)) ? exp_of(s - top) : 0.f;
  }

  // The first pass. A warp takes every sixteenth tile, so that a group is one thread's.
  __device__ void find_peaks(bool grouped, Shared& z) {
    if (grouped)
      for (int i = int(threadIdx.x); i < GROUPS; i += THREADS) z.group[i] = 0;
    if (threadIdx.x == 0) z.peak[tiles()] = -INF, z.found = 0, z.first[0] = z.first[1] = 0x7fffffff;
    __syncthreads();
    int lane = int(threadIdx.x % 32);
    if (threadIdx.x < MAKERS)
      for (long tile = threadIdx.x / 32; tile < tiles(); tile += MAKERS / 32) {
        constexpr int EACH = TILE / 128;
        long from = tile * TILE + lane * 4;
        float v[EACH][4], own = -INF;
        if (wide && (tile + 1) * TILE <= vocabulary) {  // all loads before the first comparison
#pragma unroll
          for (int c = 0; c < EACH; c++) read<4>(logits + from + c * 128, v[c]);
        } else {
          for (int c = 0; c < EACH; c++) four(from + c * 128, v[c]);
        }
#pragma unroll
        for (int c = 0; c < EACH; c++) own = fmaxf(fmaxf(fmaxf(v[c][0], v[c][1]), fmaxf(v[c][2], v[c][3])), own);
        own = own * inverse;
        if (grouped) {
          unsigned& group = z.group[tile % (GROUPS / 32) * 32 + lane];
          group = order(own) > group ? order(own) : group;
        }
        for (int half = 16; half; half /= 2) own = fmaxf(own, __shfl_xor_sync(ALL, own, half));
        if (lane == 0) z.peak[tile] = own;
      }
    __syncthreads();
    float own = -INF;
    for (long t = threadIdx.x; t < tiles(); t += THREADS) own = fmaxf(own, z.peak[t]);
    top = block_most(own, z.share);
  }

  // A number that at least `wanted` tokens reach; NaN, below which nothing is, where it is not known.
  __device__ float bar(long wanted, Shared& z) const {
    Groups groups{z.group, smaller(tiles() * 32, GROUPS)};
    if (vocabulary <= LIST || wanted > groups.count) return nan_number();
    return number_of(cut<false>(groups, Kept{}, double(wanted), 2, z).key);
  }

  // The second pass. Returns log-sum-exp; leaves the mass of every tile where `masses`, lists tokens that are not below `bar` where
  // `listed`, and adds the units of all tokens to `total` where `counted`.
  __device__ float walk(bool masses, bool listed, bool counted, float bar, Units& total, Shared& z) const {
    long stages = parts(tiles(), PAIR);
    int place = int(threadIdx.x % (MAKERS / PAIR)) * 4, half = int(threadIdx.x / (MAKERS / PAIR)), lane = int(threadIdx.x % 16);
    bool maker = threadIdx.x < MAKERS, adder = threadIdx.x < MAKERS + ADDERS;
    // Logits come two stages ahead.
    float now[4], next[4], after[4], running = -INF, sum = 0;
    auto first_of = [&](long n) { return (n * PAIR + half) * TILE + place; };
    if (maker) four(first_of(0), now), four(first_of(1), next);
    for (long n = 0; n <= stages; n++) {
      if (maker && n < stages) {
        four(first_of(n + 2), after);
        long at = n * PAIR;
        float own = fmaxf(running, z.peak[at]);
        running = fmaxf(own, z.peak[at + 1]);
        if (half) own = running;
        float s[4], v[4], w[4];
        for (int e = 0; e < 4; e++) s[e] = now[e] * inverse, v[e] = w[e] = exp_of(s[e] - own);
        write<4>(z.e[n % 2][half] + place, v);
        if (own != top && (masses || counted)) {
          for (int e = 0; e < 4; e++) w[e] = exp_of(s[e] - top);
          write<4>(z.last[n % 2][half] + place, w);
        }
        if (counted)
          for (int e = 0; e < 4; e++) total += units_of(w[e]);
        if (listed)
          for (int e = 0; e < 4; e++)
            if (!(s[e] < bar) && first_of(n) + e < vocabulary) {
              unsigned i = atomicAdd(&z.found, 1u);
              if (i < LIST) z.list[i] = Units(first_of(n) + e) << 32 | order(s[e]);
            }
        for (int e = 0; e < 4; e++) now[e] = next[e], next[e] = after[e];
      } else if (!maker && n > 0) {
        long at = (n - 1) * PAIR;
        if (adder) {
          for (int t = 0; t < PAIR; t++) {
            float peak = fmaxf(running, z.peak[at + t]);
            sum = sum * (running == peak ? 1.f : running == -INF ? 0.f : exp_of(running - peak));
            running = peak;
            const float* e = z.e[(n - 1) % 2][t] + lane;
#pragma unroll
            for (int i = 0; i < TILE; i += 16) sum = sum + e[i];
          }
        } else if (masses) {
          int t = int(threadIdx.x % 32) / 16;
          float own = fmaxf(running, z.peak[at]);
          running = fmaxf(own, z.peak[at + 1]);
          if (t) own = running;
          const float* e = (own == top ? z.e : z.last)[(n - 1) % 2][t] + lane;
          double mass = 0;
#pragma unroll
          for (int i = 0; i < TILE; i += 16) mass = mass + double(e[i]);
          mass = fold16(mass);
          if (lane == 0 && at + t < tiles()) z.mass[at + t] = mass;
        }
      }
      __syncthreads();
    }
    if (!maker && adder) {
      sum = fold16(sum);
      if (threadIdx.x == MAKERS) z.share[0] = sum;
    }
    __syncthreads();
    return top + log_of(z.share[0]);
  }

  // Puts what the second pass has found into the order of ids: tile by tile, then by how many of a tile come before.
  __device__ List sorted(Shared& z) const {
    unsigned n = z.found, at = 2 * threadIdx.x, all = unsigned(tiles());
    for (unsigned t = threadIdx.x; t < all; t += THREADS) z.end[t] = 0;
    __syncthreads();
    for (unsigned i = threadIdx.x; i < n; i += THREADS) atomicAdd(&z.end[z.list[i] >> 32 >> TILE_BITS], 1u);
    __syncthreads();
    // Where tiles begin; a thread has two.
    static_assert(2 * THREADS >= MOST_TILES, "a thread has two tiles");
    unsigned first = at < all ? z.end[at] : 0, second = at + 1 < all ? z.end[at + 1] : 0, to = running_sum(first + second);
    if (threadIdx.x % 32 == 31) z.part[threadIdx.x / 32] = to;
    __syncthreads();
    to -= first + second;
    for (unsigned w = 0; w < threadIdx.x / 32; w++) to += unsigned(z.part[w]);
    if (at < all) z.end[at] = to;
    if (at + 1 < all) z.end[at + 1] = to + first;
    __syncthreads();
    // Each place that is taken moves what began there towards its end.
    for (unsigned i = threadIdx.x; i < n; i += THREADS) z.unsorted[atomicAdd(&z.end[z.list[i] >> 32 >> TILE_BITS], 1u)] = z.list[i];
    __syncthreads();
    List list{z.list, z.end, long(n)};
    for (unsigned i = threadIdx.x; i < n; i += THREADS) {
      Units own = z.unsorted[i];
      long tile = long(own >> 32 >> TILE_BITS), begin = list.begin(tile), place = begin;
      for (long j = begin; j < list.begin(tile + 1); j++) place += z.unsorted[j] < own;
      z.list[place] = own;
    }
    __syncthreads();
    return list;
  }

  // Σ of every tile in sixteen double lanes and one tree. A half-warp takes a tile.
  template <class S>
  __device__ void find_masses(const S& from, const Kept& kept, Shared& z) const {
    long lane = threadIdx.x % 16;
    for (long base = 0; base < tiles(); base += THREADS / 16) {
      long tile = base + threadIdx.x / 16;
      double sum = 0;
      if (tile < tiles())
        for (long i = from.begin(tile, lane), end = from.begin(tile + 1); i < end; i += S::STEP)
          if (from.id(i) % 16 == lane) sum = sum + double(weight(from, kept, i));
      sum = fold16(sum);
      if (tile < tiles() && lane == 0) z.mass[tile] = sum;
    }
    __syncthreads();
  }

  template <class S>
  __device__ Units units(const S& from, const Kept& kept, Shared& z) const {
    Units own = 0;
    for (long i = threadIdx.x; i < from.count; i += THREADS) own += units_of(weight(from, kept, i));
    return block_units(own, z);
  }

  // Finds the key at which the weight of everything above it is below `reach` and that of everything not below it is not,
  // one byte at a time from the top. A token weighs 1, or its e in units.
  template <bool BY_MASS, class S>
  __device__ Cut cut(const S& from, const Kept& kept, double reach, int bytes, Shared& z) const {
    Cut c{0, 0, 0, 0};
    unsigned own = threadIdx.x;
    unsigned* bins = z.bins + own % COPIES * 768;
    for (int shift = 24; shift > 24 - 8 * bytes; shift -= 8) {
      unsigned tokens = 0;
      Units sum = 0;  // of bin `own`
      for (long base = 0; base < from.count; base += COPIES * LIST) {
        __syncthreads();
        for (unsigned i = own; i < COPIES * 768; i += THREADS) z.bins[i] = 0;
        __syncthreads();
        for (long i = base + own; i < smaller(base + COPIES * LIST, from.count); i += THREADS) {
          unsigned key = from.key(i), bin = key >> shift & 255;
          if (shift < 24 && (key >> (shift + 8)) != (c.key >> (shift + 8))) continue;
          if constexpr (BY_MASS) {
            float e = weight(from, kept, i);
            if (e == 0) continue;
            // 64 bits are not added in shared memory at once.
            atomicAdd(&bins[256 + bin], unsigned(units_of(e) & 0xfffff));
            atomicAdd(&bins[512 + bin], unsigned(units_of(e) >> 20));
          }
          atomicAdd(&bins[bin], 1u);
        }
        __syncthreads();
        for (unsigned i = own; i < COPIES * 768 && own < 256; i += 768) {
          tokens += z.bins[i];
          sum += z.bins[i + 256] + (Units(z.bins[i + 512]) << 20);
        }
      }
      if (own < 256) z.count[own] = tokens, z.weight[own] = BY_MASS ? sum : tokens;
      __syncthreads();
      if (own < 32) choose(c, reach, shift, z);
      __syncthreads();
      c = z.cut;
    }
    return c;
  }

  // The id of the n-th token (n ≥ 1) at a key.
  template <class S>
  __device__ long tie(const S& from, unsigned key, long n, Shared& z) const {
    for (long base = 0; base < from.count; base += THREADS) {
      long i = base + threadIdx.x;
      unsigned votes = __ballot_sync(ALL, i < from.count && from.key(i) == key);
      __syncthreads();
      if (threadIdx.x % 32 == 0) z.count[threadIdx.x / 32] = votes;
      __syncthreads();
      for (unsigned w = 0; w < WARPS; w++) {
        unsigned bits = z.count[w];
        long here = __popc(bits);
        if (n > here) {
          n -= here;
          continue;
        }
        for (; n > 1; n--) bits &= bits - 1;
        return from.id(base + 32 * w + __ffs(int(bits)) - 1);
      }
    }
    return vocabulary;
  }

  // `total`: the units of all tokens, for topP alone.
  template <class S>
  __device__ Kept filter(const S& from, long top_k, double top_p, Units total, Shared& z) const {
    Kept kept;
    if (top_k) {
      Cut c = cut<false>(from, kept, double(top_k), 4, z);
      kept = {c.key, tie(from, c.key, top_k - long(c.above), z), false};
    }
    if (top_p < 1) {
      double reach = top_p * double(top_k ? units(from, kept, z) : total);
      Cut c = cut<true>(from, kept, reach, 4, z);
      double above = double(c.above), each = double(c.at) / double(larger(1, c.tokens));
      long most = c.tokens, ties = 1;
      while (ties < most && above + double(ties) * each < reach) ties++;
      kept = {c.key, tie(from, c.key, ties, z), false};
    }
    return kept;
  }

  // The inverse of the cumulative distribution in the order of ids; the mass of every tile is known.
  template <class S>
  __device__ long draw(const S& from, const Kept& kept, double u, Shared& z) const {
    double all = 0, before = 0;
    for (long t = 0; t < tiles(); t++) all = all + z.mass[t];
    double target = u * all;
    long tile = -1, last = 0;
    for (long t = 0; t < tiles() && tile < 0; t++) {
      double in = z.mass[t];
      if (in > 0) last = t;
      if (in > 0 && before + in > target) tile = t;
      else before = before + in;
    }
    // If rounding leaves the target beyond the last tile, the last token that was kept is the one.
    long v0 = from.begin(tile < 0 ? last : tile), n = from.begin((tile < 0 ? last : tile) + 1) - v0;
    float* e = z.e[0][0];
    for (long i = threadIdx.x; i < n; i += THREADS) e[i] = weight(from, kept, v0 + i);
    __syncthreads();
    if (threadIdx.x == 0) {
      long token = n - 1, i = 0;
      while (token > 0 && e[token] == 0) token--;
      double sum = before;
      // Zeros change nothing: sixteen at a time, until the target is among them.
      for (; tile >= 0 && i + 16 <= n; i += 16) {
        double next = sum;
#pragma unroll
        for (int j = 0; j < 16; j++) next = next + double(e[i + j]);
        if (next > target) break;
        sum = next;
      }
      for (; tile >= 0 && i < n; i++) {
        sum = sum + double(e[i]);
        if (sum > target) {
          token = i;
          break;
        }
      }
      z.token = n > 0 ? from.id(v0 + token) : 0;
    }
    __syncthreads();
    return z.token;
  }

  // Lists the kept ids in `ids`, −1 behind the last of at most `width`, and returns the log-sum-exp over them.
  template <class S>
  __device__ float list(const S& from, const Kept& kept, int* ids, long width, Shared& z) const {
    constexpr long EACH = 8;
    float* s = z.e[0][0];
    long n = 0;
    for (long base = 0; base < from.count && n < width; base += THREADS * EACH) {
      // A thread has neighbours, and goes behind those of all threads before it.
      long begin = base + threadIdx.x * EACH, end = smaller(from.count, begin + EACH);
      unsigned own = 0;
      for (long i = begin; i < end; i++) own += weight(from, kept, i) != 0;
      unsigned to = running_sum(own);
      __syncthreads();
      if (threadIdx.x % 32 == 31) z.part[threadIdx.x / 32] = to;
      __syncthreads();
      long at = n + to - own;
      for (unsigned w = 0; w < WARPS; w++) {
        if (w < threadIdx.x / 32) at += long(z.part[w]);
        n += long(z.part[w]);
      }
      for (long i = begin; i < end && at < width; i++)
        if (weight(from, kept, i) != 0) s[at] = logits[from.id(i)], ids[at++] = int(from.id(i));
    }
    n = smaller(n, width);
    for (long j = n + threadIdx.x; j < width; j += THREADS) ids[j] = -1;
    __syncthreads();
    RowSoftmax state;
    absorb(state, s, nullptr, 0, n, inverse, z.share);
    __syncthreads();
    if (threadIdx.x < 32) {
      float sum = lanes_total(state.sum);
      if (threadIdx.x == 0) z.share[0] = sum;
    }
    __syncthreads();
    return state.top + log_of(z.share[0]);
  }

  // First id of the largest score.
  __device__ long largest(Shared& z) const {
    for (long t = threadIdx.x; t < tiles(); t += THREADS)
      if (z.peak[t] == top) atomicMin(&z.first[0], int(t));
    __syncthreads();
    long v0 = z.first[0] * TILE;
    for (long j = v0 + threadIdx.x; j < smaller(v0 + TILE, vocabulary); j += THREADS)
      if (logits[j] * inverse == top) atomicMin(&z.first[1], int(j));
    __syncthreads();
    return z.first[1];
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

__global__ void __launch_bounds__(THREADS, 2) sample_kernel(Reporter r, const float* logits, State a, bool wide) {
  DYNAMIC_SHARED(Shared, shared);
  Shared& z = *shared;
  long i = blockIdx.x, slot = a.slots[i];
  if (r.faulty() && r.fault->what == INDEX) return;
  if (slot < 0 || slot >= a.limit || a.finished[slot]) return;
  long at = a.count[slot];
  if (at < 0 || at >= a.max_new) {
    if (threadIdx.x == 0) r.report(NO_ROOM, 0, slot, at, a.max_new);
    return;
  }
  bool greedy = a.temperature == 0;
  Row row{logits + i * a.vocabulary, a.vocabulary, greedy ? 1.f : float(1 / a.temperature), 0, wide};
  long top_k = !greedy && a.top_k < a.vocabulary ? a.top_k : 0;
  double top_p = greedy ? 1 : a.top_p;
  bool filtered = top_k || top_p < 1;
  row.find_peaks(filtered, z);
  float bar = filtered ? row.bar(top_k ? top_k : smaller(NUCLEUS, row.tiles() * 16), z) : 0.f;
  Units total = 0;
  __syncthreads();
  float lse = row.walk(!greedy && !filtered, filtered, filtered && !top_k, bar, total, z);
  if (!(fabsf(lse) < INF)) {
    if (threadIdx.x == 0) r.report(NOT_FINITE, 0, slot, 0);
    return;
  }
  const int* words = a.sampler + slot * SAMPLER_COLUMNS;
  long drawn = 0;
  auto draw = [&](const auto& from, const Kept& kept) {
    if (filtered) row.find_masses(from, kept, z);
    double u = uniform(unsigned(words[KEY_LOW]), unsigned(words[KEY_HIGH]), unsigned(words[INDEX_WORD]),
                       unsigned(words[SAMPLE_WORD]), unsigned(at), 0);
    drawn = row.draw(from, kept, u, z);
    if (a.out_kept) lse = row.list(from, kept, a.out_kept + (slot * a.max_new + at) * a.top_k, a.top_k, z);
  };
  if (greedy) {
    drawn = row.largest(z);
  } else if (!filtered) {
    draw(row.all(), Kept{});
  } else {
    if (!top_k) total = block_units(total, z);
    bool enough = z.found <= LIST;
    if (enough) {
      List list = row.sorted(z);
      enough = top_k || list.count == a.vocabulary || double(row.units(list, Kept{}, z)) >= top_p * double(total);
      if (enough) draw(list, row.filter(list, top_k, top_p, total, z));
    }
    if (!enough) draw(row.all(), row.filter(row.all(), top_k, top_p, total, z));
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
  launch(c, sample_kernel, dim3(unsigned(rows)), THREADS, sizeof(Shared), reporter(c), floats(c, 0), a,
         a.vocabulary % 4 == 0 && aligned(floats(c, 0)));
}

}  // namespace

void sample(Call& c) { draw_tokens(c, 0); }
void sample_kept(Call& c) { draw_tokens(c, size(c, 3)); }

}  // namespace baton

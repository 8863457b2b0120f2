// Rotary position embedding (Su et al. 2021), halves rotated against each other: of one tensor, of queries and keys together, and of
// keys on their way into the cache.
#include "packs.cuh"
#include "paged.cuh"

namespace baton {
namespace {

constexpr int THREADS = 128;

// Heads of queries and keys, rotated; after a norm of every head where there are weights for it.
template <class T>
struct Rotation {
  const T *q, *k;
  const int* positions;
  const float* table;
  T *qr, *kr;  // kr may be null where keys go into the cache
  long heads, kv, d, limit;
  float direction;
  const T *qw, *kw;
  float *qrstd, *krstd;  // may be null
  float eps;
};

// Where keys and values go.
template <class T>
struct Into {
  Cache<T> cache;
  const T* v;
  const int *slots, *finished;
  long limit;
};

// LANES threads take a head, PER neighbours of each half at a time. With PER = 1 and LANES = 16 its squares are summed as on the CPU.
template <class T, int PER, int LANES, bool NORM, bool WRITE>
__global__ void __launch_bounds__(THREADS) rotate_kernel(Reporter r, Rotation<T> z, Into<T> to) {
  long i = blockIdx.x, n = long(blockIdx.y) * (THREADS / LANES) + threadIdx.x / LANES, d = z.d, half = d / 2;
  int lane = int(threadIdx.x % LANES), position = z.positions[i];
  if (position < 0 || position >= z.limit) {
    if (threadIdx.x == 0) r.inside(POSITION, i, position, z.limit);
    return;
  }
  long page = -1, row = position % PAGE;
  if (WRITE) {
    int slot = to.slots[i];
    if (slot < 0 || slot >= to.limit) {
      if (threadIdx.x == 0) r.inside(SLOT, i, slot, to.limit);
      return;
    }
    if (!to.finished[slot]) {
      page = to.cache.page(slot, position);
      if (page < 0) {
        if (threadIdx.x == 0) r.report(NO_PAGE, 0, slot, position);
        return;
      }
    }
  }
  bool query = n < z.heads, key = !query && n < z.heads + z.kv, value = WRITE && !query && !key && n < z.heads + 2 * z.kv;
  if (value && page >= 0) {
    const T* from = to.v + (i * z.kv + n - z.heads - z.kv) * d;
    T* out = to.cache.values(page, n - z.heads - z.kv) + row * d;
    for (long j = lane * PER; j < d; j += LANES * PER) *pack_at<PER>(out + j) = *pack_at<PER>(from + j);
  }
  long head = query ? i * z.heads + n : i * z.kv + n - z.heads;
  const T *x = (query ? z.q : z.k) + head * d, *w = query ? z.qw : z.kw;
  const float *cosine = z.table + position * d, *sine = cosine + half;
  // What comes next is on its way while a head waits for its sum.
  long j = query || key ? lane * PER : half;
  float u[PER], v[PER], k[PER], s[PER], a[PER], b[PER];
  auto bring = [&] {
    if (j >= half) return;
    read<PER>(x + j, u), read<PER>(x + half + j, v), read<PER>(cosine + j, k), read<PER>(sine + j, s);
    if (NORM) read<PER>(w + j, a), read<PER>(w + half + j, b);
  };
  bring();
  float scale = 0;
  if (NORM) {
    float squares = 0;
    if (query || key)
      for (long at = lane * PER; at < d; at += LANES * PER) {
        float of[PER];
        read<PER>(x + at, of);
#pragma unroll
        for (int e = 0; e < PER; e++) squares = fmaf(of[e], of[e], squares);
      }
    scale = 1.f / sqrtf(sum_of<LANES>(squares, nullptr) / float(d) + z.eps);
    float* rstd = query ? z.qrstd : z.krstd;
    if (lane == 0 && (query || key) && rstd) rstd[head] = scale;
  }
  if (!query && !key) return;
  T* y = query ? z.qr + head * d : z.kr ? z.kr + head * d : nullptr;
  T* keys = WRITE && key && page >= 0 ? to.cache.keys(page, n - z.heads) + row : nullptr;
  for (; j < half; j += LANES * PER, bring()) {
    if (NORM) {
#pragma unroll
      for (int e = 0; e < PER; e++) {
        u[e] = number(stored<T>(u[e] * scale * a[e]));
        v[e] = number(stored<T>(v[e] * scale * b[e]));
      }
    }
#pragma unroll
    for (int e = 0; e < PER; e++) {
      float t = s[e] * z.direction, first = u[e] * k[e] - v[e] * t, second = v[e] * k[e] + u[e] * t;
      u[e] = first, v[e] = second;
    }
    if (y) write<PER>(y + j, u), write<PER>(y + half + j, v);
    if (keys)
#pragma unroll
      for (int e = 0; e < PER; e++) {
        keys[PAGE * (j + e)] = stored<T>(u[e]);
        keys[PAGE * (half + j + e)] = stored<T>(v[e]);
      }
  }
}

template <class T, bool NORM, bool WRITE>
void rotate(Call& c, long t, Rotation<T> z, Into<T> to) {
  constexpr int PER = WIDE<T>;
  long heads = z.heads + z.kv * (WRITE ? 2 : 1);
  bool wide = z.d % (2 * PER) == 0 && aligned(z.q, z.k, z.table, z.qr, z.kr, z.qw, z.kw, to.v, to.cache.base);
  auto run = [&](auto kernel, int lanes) {
    launch(c, kernel, dim3(unsigned(t), unsigned(parts(heads, THREADS / lanes))), THREADS, 0, reporter(c), z, to);
  };
  if constexpr (NORM) {
    // Sums of squares in the order of norm.cu.
    wide = wide && on_tensor_cores(sizeof(T) == 2) && z.d <= 32 * PER;
    if (wide && z.d <= 16 * PER) run(rotate_kernel<T, PER, 16, NORM, WRITE>, 16);
    else if (wide) run(rotate_kernel<T, PER, 32, NORM, WRITE>, 32);
    else run(rotate_kernel<T, 1, 16, NORM, WRITE>, 16);
  } else {
    if (wide) run(rotate_kernel<T, PER, 8, NORM, WRITE>, 8);
    else run(rotate_kernel<T, 1, 16, NORM, WRITE>, 16);
  }
}

template <class T>
Into<T> nowhere() {
  return {Cache<T>(nullptr, 0, 0, 0, 0, nullptr, 0, 0), nullptr, nullptr, nullptr, 0};
}

}  // namespace

void rope(Call& c) {
  long d = size(c, 2);
  by_type(c, 0, [&](auto type) {
    typedef decltype(type) T;
    rotate<T, false, false>(c, size(c, 0),
                            {at<T>(c, 0), nullptr, ints(c, 1), floats(c, 2), at<T>(c, 3), nullptr, size(c, 1), 0, d, elements(c, 2) / d,
                             real(c, 3), nullptr, nullptr, nullptr, nullptr, 0},
                            nowhere<T>());
  });
}

void ropes(Call& c) {
  long d = size(c, 3);
  bool normed = size(c, 6) == 1;
  by_type(c, 0, [&](auto type) {
    typedef decltype(type) T;
    Rotation<T> z{at<T>(c, 0), at<T>(c, 1), ints(c, 2), floats(c, 3), at<T>(c, normed ? 6 : 4), at<T>(c, normed ? 7 : 5), size(c, 1),
                  size(c, 2), d, elements(c, 3) / d, real(c, 4), nullptr, nullptr, nullptr, nullptr, real(c, 5)};
    if (normed) z.qw = at<T>(c, 4), z.kw = at<T>(c, 5), z.qrstd = floats(c, 8), z.krstd = floats(c, 9);
    if (normed) rotate<T, true, false>(c, size(c, 0), z, nowhere<T>());
    else rotate<T, false, false>(c, size(c, 0), z, nowhere<T>());
  });
}

void rope_kv_write(Call& c) {
  long kv = size(c, 2), d = size(c, 3);
  bool normed = size(c, 8) == 1, keep = size(c, 9) == 1;
  by_type(c, 0, [&](auto type) {
    typedef decltype(type) T;
    int out = normed ? 10 : 8;
    Rotation<T> z{at<T>(c, 0), at<T>(c, 1), ints(c, 3), floats(c, 4), at<T>(c, out), keep ? at<T>(c, out + 1) : nullptr, size(c, 1),
                  kv, d, elements(c, 4) / d, 1.f, nullptr, nullptr, nullptr, nullptr, real(c, 7)};
    if (normed) z.qw = at<T>(c, 8), z.kw = at<T>(c, 9);
    Cache<T> cache(at<T>(c, c.operands - 1), kv, d, size(c, 4), size(c, 5), ints(c, 6), elements(c, 6), size(c, 6));
    Into<T> to{cache, at<T>(c, 2), ints(c, 5), ints(c, 7), smaller(cache.slots, elements(c, 7))};
    if (normed) rotate<T, true, true>(c, size(c, 0), z, to);
    else rotate<T, false, true>(c, size(c, 0), z, to);
  });
}

}  // namespace baton

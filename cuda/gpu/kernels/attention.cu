// Causal attention over packed sequences with grouped heads, in fp32 and in the order of the CPU backend: keys in blocks of
// 256 from the start of a sequence. A block of threads takes one row of one head.
#include "attention.cuh"
#include "softmax.cuh"

namespace baton {
namespace {

constexpr int THREADS = 128, KEYS = 256;
constexpr int COLUMNS = MAX_HEAD_DIM / THREADS;  // of an output row, for each thread

typedef AttentionShapes Shapes;
typedef SequencePlace Place;

template <class A, class B>
__device__ float chain_dot(const A* a, const B* b, long d) {
  float s = 0;
  for (long e = 0; e < d; e++) s = fmaf(number(a[e]), number(b[e]), s);
  return s;
}

template <class T>
__device__ void load_row(float* to, const T* from, long d) {
  for (long e = threadIdx.x; e < d; e += THREADS) to[e] = number(from[e]);
}

template <class T>
__global__ void __launch_bounds__(THREADS)
    attention_kernel(Reporter r, Shapes z, const T* q, const T* k, const T* v, const int* ends, T* o, float* lse) {
  __shared__ float row[MAX_HEAD_DIM], s[KEYS], share[32];
  if (r.faulty()) return;
  long token = blockIdx.x, head = blockIdx.y, kv = z.kv_head(head);
  Place at(z, ends, token);
  long i = token - at.begin, first = z.window ? larger(0, i - z.window + 1) : 0;
  load_row(row, q + z.query(token, head), z.d);
  __syncthreads();
  RowSoftmax state;
  float sum[COLUMNS] = {};
  for (long base = first / KEYS * KEYS; base <= i; base += KEYS) {
    long from = larger(0, first - base), to = smaller(KEYS, i + 1 - base);
    for (long j = from + threadIdx.x; j < to; j += THREADS) s[j] = chain_dot(row, k + z.key(at.begin + base + j, kv), z.d);
    float shrink = absorb(state, s, nullptr, from, to, z.scale, share);
    for (int c = 0; c < COLUMNS; c++) {
      long e = threadIdx.x + long(c) * THREADS;
      if (e >= z.d) break;
      sum[c] = sum[c] * shrink;
      for (long j = from; j < to; j++) sum[c] = fmaf(s[j], number(v[z.key(at.begin + base + j, kv) + e]), sum[c]);
    }
    __syncthreads();
  }
  if (threadIdx.x < 32) {
    float all = lanes_total(state.sum);
    if (threadIdx.x == 0) share[0] = all;
  }
  __syncthreads();
  float all = share[0];
  for (int c = 0; c < COLUMNS; c++) {
    long e = threadIdx.x + long(c) * THREADS;
    if (e < z.d) o[z.query(token, head) + e] = stored<T>(sum[c] / all);
  }
  if (threadIdx.x == 0) lse[token * z.heads + head] = state.top + log_of(all);
}

// ---- backward ----------------------------------------------------------------------------------------------------

// Σ dO·o of every row and head.
template <class T>
__global__ void delta_kernel(const T* dO, const T* o, float* delta, long rows, long d) {
  long row = long(blockIdx.x) * (THREADS / 16) + threadIdx.x / 16;
  float s = fold16(row < rows ? lane_dot(dO + row * d, o + row * d, d, int(threadIdx.x % 16)) : 0.f);
  if (row < rows && threadIdx.x % 16 == 0) delta[row] = s;
}

// p = exp(scale · q·k − lse) and ds = p · (dO·v − dO·o) · scale
struct Weights {
  float p, ds;
  template <class Q, class K>
  __device__ Weights(const Shapes& z, const Q* query, const Q* grad, const K* key, const K* value, float lse, float delta) {
    p = exp_of(chain_dot(query, key, z.d) * z.scale - lse);
    ds = p * (chain_dot(grad, value, z.d) - delta) * z.scale;
  }
};

template <class T>
__global__ void __launch_bounds__(THREADS)
    attention_dq_kernel(Reporter r, Shapes z, AttentionGradient<T> g, const int* ends, T* dq) {
  __shared__ float query[MAX_HEAD_DIM], grad[MAX_HEAD_DIM], ds[THREADS];
  if (r.faulty()) return;
  long token = blockIdx.x, head = blockIdx.y, kv = z.kv_head(head);
  Place at(z, ends, token);
  long i = token - at.begin, first = z.window ? larger(0, i - z.window + 1) : 0;
  load_row(query, g.q + z.query(token, head), z.d);
  load_row(grad, g.dO + z.query(token, head), z.d);
  float lse = g.lse[token * z.heads + head], delta = g.delta[token * z.heads + head];
  float sum[COLUMNS] = {};
  for (long base = first; base <= i; base += THREADS) {
    __syncthreads();
    long j = base + threadIdx.x, key = z.key(at.begin + j, kv);
    if (j <= i) ds[threadIdx.x] = Weights(z, query, grad, g.k + key, g.v + key, lse, delta).ds;
    __syncthreads();
    for (int c = 0; c < COLUMNS; c++) {
      long e = threadIdx.x + long(c) * THREADS;
      if (e >= z.d) break;
      for (long n = 0; n < smaller(THREADS, i + 1 - base); n++)
        sum[c] = fmaf(ds[n], number(g.k[z.key(at.begin + base + n, kv) + e]), sum[c]);
    }
  }
  for (int c = 0; c < COLUMNS; c++) {
    long e = threadIdx.x + long(c) * THREADS;
    if (e < z.d) dq[z.query(token, head) + e] = stored<T>(sum[c]);
  }
}

// A block takes one key; the heads of its group, then the rows that see it, in order.
template <class T>
__global__ void __launch_bounds__(THREADS)
    attention_dkv_kernel(Reporter r, Shapes z, AttentionGradient<T> g, const int* ends, T* dk, T* dv) {
  __shared__ float key[MAX_HEAD_DIM], value[MAX_HEAD_DIM], p[THREADS], ds[THREADS];
  if (r.faulty()) return;
  long token = blockIdx.x, kv = blockIdx.y, group = z.heads / z.kv;
  Place at(z, ends, token);
  long last = z.window ? smaller(at.end, token + z.window) : at.end;
  load_row(key, g.k + z.key(token, kv), z.d);
  load_row(value, g.v + z.key(token, kv), z.d);
  float sum_k[COLUMNS] = {}, sum_v[COLUMNS] = {};
  for (long head = kv * group; head < (kv + 1) * group; head++)
    for (long base = token; base < last; base += THREADS) {
      __syncthreads();
      long i = base + threadIdx.x, query = z.query(i, head);
      if (i < last) {
        Weights w(z, g.q + query, g.dO + query, key, value, g.lse[i * z.heads + head], g.delta[i * z.heads + head]);
        p[threadIdx.x] = w.p, ds[threadIdx.x] = w.ds;
      }
      __syncthreads();
      for (int c = 0; c < COLUMNS; c++) {
        long e = threadIdx.x + long(c) * THREADS;
        if (e >= z.d) break;
        for (long n = 0; n < smaller(THREADS, last - base); n++) {
          long row = z.query(base + n, head) + e;
          sum_k[c] = fmaf(ds[n], number(g.q[row]), sum_k[c]);
          sum_v[c] = fmaf(p[n], number(g.dO[row]), sum_v[c]);
        }
      }
    }
  for (int c = 0; c < COLUMNS; c++) {
    long e = threadIdx.x + long(c) * THREADS;
    if (e < z.d) dk[z.key(token, kv) + e] = stored<T>(sum_k[c]), dv[z.key(token, kv) + e] = stored<T>(sum_v[c]);
  }
}

}  // namespace

void attention(Call& c) {
  Shapes z(c);
  check_ends(c, ints(c, 3), z.sequences, z.tokens);
  by_type(c, 0, [&](auto type) {
    typedef decltype(type) T;
    const T *q = at<T>(c, 0), *k = at<T>(c, 1), *v = at<T>(c, 2);
    T* o = at<T>(c, 4);
    bool fast = on_tensor_cores(is_half(c, 0));
    if constexpr (sizeof(T) == 2)
      if (fast && flash_attention(c, z, q, k, v, ints(c, 3), o, floats(c, 5))) return;
    if (fast && attention_bf16<T>(c, z, q, k, v, ints(c, 3), o, floats(c, 5))) return;
    launch(c, attention_kernel<T>, dim3(unsigned(z.tokens), unsigned(z.heads)), THREADS, 0, reporter(c), z, q, k, v, ints(c, 3), o,
           floats(c, 5));
  });
}

void attention_grad(Call& c) {
  Shapes z(c);
  long rows = z.tokens * z.heads;
  if (uint64_t(rows) * 4 > SCRATCH_BYTES) {
    fail(c, "%ld tokens of %ld heads are more than the scratch holds, use smaller micro-batches", z.tokens, z.heads);
    return;
  }
  float* delta = reinterpret_cast<float*>(c.scratch);
  check_ends(c, ints(c, 6), z.sequences, z.tokens);
  by_type(c, 0, [&](auto type) {
    typedef decltype(type) T;
    AttentionGradient<T> g{at<T>(c, 0), at<T>(c, 1), at<T>(c, 2), at<T>(c, 3), floats(c, 5), delta};
    T *dq = at<T>(c, 7), *dk = at<T>(c, 8), *dv = at<T>(c, 9);
    launch(c, delta_kernel<T>, dim3(unsigned(parts(rows, THREADS / 16))), THREADS, 0, g.dO, at<T>(c, 4), delta, rows, z.d);
    bool fast = on_tensor_cores(is_half(c, 0));
    if constexpr (sizeof(T) == 2)
      if (fast && flash_attention_grad(c, z, g, ints(c, 6), dq, dk, dv)) return;
    if (fast && attention_grad_bf16<T>(c, z, g, ints(c, 6), dq, dk, dv)) return;
    launch(c, attention_dq_kernel<T>, dim3(unsigned(z.tokens), unsigned(z.heads)), THREADS, 0, reporter(c), z, g, ints(c, 6), dq);
    launch(c, attention_dkv_kernel<T>, dim3(unsigned(z.tokens), unsigned(z.kv)), THREADS, 0, reporter(c), z, g, ints(c, 6), dk, dv);
  });
}

}  // namespace baton

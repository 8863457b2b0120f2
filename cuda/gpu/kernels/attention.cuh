// Attention over packed sequences: its sizes, and where a token's sequence lies.
#pragma once
#include "kernel.cuh"

namespace baton {

struct AttentionShapes {
  long tokens, sequences, heads, kv, d, window;
  float scale;
  explicit AttentionShapes(const Call& c)
      : tokens(size(c, 0)), sequences(size(c, 1)), heads(size(c, 2)), kv(size(c, 3)), d(size(c, 4)), window(size(c, 5)),
        scale(real(c, 6)) {}
  __device__ long query(long token, long head) const { return (token * heads + head) * d; }
  __device__ long key(long token, long head) const { return (token * kv + head) * d; }
  __device__ long kv_head(long head) const { return head / (heads / kv); }
};

// The sequence that holds a token: the first whose end is past it.
struct SequencePlace {
  long begin, end;
  __device__ SequencePlace(const AttentionShapes& z, const int* ends, long token) {
    long low = 0, high = z.sequences;
    while (low < high) {
      long middle = (low + high) / 2;
      if (ends[middle] > token) high = middle;
      else low = middle + 1;
    }
    begin = low ? ends[low - 1] : 0, end = ends[low];
  }
};

template <class T>
struct AttentionGradient {
  const T *dO, *q, *k, *v;
  const float *lse, *delta;  // delta = Σ dO·o of every row and head
};

// On tensor cores; T is what lies in memory. False when the head size is none that the kernels were made for.
template <class T>
bool attention_bf16(Call& c, const AttentionShapes& z, const T* q, const T* k, const T* v, const int* ends, T* o, float* lse);
template <class T>
bool attention_grad_bf16(Call& c, const AttentionShapes& z, const AttentionGradient<T>& g, const int* ends, T* dq, T* dk, T* dv);

// The fast ones, of bf16 in memory; false for head sizes above 128, for rows that are not in pieces of 16 bytes, and where a block has too
// little shared memory.
bool flash_attention(Call& c, const AttentionShapes& z, const bf16* q, const bf16* k, const bf16* v, const int* ends, bf16* o, float* lse);
bool flash_attention_grad(Call& c, const AttentionShapes& z, const AttentionGradient<bf16>& x, const int* ends, bf16* dq, bf16* dk,
                          bf16* dv);

}  // namespace baton

// Partial results of attention over spans of keys (spans_attention.cu, shared_spans.cu).
#pragma once
#include "paged.cuh"

namespace baton {

constexpr int SPAN = 256;

// What a span comes to for one row and head: the largest score, Σ e, and Σ e·v of every column.
struct Parts {
  float* base;
  long heads, spans, d;
  __device__ float* at(long row, long head, long span) const { return base + ((row * heads + head) * spans + span) * (d + 2); }
  long bytes_of_row() const { return heads * spans * (d + 2) * 4; }
};

// The spans of rows in bf16 on tensor cores, pages that rows share read once; false for sizes that it does not take.
bool shared_spans(Call& c, const Cache<bf16>& cache, const bf16* q, const int* slots, const int* positions, long rows, Parts z, long window,
                  float scale);

}  // namespace baton

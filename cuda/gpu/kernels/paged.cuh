// The key-value cache: page p of a layer holds K of 16 tokens as [kv][D][16] and V as [kv][16][D].
#pragma once
#include "kernel.cuh"

namespace baton {

constexpr long PAGE = 16;

__host__ __device__ inline long page_size(long kv, long d) { return 2 * kv * d * PAGE; }

template <class T>
struct Cache {
  T* base;  // of a layer
  long kv, d, pages;
  const int* table;
  long slots, max_pages;

  Cache(T* memory, long kv, long d, long layer, long pages, const int* table, long table_elements, long max_pages)
      : base(memory + layer * pages * page_size(kv, d)), kv(kv), d(d), pages(pages), table(table),
        slots(max_pages ? table_elements / max_pages : 0), max_pages(max_pages) {}
  // Page that holds a token of a slot, or −1.
  __device__ long page(long slot, long position) const {
    if (position < 0 || position >= max_pages * PAGE) return -1;
    long p = table[slot * max_pages + position / PAGE];
    return p >= 0 && p < pages ? p : -1;
  }
  __device__ T* keys(long page, long head) const { return base + page * page_size(kv, d) + head * d * PAGE; }
  __device__ T* values(long page, long head) const { return keys(page, head) + kv * d * PAGE; }
};

// Attention of few rows over many keys, spans of keys side by side; false for head sizes that it does not take.
template <class T>
bool spans_attention(Call& c, const Cache<T>& cache);

}  // namespace baton

// The key-value cache: page p of a layer holds K of 16 tokens as [kv][D][16] and V as [kv][16][D], so a page of keys is a panel
// and a page of values is 16 rows.
#pragma once
#include "kernel.h"

namespace baton {
namespace BATON_ISA {

constexpr long PAGE = 16;

struct Cache {
  float* base;  // of a layer
  long kv, d, pages;
  const int32_t* table;
  long slots, max_pages;

  Cache(float* kv_memory, long kv, long d, long layer, long pages, const int32_t* table, long table_elements, long max_pages)
      : base(kv_memory + layer * pages * page_size(kv, d)), kv(kv), d(d), pages(pages), table(table),
        slots(max_pages ? table_elements / max_pages : 0), max_pages(max_pages) {}
  static long page_size(long kv, long d) { return 2 * kv * d * PAGE; }
  // Page that holds a token of a slot, or −1.
  long page(long slot, long position) const {
    if (position < 0 || position >= max_pages * PAGE) return -1;
    long p = table[slot * max_pages + position / PAGE];
    return p >= 0 && p < pages ? p : -1;
  }
  float* keys(long page, long head) const { return base + page * page_size(kv, d) + head * d * PAGE; }
  float* values(long page, long head) const { return keys(page, head) + kv * d * PAGE; }
  // Key and value of a head of the token in `lane`.
  void put(long page, long lane, long head, const float* k, const float* v) const {
    // Every element of a key has its own cache line; all are asked for before the first is needed.
    float* to = keys(page, head) + lane;
    for (long j = 0; j < d; j++) __builtin_prefetch(to + PAGE * j, 1);
    for (long j = 0; j < d; j++) to[PAGE * j] = k[j];
    memcpy(values(page, head) + lane * d, v, size_t(d) * 4);
  }
};

// Whether every token of a slot that has not finished has a page; `known` slots are known to have finished or not.
inline bool check_places(Call& c, const Cache& cache, const int32_t* slots, const int32_t* positions, const int32_t* finished, long t,
                         long known) {
  if (!check_indexes(c, "slot", slots, t, smaller(cache.slots, known))) return false;
  for (long i = 0; i < t; i++)
    if (!finished[slots[i]] && cache.page(slots[i], positions[i]) < 0)
      return fail(c, "slot %d has no page for position %d", slots[i], positions[i]);
  return true;
}

}  // namespace BATON_ISA
}  // namespace baton

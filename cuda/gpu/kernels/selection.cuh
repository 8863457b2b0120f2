// What sampling selects tokens by, and from: integers in the order of scores, and the tokens of a row or of a list.
#pragma once
#include "softmax.cuh"

namespace baton {

typedef unsigned long long Units;

// Integers in the order of the numbers; −0 and 0 are one number.
__device__ inline unsigned order(float s) {
  s = s + 0.f;
  unsigned bits = unsigned(__float_as_int(s));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float number_of(unsigned key) { return __int_as_float(int(key & 0x80000000u ? key ^ 0x80000000u : ~key)); }

__device__ inline Units units_of(float e) { return Units(e * 1099511627776.f); }

// What is kept: everything above `key`, and the tokens at it up to the id `last`.
struct Kept {
  unsigned key = 0;
  long last = 0;
  bool all = true;
  __device__ bool keeps(unsigned k, long id) const { return all || k > key || (k == key && id <= last); }
};

// A key, the weight of all tokens above it and of those at it, and how many these are.
struct Cut {
  unsigned key, tokens;
  Units above, at;
};

// ---- where tokens come from: the row, or a list of some of its tokens; both in the order of ids ----------------------

struct All {
  static constexpr long STEP = 16;
  const float* logits;
  float inverse;
  long count;
  __device__ long id(long i) const { return i; }
  __device__ float score(long i) const { return logits[i] * inverse; }
  __device__ unsigned key(long i) const { return order(score(i)); }
  // Where a tile begins, and where a lane of sixteen does in it.
  __device__ long begin(long tile) const { return smaller(count, tile * TILE); }
  __device__ long begin(long tile, long lane) const { return tile * TILE + lane; }
};
struct List {
  static constexpr long STEP = 1;
  const Units* item;   // id and key
  const unsigned* end;  // of every tile
  long count;
  __device__ long id(long i) const { return long(item[i] >> 32); }
  __device__ float score(long i) const { return number_of(key(i)); }
  __device__ unsigned key(long i) const { return unsigned(item[i]); }
  __device__ long begin(long tile) const { return tile ? end[tile - 1] : 0; }
  __device__ long begin(long tile, long) const { return begin(tile); }
};
struct Groups {
  const unsigned* group;
  long count;
  __device__ unsigned key(long i) const { return group[i]; }
};

}  // namespace baton

// Rotary position embedding (Su et al. 2021), halves rotated against each other: of one tensor, of queries and keys together, and of
// keys on their way into the cache.
#include "../../common/opcodes.h"
#include "paged.h"

namespace baton {
namespace BATON_ISA {
namespace {

// Cosines and sines of every position.
struct Angles {
  const float* table;
  long d;
  float direction;
  // One head of a token; o may be a.
  void rotate(int32_t position, const float* a, float* o) const {
    long half = d / 2;
    const float *cosine = table + position * d, *sine = cosine + half;
    by_lanes(0, half, [&](long j, long live) {
      v16 u = load_live(a + j, live), v = load_live(a + half + j, live);
      v16 k = load_live(cosine + j, live), s = load_live(sine + j, live) * all(direction);
      store_live(o + j, u * k - v * s, live);
      store_live(o + half + j, v * k + u * s, live);
    });
  }
};

// The norm before the rotation, with one weight for all heads; none where w is null.
struct HeadNorm {
  const float* w;
  float* rstd;  // by row and head, or null
  float eps;
  // What to rotate: a, or its norm in `room`.
  const float* operator()(const Call& c, long head, const float* a, long d, float* room) const {
    if (!w) return a;
    float r = 1.f / __builtin_sqrtf(dot(a, a, d) / float(d) + eps);
    if (rstd) rstd[head] = r;
    for (long j = 0; j < d; j++) room[j] = a[j] * r * w[j];
    round_stored(c, room, d);
    return room;
  }
};

bool check_positions(Call& c, int operand, int table, long t, long d) {
  return check_indexes(c, "position", ints(c, operand), t, elements(c, table) / d);
}

}  // namespace

void rope(Call& c) {
  long t = size(c, 0), heads = size(c, 1), d = size(c, 2);
  Angles angles{floats(c, 2), d, real(c, 3)};
  const float* x = floats(c, 0);
  const int32_t* positions = ints(c, 1);
  float* y = floats(c, 3);
  if (!check_positions(c, 1, 2, t, d)) return;
  split(*c.pool, t, rows_of(heads * d), [&](long begin, long end) {
    for (long n = begin * heads; n < end * heads; n++) angles.rotate(positions[n / heads], x + n * d, y + n * d);
  });
}

void ropes(Call& c) {
  long t = size(c, 0), heads[2] = {size(c, 1), size(c, 2)}, d = size(c, 3);
  bool normed = size(c, 6) == 1;
  Angles angles{floats(c, 3), d, real(c, 4)};
  const int32_t* positions = ints(c, 2);
  if (!check_positions(c, 2, 3, t, d)) return;
  int first = normed ? 6 : 4;
  split(*c.pool, t, rows_of((heads[0] + heads[1]) * d), [&](long begin, long end) {
    float room[MAX_HEAD_DIM];
    for (int of = 0; of < 2; of++) {
      HeadNorm norm{normed ? floats(c, 4 + of) : nullptr, normed ? floats(c, 8 + of) : nullptr, real(c, 5)};
      const float* x = floats(c, of);
      float* y = floats(c, first + of);
      for (long n = begin * heads[of]; n < end * heads[of]; n++)
        angles.rotate(positions[n / heads[of]], norm(c, n, x + n * d, d, room), y + n * d);
    }
  });
}

void rope_kv_write(Call& c) {
  long t = size(c, 0), heads = size(c, 1), kv = size(c, 2), d = size(c, 3);
  bool normed = size(c, 8) == 1, keep = size(c, 9) == 1;
  int out = normed ? 10 : 8;
  Angles angles{floats(c, 4), d, 1.f};
  HeadNorm query{normed ? floats(c, 8) : nullptr, nullptr, real(c, 7)}, key{normed ? floats(c, 9) : nullptr, nullptr, real(c, 7)};
  const float *q = floats(c, 0), *k = floats(c, 1), *v = floats(c, 2);
  const int32_t *positions = ints(c, 3), *slots = ints(c, 5), *finished = ints(c, 7);
  float *qr = floats(c, out), *kr = keep ? floats(c, out + 1) : nullptr;
  Cache cache(floats(c, c.operands - 1), kv, d, size(c, 4), size(c, 5), ints(c, 6), elements(c, 6), size(c, 6));
  if (!check_positions(c, 3, 4, t, d) || !check_places(c, cache, slots, positions, finished, t, elements(c, 7))) return;
  // Row by row, as `kv_write` goes.
  split(*c.pool, t, 1, [&](long begin, long end) {
    float room[MAX_HEAD_DIM], rotated[MAX_HEAD_DIM];
    for (long i = begin; i < end; i++) {
      for (long n = i * heads; n < (i + 1) * heads; n++)
        angles.rotate(positions[i], query(c, n, q + n * d, d, room), qr + n * d);
      bool write = !finished[slots[i]];
      if (!write && !keep) continue;
      long page = write ? cache.page(slots[i], positions[i]) : 0, lane = positions[i] % PAGE;
      for (long h = 0, n = i * kv; h < kv; h++, n++) {
        float* to = keep ? kr + n * d : rotated;
        angles.rotate(positions[i], key(c, n, k + n * d, d, room), to);
        if (write) cache.put(page, lane, h, to, v + n * d);
      }
    }
  });
}

}  // namespace BATON_ISA
}  // namespace baton

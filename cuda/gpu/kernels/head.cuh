// The vocabulary head, for `linearLogprob` and for its form that is split over ranks.
#pragma once
#include "kernel.cuh"

namespace baton {

// Where results go: with `work`, a target's score instead of its log-probability, and maximum, sum and weighted sum of a shard.
struct HeadOutputs {
  float *logprob, *lse, *entropy, *work;
};
// Operands as in `linearLogprob`: x, w, targets, inverse temperature. Targets count from `first` on, of `total`.
void head_rows(Call& c, long first, long total, bool entropy, bool panels, HeadOutputs out);

}  // namespace baton

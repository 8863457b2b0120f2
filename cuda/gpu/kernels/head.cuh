// The vocabulary head, for `linearLogprob` and for its form that is split over ranks.
#pragma once
#include "kernel.cuh"

namespace baton {

// Logits that are kept from the forward pass for the backward pass, `step` numbers from row to row; p is null where they are not.
struct LogitRows {
  float* p;
  long step;
  float* at(long row, long column) const { return p + row * step + column; }
};
// Where results go: with `work`, a target's score instead of its log-probability, and maximum, sum and weighted sum of a shard.
struct HeadOutputs {
  float *logprob, *lse, *entropy, *work;
  LogitRows logits;
};
// Where the logits of a head are kept, of which the attribute says how far rows are apart; fails where that is too little.
bool whole_logits(Call& c, int attribute, long vocabulary, int operand, LogitRows& out);
// Operands as in `linearLogprob`: x, w, targets, inverse temperature. Targets count from `first` on, of `total`.
void head_rows(Call& c, long first, long total, bool entropy, bool panels, HeadOutputs out);

}  // namespace baton

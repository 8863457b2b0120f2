// A collective operation from one rank's side: who it is, and meeting the others. Ranks meet on the host while they issue;
// their streams wait for each other's events, so no kernel ever waits for another one.
#pragma once
#include "../communicators.h"
#include "../runtime.h"
#include "kernel.cuh"

namespace baton {

constexpr int MOST_RANKS = 64;

// Rows of `rows` that rank `rank` of `ranks` owns.
struct Rows {
  long from, to;
  __host__ __device__ Rows(long rows, long rank, long ranks) : from(rows * rank / ranks), to(rows * (rank + 1) / ranks) {}
  __host__ __device__ long count() const { return to - from; }
  // Those of them that are in begin … end; none of them lie at `begin` or `end`.
  Rows within(long begin, long end) const {
    Rows r = *this;
    r.from = r.from < begin ? begin : r.from > end ? end : r.from;
    r.to = r.to < r.from ? r.from : r.to > end ? end : r.to;
    return r;
  }
};

// What every rank offers, as an argument of a kernel.
template <class T>
struct Peers {
  const T* at[MOST_RANKS];
  long from[MOST_RANKS], to[MOST_RANKS];
  int ranks;
};

// Usage: construct, look at the sizes, ask for the way. By copies: `open`, launch what reads the others' memory, `close`; a rank's
// operands may be written again once the others have closed. By NCCL: `meet`, `issue`.
class Meeting {
 public:
  long rank = 0, ranks = 0;

  // `axis` is the position of the attribute.
  Meeting(Call& c, int axis) : c_(c) {
    long a = size(c, axis);
    group_ = a < c.axes ? c.groups[a] : nullptr;
    if (!group_) fail(c, "the job was submitted without a group for axis %ld", a);
    else rank = c.ranks[a], ranks = group_->size();
    if (ranks > MOST_RANKS) fail(c, "%ld ranks are more than %d", ranks, MOST_RANKS), group_ = nullptr;
  }
  ~Meeting() {
    if (group_) group_->leave(uint32_t(rank));
  }
  Meeting(const Meeting&) = delete;
  bool valid() const { return group_; }

  // How data are exchanged; `stopped` when the operation has to end.
  Communicators::Way way() {
    communicators_ = Communicators::of(*group_);
    return communicators_->join(c_, *group_, uint32_t(rank));
  }

  // Shows the others what this rank brings, and waits for what they bring, which has to be of the same operation and sizes.
  bool meet(uint32_t code, long rows, long width, const void* in, void* out, long from = 0, long to = 0, cudaEvent_t ready = nullptr) {
    if (!passed(group_->open(uint32_t(rank), {code, rows, width, in, out, from, to, ready, {}}, 0))) return false;
    for (long r = 0; r < ranks; r++) {
      const Offer& o = offer(r);
      if (o.code != code) return fail(c_, "rank %ld came with %s", r, opcode_name(uint16_t(o.code)));
      if (o.rows != rows || o.width != width)
        return fail(c_, "rank %ld came with %ld × %ld elements and this rank, %ld, with %ld × %ld", r, o.rows, o.width, rank, rows,
                    width);
    }
    return true;
  }
  // The same, and work that is launched from now on may read the others' memory.
  bool open(uint32_t code, long rows, long width, const void* in, void* out, long from = 0, long to = 0) {
    cudaEvent_t ready = c_.device->meeting_event();
    if (!succeeded(c_, cudaEventRecord(ready, c_.stream))) return false;
    if (!meet(code, rows, width, in, out, from, to, ready)) return false;
    for (long r = 0; r < ranks; r++) {
      const Offer& o = offer(r);
      if (!c_.device->reaches(gpu_of(o.in ? o.in : o.out)))
        return fail(c_, "the GPU of rank %ld cannot read the memory of rank %ld; install NCCL", rank, r);
      if (r != rank && !succeeded(c_, cudaStreamWaitEvent(c_.stream, static_cast<cudaEvent_t>(o.ready), 0))) return false;
    }
    return true;
  }

  // Whether all ranks offered the same `from` and `to`.
  bool same_rows() {
    for (long r = 0; r < ranks; r++) {
      const Offer &o = offer(r), &own = offer(rank);
      if (o.from != own.from || o.to != own.to)
        return fail(c_, "rank %ld came with rows from %ld of %ld and this rank, %ld, with rows from %ld of %ld", r, o.from, o.to, rank,
                    own.from, own.to);
    }
    return true;
  }

  // Work for NCCL, in one group of calls.
  void issue(const std::function<int(const Nccl&, NcclComm*)>& work) { communicators_->issue(c_, *group_, uint32_t(rank), work); }
  // Brings `count` floats of every rank, which lie at `mine` on this one, to `to + rank · count`.
  void fetch(const float* mine, float* to, long count) {
    issue([&](const Nccl& n, NcclComm* comm) {
      return n.AllGather(mine, to, size_t(count), Nccl::FLOAT, comm, c_.stream);
    });
  }

  // Everything that this rank reads of the others is launched; goes on when that holds for all.
  bool close() {
    cudaEvent_t done = c_.device->meeting_event();
    if (!succeeded(c_, cudaEventRecord(done, c_.stream))) return false;
    int phase = phase_++ % 2;
    group_->own(uint32_t(rank)).done[phase] = done;
    if (!passed(group_->barrier(uint32_t(rank)))) return false;
    for (long r = 0; r < ranks; r++)
      if (r != rank && !succeeded(c_, cudaStreamWaitEvent(c_.stream, static_cast<cudaEvent_t>(offer(r).done[phase]), 0))) return false;
    return true;
  }

  const Offer& offer(long of) const { return group_->offer(uint32_t(rank), uint32_t(of)); }
  template <class T>
  Peers<T> peers(bool outs = false) const {
    Peers<T> p{};
    p.ranks = int(ranks);
    for (long r = 0; r < ranks; r++) {
      const Offer& o = offer(r);
      p.at[r] = static_cast<const T*>(outs ? o.out : o.in), p.from[r] = o.from, p.to[r] = o.to;
    }
    return p;
  }

 private:
  bool passed(bool met) {
    if (!met) c_.stopped = group_;
    return met;
  }
  Call& c_;
  Group* group_;
  std::shared_ptr<Communicators> communicators_;
  int phase_ = 0;
};

}  // namespace baton

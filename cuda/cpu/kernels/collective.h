// A collective operation from one rank's side: who it is, and meeting the others.
#pragma once
#include "../../common/opcodes.h"
#include "kernel.h"

namespace baton {
namespace BATON_ISA {

// Rows of `rows` that rank `rank` of `ranks` owns.
struct Rows {
  long from, to;
  Rows(long rows, long rank, long ranks) : from(rows * rank / ranks), to(rows * (rank + 1) / ranks) {}
  long count() const { return to - from; }
  // Those of them that are in begin … end; none of them lie at `begin` or `end`.
  Rows within(long begin, long end) const {
    Rows r = *this;
    r.from = r.from < begin ? begin : r.from > end ? end : r.from;
    r.to = r.to < r.from ? r.from : r.to > end ? end : r.to;
    return r;
  }
};

// Usage: construct, look at the sizes, `open`, read what the others offered, `barrier` between phases. Ends with the scope.
class Meeting {
 public:
  long rank = 0, ranks = 0;

  // `axis` is the position of the attribute.
  Meeting(Call& c, int axis) : c_(c) {
    long a = size(c, axis);
    group_ = a < c.axes ? c.groups[a] : nullptr;
    if (!group_) fail(c, "the job was submitted without a group for axis %ld", a);
    else rank = c.ranks[a], ranks = group_->size();
  }
  ~Meeting() {
    if (group_) group_->leave(uint32_t(rank));
  }
  Meeting(const Meeting&) = delete;
  bool valid() const { return group_; }

  // Waits for the others' offers, which have to be of the same operation and sizes.
  bool open(uint32_t code, long rows, long width, const void* in, void* out, long from = 0, long to = 0) {
    Offer mine{code, rows, width, in, out, from, to};
    if (!passed(group_->open(uint32_t(rank), mine, c_.pool->threads()))) return false;
    for (long r = 0; r < ranks; r++) {
      const Offer& o = offer(r);
      if (o.code != code)
        return fail(c_, "rank %ld came with %s", r, opcode_name(uint16_t(o.code)));
      if (o.rows != rows || o.width != width)
        return fail(c_, "rank %ld came with %ld × %ld elements and this rank, %ld, with %ld × %ld", r, o.rows, o.width, rank, rows,
                    width);
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
  bool barrier() { return passed(group_->barrier(uint32_t(rank))); }

  const Offer& offer(long of) const { return group_->offer(uint32_t(rank), uint32_t(of)); }
  template <class T>
  const T* in(long of) const { return static_cast<const T*>(offer(of).in); }
  template <class T>
  const T* out(long of) const { return static_cast<const T*>(offer(of).out); }

  // Small operands are copied where the others may read them until the next operation but one: no barrier at the end.
  void stage(const void* from, long bytes) { memcpy(group_->stage(uint32_t(rank)), from, size_t(bytes)); }
  template <class T>
  const T* staged(long of) const { return static_cast<const T*>(group_->staged(uint32_t(rank), uint32_t(of))); }

 private:
  bool passed(bool met) {
    if (!met) c_.stopped = group_;
    return met;
  }
  Call& c_;
  Group* group_;
};

}  // namespace BATON_ISA
}  // namespace baton

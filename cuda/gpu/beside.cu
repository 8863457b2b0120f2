#include "beside.h"

namespace baton {
namespace {

// Those that need no scratch, which the first stream's operations use.
bool may_go(uint16_t code) { return is_collective(code) && code != SHARD_LOGPROB && code != ALL_GATHER_COLUMNS && code != OWN_ROWS; }

bool clash(const Operation& a, const Operation& b) {
  for (const Operand& x : a.operands)
    for (const Operand& y : b.operands)
      if ((x.written || y.written) && x.segment == y.segment && x.offset < y.offset + y.bytes && y.offset < x.offset + x.bytes) return true;
  return false;
}

}  // namespace

// Whether something comes before the first operation that needs its results, which costs two waits otherwise.
bool Beside::worth(size_t index) const {
  const auto& all = program_.operations;
  for (size_t i = index + 1; i < all.size(); i++) {
    if (clash(all[index], all[i])) return false;
    if (!may_go(all[i].code)) return true;
  }
  return false;
}

cudaStream_t Beside::stream_for(size_t index, const Operands& operands) {
  const Operation& op = program_.operations[index_ = index];
  beside_ = second_ && may_go(op.code) && worth(index);
  if (beside_) {
    auto now = event();
    cudaEventRecord(now->id, first_);
    cudaStreamWaitEvent(second_, now->id, 0);
    spare_.push_back(std::move(now));  // whoever waits has its place already
    return second_;
  }
  if (!pending_.empty()) {
    Footprint touched = footprint_of(op, operands);
    size_t count = pending_.size();
    while (count > 0 && !baton::clash(pending_[count - 1].touched, touched)) count--;
    wait_for(count);
  }
  return first_;
}

void Beside::done(const Operands& operands) {
  if (!beside_) return;
  auto end = event();
  cudaEventRecord(end->id, second_);
  pending_.push_back({footprint_of(program_.operations[index_], operands), std::move(end)});
}

void Beside::join() { wait_for(pending_.size()); }

// The second stream's order is that of `pending_`: its last event says it of all before.
void Beside::wait_for(size_t count) {
  if (count == 0) return;
  cudaStreamWaitEvent(first_, pending_[count - 1].end->id, 0);
  for (size_t i = 0; i < count; i++) spare_.push_back(std::move(pending_[i].end));
  pending_.erase(pending_.begin(), pending_.begin() + long(count));
}

std::unique_ptr<Event> Beside::event() {
  if (spare_.empty()) return std::make_unique<Event>(false);
  auto one = std::move(spare_.back());
  spare_.pop_back();
  return one;
}

}  // namespace baton

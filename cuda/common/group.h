// Ranks of one process that meet in collective operations, each on its own worker thread. Nothing here is inline, because
// kernels of every instruction set call it.
#pragma once
#include <stdint.h>

#include <functional>
#include <memory>
#include <string>

namespace baton {

// What a rank shows the others in an operation: addresses, and the sizes that have to agree.
struct Offer {
  uint32_t code;
  long rows, width;
  const void* in;
  void* out;
  long from, to;  // what this rank alone brings
  // Of a backend whose ranks meet before their work is done: when `in` may be read, and when this rank has read the others',
  // once in each phase of an operation.
  void *ready = nullptr, *done[2] = {};
};

// Bytes that a rank can leave in the group, so that the others need not wait until everybody has read them.
constexpr long STAGE_BYTES = 32 << 10;

class Group {
 public:
  static std::shared_ptr<Group> create(uint32_t size, uint32_t deadline_ms);  // null when there is no memory
  ~Group();
  uint32_t size() const;

  // ---- for kernels ----
  // Where the next `open` of this rank finds what it brings; `offer` and `staged` are then everybody's.
  void* stage(uint32_t rank);
  // Shows an offer and waits for those of the others; `threads` is how many the rank keeps busy. After true, the rank may
  // read what the others offered until its next call; after false the operation has to end, the group having failed.
  bool open(uint32_t rank, const Offer& offer, int threads);
  bool barrier(uint32_t rank);
  void leave(uint32_t rank);
  // What a rank offered, or staged, at the last `open`.
  const Offer& offer(uint32_t rank, uint32_t of) const;
  // What the rank itself offered: the others see a change once they have passed the next barrier.
  Offer& own(uint32_t rank);
  const void* staged(uint32_t rank, uint32_t of) const;
  // What a backend keeps for the group, made by whoever asks first; it goes with the group.
  std::shared_ptr<void> kept(const std::function<std::shared_ptr<void>()>& make);
  uint32_t deadline_ms() const;

  // ---- for the runtime ----
  // A rank stays with the device that first came for it; false for another one.
  bool claim(uint32_t rank, uint32_t device);
  // Every operation of the group fails from now on, whoever waits wakes up; only the first reason counts.
  void abort(uint32_t rank, const std::string& why);
  bool failed() const;
  // Why a rank has to stop; sets `own` when that rank is where the failure was noticed, and leaves out who it was.
  std::string failure(uint32_t rank = UINT32_MAX, bool* own = nullptr) const;
  // Returns when no other rank reads any more: memory that this rank offered to a group that has failed may go.
  void drain(uint32_t rank);

 private:
  struct State;
  explicit Group(std::unique_ptr<State> state);
  bool wait(uint32_t rank, uint32_t generation);
  void fail(uint32_t rank, bool absent, const std::string& why);

  std::unique_ptr<State> state_;
};

// Of the group that was made last, or ten minutes: how long ranks wait for what belongs to no group.
uint32_t latest_deadline_ms();

// "0.15 s"
std::string seconds(uint32_t ms);

// Threads of this process that run kernels now: a rank spins while it waits only when there is a core left for it.
void count_busy(int threads);

}  // namespace baton

#include "group.h"

#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <new>
#include <vector>

#include "clock.h"

namespace baton {
namespace {

constexpr uint32_t NOBODY = UINT32_MAX;
constexpr int SPINS = 60;  // about 2 µs
constexpr int TURNS = 40;  // times that another thread is let onto the core: cheaper than to sleep and be woken

std::atomic<int> busy{0};
std::atomic<uint32_t> latest{600000};

int cores() {
  static const int count = [] {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  }();
  return count;
}

void sleep_while(std::atomic<uint32_t>& word, uint32_t value, uint64_t nanoseconds) {
  timespec time{time_t(nanoseconds / 1000000000), long(nanoseconds % 1000000000)};
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, &time, nullptr, 0);
}
void wake_all(std::atomic<uint32_t>& word) { syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0); }

}  // namespace

std::string seconds(uint32_t ms) {
  char text[32];
  snprintf(text, sizeof text, "%g s", ms / 1000.);
  return text;
}

void count_busy(int threads) { busy.fetch_add(threads, std::memory_order_relaxed); }

// Offers and stages are there twice: a rank may come to the next operation while another still reads those of this one,
// but nobody comes to the one after that.
struct alignas(64) Slot {
  Offer offer[2];
  uint32_t round = 0;                 // operations that the rank has opened
  int threads = 1;
  std::atomic<uint32_t> arrivals{0};  // barriers that it has come to
  std::atomic<bool> reading{false};
  std::atomic<uint32_t> device{NOBODY};
};

struct Group::State {
  uint32_t size, deadline_ms;
  std::vector<Slot> slots;
  char* stages;
  alignas(64) std::atomic<uint32_t> arrived{0};
  alignas(64) std::atomic<uint32_t> generation{0};  // barriers passed; what sleepers wait on
  std::atomic<uint32_t> sleepers{0};
  std::atomic<bool> failed{false};
  mutable std::mutex mutex;  // of the reason, and of what is kept
  std::shared_ptr<void> kept;
  std::string why;
  uint32_t who = NOBODY;
  bool absent = false;

  State(uint32_t size, uint32_t deadline_ms, char* stages)
      : size(size), deadline_ms(deadline_ms), slots(size), stages(stages) {}
  ~State() { free(stages); }
  char* stage(uint32_t rank, uint32_t round) const { return stages + (uint64_t(rank) * 2 + round % 2) * STAGE_BYTES; }
};

uint32_t latest_deadline_ms() { return latest; }

std::shared_ptr<Group> Group::create(uint32_t size, uint32_t deadline_ms) {
  latest = deadline_ms;
  // Not touched here: a stage costs memory once it is used.
  char* stages = static_cast<char*>(aligned_alloc(4096, uint64_t(size) * 2 * STAGE_BYTES));
  if (!stages) return nullptr;
  return std::shared_ptr<Group>(new Group(std::make_unique<State>(size, deadline_ms, stages)));
}

Group::Group(std::unique_ptr<State> state) : state_(std::move(state)) {}
Group::~Group() = default;
uint32_t Group::size() const { return state_->size; }
uint32_t Group::deadline_ms() const { return state_->deadline_ms; }

std::shared_ptr<void> Group::kept(const std::function<std::shared_ptr<void>()>& make) {
  std::lock_guard<std::mutex> lock(state_->mutex);
  if (!state_->kept) state_->kept = make();
  return state_->kept;
}

void* Group::stage(uint32_t rank) { return state_->stage(rank, state_->slots[rank].round); }

bool Group::open(uint32_t rank, const Offer& offer, int threads) {
  Slot& me = state_->slots[rank];
  me.offer[me.round++ % 2] = offer;
  me.threads = threads;
  return barrier(rank);
}
const Offer& Group::offer(uint32_t rank, uint32_t of) const {
  return state_->slots[of].offer[(state_->slots[rank].round - 1) % 2];
}
Offer& Group::own(uint32_t rank) {
  Slot& me = state_->slots[rank];
  return me.offer[(me.round - 1) % 2];
}
const void* Group::staged(uint32_t rank, uint32_t of) const { return state_->stage(of, state_->slots[rank].round - 1); }

void Group::leave(uint32_t rank) { state_->slots[rank].reading.store(false, std::memory_order_release); }

bool Group::barrier(uint32_t rank) {
  State& s = *state_;
  Slot& me = s.slots[rank];
  leave(rank);
  if (s.failed) return false;
  uint32_t generation = s.generation.load(std::memory_order_acquire);
  me.arrivals.fetch_add(1, std::memory_order_release);
  if (s.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == s.size) {
    s.arrived.store(0, std::memory_order_relaxed);
    s.generation.fetch_add(1);
    if (s.sleepers.load() > 0) wake_all(s.generation);
  } else if (!wait(rank, generation)) {
    return false;
  }
  // Either this sees the failure, or `drain` sees that the rank reads.
  me.reading = true;
  if (!s.failed) return true;
  leave(rank);
  return false;
}

bool Group::wait(uint32_t rank, uint32_t generation) {
  State& s = *state_;
  auto waits = [&] { return s.generation.load(std::memory_order_acquire) == generation && !s.failed; };
  if (busy.load(std::memory_order_relaxed) <= cores())
    for (int spin = 0; spin < SPINS && waits(); spin++) spin_pause();
  for (int turn = 0; turn < TURNS && waits(); turn++) sched_yield();
  if (!waits()) return !s.failed;
  int threads = s.slots[rank].threads;
  count_busy(-threads);
  s.sleepers++;
  for (uint64_t end = clock_ns() + uint64_t(s.deadline_ms) * 1000000; waits();) {
    uint64_t now = clock_ns();
    if (now < end) {
      sleep_while(s.generation, generation, end - now);
    } else {
      std::string who;
      uint32_t absent = 0, mine = s.slots[rank].arrivals;
      for (uint32_t r = 0; r < s.size; r++)
        if (s.slots[r].arrivals != mine) who += (absent++ ? ", " : "") + std::to_string(r);
      if (!waits()) break;  // they came in the last moment
      fail(rank, true, (absent > 1 ? "ranks " : "rank ") + who + " of " + std::to_string(s.size) + " did not arrive within " +
                           seconds(s.deadline_ms));
    }
  }
  s.sleepers--;
  count_busy(threads);
  return !s.failed;
}

bool Group::claim(uint32_t rank, uint32_t device) {
  uint32_t owner = NOBODY;
  return state_->slots[rank].device.compare_exchange_strong(owner, device) || owner == device;
}

void Group::abort(uint32_t rank, const std::string& why) { fail(rank, false, why); }

void Group::fail(uint32_t rank, bool absent, const std::string& why) {
  State& s = *state_;
  {
    std::lock_guard<std::mutex> lock(s.mutex);
    if (s.failed) return;
    s.why = why, s.who = rank, s.absent = absent;
    s.failed = true;
  }
  s.generation.fetch_add(1);
  wake_all(s.generation);
}

bool Group::failed() const { return state_->failed; }

std::string Group::failure(uint32_t rank, bool* own) const {
  std::lock_guard<std::mutex> lock(state_->mutex);
  bool here = state_->who == rank;
  if (own) *own = here;
  if (here || state_->absent) return state_->why;
  return "it stopped because rank " + std::to_string(state_->who) + " failed: " + state_->why;
}

void Group::drain(uint32_t rank) {
  State& s = *state_;
  leave(rank);
  for (uint32_t r = 0; r < s.size; r++)
    for (int spin = 0; s.slots[r].reading; spin++) spin < SPINS ? spin_pause() : void(sched_yield());
}

}  // namespace baton

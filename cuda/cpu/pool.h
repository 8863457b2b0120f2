// A fork-join pool. Which thread runs which task never matters to a result, because every task owns its output elements.
// It matters to the caches: each thread begins with its own share of the tasks, the same at every call, and takes from the
// others' shares when it is done.
#pragma once
#include <stdint.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "../common/clock.h"

namespace baton {

constexpr uint64_t SCRATCH_BYTES = 4 << 20;  // per thread; every kernel tiles itself to fit

// Numbers below 2⁻¹²⁶ count as zero on the calling thread, as inputs and as results: processors take a hundred times as
// long for them, and moments and attention weights that fade away are full of them.
void flush_subnormals();

class Pool {
 public:
  typedef void (*Task)(void* context, long task, int thread);

  // `threads` counts the caller of `run`. `ok()` is false when there was no memory for the scratch.
  explicit Pool(int threads);
  ~Pool();
  bool ok() const { return scratch_ != nullptr; }
  int threads() const { return threads_; }
  char* scratch(int thread) const { return scratch_ + uint64_t(thread) * SCRATCH_BYTES; }

  // Calls task(context, i, thread) for every i in [0, tasks) and returns when all are done. The caller flushes
  // subnormals, as the helpers do.
  void run(long tasks, Task task, void* context);

 private:
  // Tasks of one thread that nobody has begun; on a cache line of its own.
  struct alignas(64) Share {
    std::atomic<long> next{0};
    long end = 0;
  };

  void help(int thread);
  void drain(int thread);

  // One word says everything about the current fork: its number, whether helpers may still enter, how many are inside.
  // A helper that wakes up late finds the fork closed and costs nothing.
  static constexpr uint64_t EPOCH = uint64_t(1) << 32, OPEN = uint64_t(1) << 31, INSIDE = OPEN - 1;
  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> closing_{false};
  Task task_ = nullptr;
  void* context_ = nullptr;
  std::vector<Share> shares_;
  int threads_;
  char* scratch_ = nullptr;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> helpers_;
};

}  // namespace baton

// Devices: worker threads with their queues, and the pools that they run kernels on.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include "../common/opcodes.h"
#include "jobs.h"
#include "kernels.h"

namespace baton {

class Device : public std::enable_shared_from_this<Device> {
 public:
  explicit Device(int threads) : pool_(threads) {}
  bool start();  // false when there was no memory or no thread
  void close();
  bool submit(const std::shared_ptr<Job>& job, const uint32_t* after, uint32_t count);  // false when the ticket is in use
  void cancel(bool on);
  void wake();
  void profile(double* nanoseconds);
  double product(uint32_t mode, long m, long n, long k, float* x, float* w, float* y);

 private:
  void work();
  int32_t run(Job& job, std::string& error);
  int32_t execute(Job& job, std::string& error);
  bool stopped(const Job& job) const { return closing_ || cancelled_ || job.cancelled; }
  const char* stop_reason() const { return closing_ ? "the device was closed" : "it was cancelled"; }
  void abort_groups();

  Pool pool_;
  std::mutex mutex_, kernels_;  // kernels_ is held while kernels use the pool
  std::condition_variable queued_;
  std::deque<std::shared_ptr<Job>> queue_;
  std::shared_ptr<Job> running_;
  std::atomic<bool> cancelled_{false}, closing_{false};
  double spent_[OPCODES] = {};
};

// The instruction set in use.
const Instructions& instructions();
bool select_instructions(uint32_t isa);

// Nanoseconds of the monotonic clock.
uint64_t clock_ns();

}  // namespace baton

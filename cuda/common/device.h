// Devices: worker threads with their queues. What a job does is the backend's.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "clock.h"
#include "jobs.h"
#include "opcodes.h"

namespace baton {

class Device : public std::enable_shared_from_this<Device> {
 public:
  // Of the backend: `unit` is what baton_device_create got. A status.
  static int32_t create(uint32_t unit, std::shared_ptr<Device>& device);
  virtual ~Device() = default;

  bool start();  // false when there was no thread
  void close();
  bool submit(const std::shared_ptr<Job>& job, const uint32_t* after, uint32_t count);  // false when the ticket is in use
  void cancel(bool on);
  void wake();
  void profile(double* nanoseconds);
  virtual void sample(uint32_t /*every*/) {}  // as baton_profile_every
  // Median seconds of `reps` products, as baton_gemm_bench; negative is a status.
  virtual double product(uint32_t mode, long m, long n, long k, uint32_t reps) = 0;

 protected:
  // On the worker thread, before its first job and after its last.
  virtual void enter() {}
  virtual void leave() {}
  // A job that nothing stops: a status, and why.
  virtual int32_t perform(Job& job, std::string& error) = 0;
  // Takes over a job that `perform` has begun or that failed: true when the backend calls `finish` itself, once it has ended.
  virtual bool follow(const std::shared_ptr<Job>&, uint64_t /*begin_ns*/, int32_t /*status*/, const std::string& /*error*/) {
    return false;
  }
  void finish(const std::shared_ptr<Job>& job, uint64_t begin_ns, int32_t status, const std::string& error);
  bool stopped(const Job& job) const { return closing_ || cancelled_ || job.cancelled; }
  const char* stop_reason() const { return closing_ ? "the device was closed" : "it was cancelled"; }
  void spend(const double (&nanoseconds)[OPCODES]);

 private:
  void work();
  int32_t run(Job& job, std::string& error);
  void abort_groups();

  std::mutex mutex_;
  std::condition_variable queued_;
  std::deque<std::shared_ptr<Job>> queue_;
  std::vector<std::shared_ptr<Job>> running_;  // begun and not finished
  std::atomic<bool> cancelled_{false}, closing_{false};
  double spent_[OPCODES] = {};
};

// The addresses, sizes and numbers of one operation of a job.
struct Operands {
  std::vector<void*> at;
  std::vector<uint64_t> bytes;  // at the largest symbols
  std::vector<Type> types;
  std::vector<double> attributes;
  void bind(const Job& job, const Operation& operation);
};

// Of the backend: the JSON of baton_describe, and the choice of baton_select_isa.
std::string describe_backend();
bool select_instructions(uint32_t isa);

}  // namespace baton

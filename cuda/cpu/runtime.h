// What lives behind the handles: segments, programs, devices.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../baton.h"
#include "../common/opcodes.h"
#include "../common/program.h"
#include "kernels.h"

namespace baton {

// Device memory. Pages cost nothing before they are touched.
struct Segment {
  char* base;
  uint64_t bytes;
  Segment(char* base, uint64_t bytes) : base(base), bytes(bytes) {}
  ~Segment();
  static std::shared_ptr<Segment> create(uint64_t bytes);  // null when there is no memory
};

// One queued execution. It keeps what it uses alive, so a handle may be destroyed while its job is still queued.
struct Job {
  std::shared_ptr<const Program> program;
  std::vector<std::shared_ptr<Segment>> segments;
  std::vector<uint32_t> dims;
  uint32_t ticket;
};

// A worker thread with its queue, and the pool that it runs kernels on.
class Device : public std::enable_shared_from_this<Device> {
 public:
  explicit Device(int threads) : pool_(threads) {}
  bool start();  // false when there was no memory or no thread
  void close();
  void submit(Job job);
  int32_t wait(baton_completion* out, uint32_t capacity, uint32_t timeout_ms);
  int32_t error(uint32_t ticket, std::string& text);
  void cancel(bool on) { cancelled_ = on; }
  void profile(double* nanoseconds);
  double product(uint32_t mode, long m, long n, long k, float* x, float* w, float* y);

 private:
  void work();
  int32_t execute(const Job& job, std::string& error);

  Pool pool_;
  std::mutex mutex_, running_;  // running_ is held while kernels use the pool
  std::condition_variable queued_, finished_;
  std::deque<Job> queue_;
  std::deque<baton_completion> completions_;
  std::map<uint32_t, std::string> errors_;
  std::atomic<bool> cancelled_{false}, closing_{false};
  double spent_[OPCODES] = {};
};

// The instruction set in use.
const Instructions& instructions();
bool select_instructions(uint32_t isa);

}  // namespace baton

#include "pool.h"

#include <sched.h>
#include <stdlib.h>

namespace baton {
namespace {

// About 40 µs: longer than the gap between two operations of a program, far shorter than a time slice.
constexpr int SPINS = 1000;

}  // namespace

void flush_subnormals() {
#if defined(__x86_64__)
  __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | 0x8040);  // flush to zero, subnormals are zero
#elif defined(__aarch64__)
  uint64_t control;
  asm volatile("mrs %0, fpcr" : "=r"(control));
  asm volatile("msr fpcr, %0" ::"r"(control | 1 << 24));
#endif
}

Pool::Pool(int threads) : shares_(size_t(threads)), threads_(threads) {
  // Not touched here: a page of scratch costs memory once a kernel has used it.
  scratch_ = static_cast<char*>(aligned_alloc(4096, uint64_t(threads) * SCRATCH_BYTES));
  if (scratch_)
    for (int t = 1; t < threads; t++) helpers_.emplace_back([this, t] { help(t); });
}

Pool::~Pool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
  }
  wake_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
  free(scratch_);
}

void Pool::run(long tasks, Task task, void* context) {
  if (helpers_.empty() || tasks <= 1) {
    for (long i = 0; i < tasks; i++) task(context, i, 0);
    return;
  }
  task_ = task;
  context_ = context;
  for (int t = 0; t < threads_; t++) {
    shares_[size_t(t)].next.store(tasks * t / threads_, std::memory_order_relaxed);
    shares_[size_t(t)].end = tasks * (t + 1) / threads_;
  }
  uint64_t epoch = (state_.load(std::memory_order_relaxed) / EPOCH + 1) * EPOCH;
  state_.store(epoch | OPEN);
  if (sleepers_.load() > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  drain(0);
  state_.fetch_and(~OPEN);
  for (int spin = 0; state_.load(std::memory_order_acquire) & INSIDE; spin++) spin < SPINS ? spin_pause() : void(sched_yield());
}

void Pool::drain(int thread) {
  for (int t = 0; t < threads_; t++) {
    Share& share = shares_[size_t((thread + t) % threads_)];
    for (long i; (i = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;) task_(context_, i, thread);
  }
}

void Pool::help(int thread) {
  flush_subnormals();
  uint64_t seen = 0;
  auto fresh = [&](uint64_t s) { return (s & OPEN) && s / EPOCH != seen; };
  while (!closing_) {
    uint64_t state = state_.load();
    for (int spin = 0; !fresh(state) && spin < SPINS; spin++) {
      spin_pause();
      state = state_.load(std::memory_order_acquire);
    }
    if (!fresh(state)) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleepers_++;
      wake_.wait(lock, [&] { return closing_ || fresh(state_.load()); });
      sleepers_--;
    } else if (state_.compare_exchange_strong(state, state + 1)) {
      seen = state / EPOCH;
      drain(thread);
      state_.fetch_sub(1, std::memory_order_release);
    }
  }
}

}  // namespace baton

#include "device.h"

#include <string.h>

#include <algorithm>
#include <new>
#include <system_error>
#include <thread>

namespace baton {

bool Device::start() {
  try {
    std::thread([self = shared_from_this()] { self->work(); }).detach();
  } catch (const std::system_error&) {
    return false;
  }
  return true;
}

bool Device::submit(const std::shared_ptr<Job>& job, const uint32_t* after, uint32_t count) {
  job->device = weak_from_this();
  if (!ledger().open(job, after, count)) return false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    queue_.push_back(job);
  }
  queued_.notify_one();
  return true;
}

void Device::wake() {
  { std::lock_guard<std::mutex> lock(mutex_); }  // whoever looked before this sleeps now
  queued_.notify_all();
}

void Device::close() {
  closing_ = true;
  abort_groups();
}

void Device::cancel(bool on) {
  cancelled_ = on;
  if (on) abort_groups();
}

// Jobs that were there stay cancelled even when the flag goes off again before their turn.
void Device::abort_groups() {
  std::vector<std::shared_ptr<Job>> jobs;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    jobs.assign(queue_.begin(), queue_.end());
    jobs.insert(jobs.end(), running_.begin(), running_.end());
  }
  for (auto& job : jobs) {
    job->cancelled = true;
    job->abort(stop_reason());
  }
  wake();
}

void Device::profile(double* nanoseconds) {
  std::lock_guard<std::mutex> lock(mutex_);
  memcpy(nanoseconds, spent_, sizeof spent_);
  memset(spent_, 0, sizeof spent_);
}

void Device::spend(const double (&nanoseconds)[OPCODES]) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (int i = 0; i < OPCODES; i++) spent_[i] += nanoseconds[i];
}

void Device::work() {
  enter();
  for (;;) {
    std::shared_ptr<Job> job;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      queued_.wait(lock, [&] {
        if (queue_.empty()) return closing_.load();
        const Job& next = *queue_.front();
        return next.waiting == 0 || next.doomed || stopped(next);
      });
      if (queue_.empty()) break;
      job = std::move(queue_.front());
      queue_.pop_front();
      running_.push_back(job);
    }
    uint64_t begin = clock_ns();
    int32_t status;
    std::string error;
    try {
      status = run(*job, error);
    } catch (const std::bad_alloc&) {
      status = BATON_OUT_OF_MEMORY;
      error = "there is no memory";
    }
    if (!follow(job, begin, status, error)) finish(job, begin, status, error);
  }
  leave();
}

void Device::finish(const std::shared_ptr<Job>& job, uint64_t begin_ns, int32_t status, const std::string& error) {
  if (status != BATON_OK) {
    job->abort(error);
    for (const Member& m : job->members)
      if (m.group) m.group->drain(m.rank);
  }
  baton_completion end{job->ticket, status, begin_ns, clock_ns()};
  {
    std::lock_guard<std::mutex> lock(mutex_);
    running_.erase(std::find(running_.begin(), running_.end(), job));
  }
  // Memory of destroyed handles goes before the completion is seen.
  job->program = nullptr;
  job->segments.clear(), job->moves.clear();
  ledger().close(job, end, error);
}

int32_t Device::run(Job& job, std::string& error) {
  if (stopped(job)) {
    error = stop_reason();
    return BATON_CANCELLED;
  }
  if (job.doomed) {
    error = job.cause;
    return BATON_CANCELLED;
  }
  for (const Member& m : job.members) {
    if (!m.group || !m.group->failed()) continue;
    error = m.group->failure();
    return BATON_CANCELLED;
  }
  return perform(job, error);
}

void Operands::bind(const Job& job, const Operation& operation) {
  at.clear(), bytes.clear(), types.clear(), attributes.clear();
  for (const Operand& o : operation.operands) {
    at.push_back(job.segments[o.segment] ? job.segments[o.segment]->base + o.offset : nullptr);
    bytes.push_back(o.bytes);
    types.push_back(o.type);
  }
  for (const Attribute& a : operation.attributes)
    attributes.push_back(a.is_size ? double(a.times) * job.dims[a.symbol] : a.value);
}

}  // namespace baton

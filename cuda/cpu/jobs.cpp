#include "jobs.h"

#include <algorithm>
#include <chrono>

#include "runtime.h"

namespace baton {
namespace {

constexpr size_t ERRORS_KEPT = 4096;
const char* const WAITED = "it waited for a job that failed: ";

// A chain of jobs that wait for each other names its first one only.
std::string consequence(const std::string& error) { return error.rfind(WAITED, 0) == 0 ? error : WAITED + error; }

}  // namespace

// Never destroyed: workers use it until the process is gone.
Ledger& ledger() {
  static Ledger& one = *new Ledger;
  return one;
}

void Job::abort(const std::string& why) const {
  for (const Member& m : members)
    if (m.group) m.group->abort(m.rank, why);
}

bool Ledger::open(const std::shared_ptr<Job>& job, const uint32_t* after, uint32_t count) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!open_.emplace(job->ticket, job).second) return false;
  if (errors_.erase(job->ticket)) failed_.erase(std::find(failed_.begin(), failed_.end(), job->ticket));
  Devices nobody;
  for (uint32_t i = 0; i < count; i++) {
    auto found = open_.find(after[i]);
    auto error = errors_.find(after[i]);
    if (found != open_.end() && found->second != job) {
      found->second->successors.push_back(job);
      job->waiting++;
      if (found->second->doomed) doom(*job, found->second->cause, nobody);
    } else if (error != errors_.end()) {
      doom(*job, error->second, nobody);
    }
  }
  return true;
}

// It will fail, and so will what waits for it: ranks that would wait for them need to know at once.
void Ledger::doom(Job& first, const std::string& error, Devices& ready) {
  std::string cause = consequence(error);
  std::vector<Job*> rest{&first};
  while (!rest.empty()) {
    Job& job = *rest.back();
    rest.pop_back();
    if (job.doomed) continue;
    job.cause = cause;
    job.doomed = true;
    job.abort(cause);
    if (auto device = job.device.lock()) ready.push_back(device);
    for (auto& next : job.successors) rest.push_back(next.get());
  }
}

void Ledger::close(const std::shared_ptr<Job>& job, const baton_completion& completion, const std::string& error) {
  Devices ready;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    open_.erase(job->ticket);
    if (completion.status != BATON_OK) {
      if (failed_.size() >= ERRORS_KEPT) errors_.erase(failed_.front()), failed_.pop_front();
      errors_[job->ticket] = error;
      failed_.push_back(job->ticket);
    }
    for (auto& next : job->successors) {
      if (completion.status != BATON_OK) doom(*next, error, ready);
      if (--next->waiting == 0)
        if (auto device = next->device.lock()) ready.push_back(device);
    }
    job->successors.clear();
    completions_.push_back(completion);
  }
  ended_.notify_all();
  for (auto& device : ready) device->wake();
}

int32_t Ledger::wait(baton_completion* out, uint32_t capacity, uint32_t timeout_ms) {
  std::unique_lock<std::mutex> lock(mutex_);
  ended_.wait_for(lock, std::chrono::milliseconds(timeout_ms), [&] { return !completions_.empty(); });
  uint32_t n = 0;
  for (; n < capacity && !completions_.empty(); n++) out[n] = completions_.front(), completions_.pop_front();
  return int32_t(n);
}

bool Ledger::error(uint32_t ticket, std::string& text) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = errors_.find(ticket);
  if (found == errors_.end()) return false;
  text = found->second;
  return true;
}

}  // namespace baton

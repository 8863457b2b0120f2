#include <string.h>

#include <chrono>
#include <new>
#include <system_error>
#include <thread>

#include "runtime.h"

namespace baton {

uint64_t clock_ns() {
  auto time = std::chrono::steady_clock::now().time_since_epoch();
  return uint64_t(std::chrono::duration_cast<std::chrono::nanoseconds>(time).count());
}

bool Device::start() {
  if (!pool_.ok()) return false;
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
  std::deque<std::shared_ptr<Job>> jobs;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    jobs = queue_;
    if (running_) jobs.push_back(running_);
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

double Device::product(uint32_t mode, long m, long n, long k, float* x, float* w, float* y) {
  std::lock_guard<std::mutex> lock(kernels_);
  uint64_t start = clock_ns();
  instructions().product(pool_, mode, m, n, k, x, w, y);
  return double(clock_ns() - start) * 1e-9;
}

void Device::work() {
  flush_subnormals();
  for (;;) {
    std::shared_ptr<Job> job;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      queued_.wait(lock, [&] {
        if (queue_.empty()) return closing_.load();
        const Job& next = *queue_.front();
        return next.waiting == 0 || next.doomed || stopped(next);
      });
      if (queue_.empty()) return;
      job = running_ = std::move(queue_.front());
      queue_.pop_front();
    }
    baton_completion end{job->ticket, BATON_OK, clock_ns(), 0};
    std::string error;
    try {
      end.status = run(*job, error);
    } catch (const std::bad_alloc&) {
      end.status = BATON_OUT_OF_MEMORY;
      error = "there is no memory";
    }
    if (end.status != BATON_OK) {
      job->abort(error);
      for (const Member& m : job->members)
        if (m.group) m.group->drain(m.rank);
    }
    end.end_ns = clock_ns();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      running_ = nullptr;
    }
    // Memory of destroyed handles goes before the completion is seen.
    job->program = nullptr;
    job->segments.clear(), job->moves.clear();
    ledger().close(job, end, error);
  }
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
  std::lock_guard<std::mutex> lock(kernels_);
  count_busy(pool_.threads());
  struct Idle {
    int threads;
    ~Idle() { count_busy(-threads); }
  } idle{pool_.threads()};
  if (job.program) return execute(job, error);
  copy_memory(pool_, job.moves, job.weight, job.cancelled);
  if (!job.cancelled) return BATON_OK;
  error = stop_reason();
  return BATON_CANCELLED;
}

int32_t Device::execute(Job& job, std::string& error) {
  const Instructions& isa = instructions();
  std::vector<void*> operands;
  std::vector<uint64_t> bytes;
  std::vector<double> attributes;
  std::vector<Group*> groups;
  std::vector<uint32_t> ranks;
  for (const Member& m : job.members) groups.push_back(m.group.get()), ranks.push_back(m.rank);
  double spent[OPCODES] = {};
  uint64_t start = clock_ns(), last = start;
  int32_t status = BATON_OK;
  size_t index = 0;
  for (const Operation& op : job.program->operations) {
    if (stopped(job)) {
      status = BATON_CANCELLED;
      error = stop_reason();
      break;
    }
    operands.clear(), bytes.clear(), attributes.clear();
    for (const Operand& o : op.operands) {
      operands.push_back(job.segments[o.segment] ? job.segments[o.segment]->base + o.offset : nullptr);
      bytes.push_back(o.bytes);
    }
    for (const Attribute& a : op.attributes)
      attributes.push_back(a.is_size ? double(a.times) * job.dims[a.symbol] : a.value);
    char text[ERROR_BYTES] = "";
    Call call{operands.data(), bytes.data(),  attributes.data(), int(operands.size()), int(attributes.size()), &pool_,
              groups.data(),   ranks.data(), int(groups.size()), nullptr,              text};
    isa.kernels[op.code](call);
    uint64_t t = clock_ns();
    spent[op.code] += double(t - last);
    last = t;
    if (text[0] || call.stopped) {
      bool own = true;
      error = text;
      for (const Member& m : job.members)
        if (call.stopped && m.group.get() == call.stopped) error = m.group->failure(m.rank, &own);
      // A rank that was told to stop has not failed itself.
      status = call.stopped && (stopped(job) || !own) ? BATON_CANCELLED : BATON_FAILED;
      error = "operation " + std::to_string(index) + " (" + opcode_name(op.code) + "): " + error;
      break;
    }
    index++;
  }
  spent[0] = double(last - start);
  std::lock_guard<std::mutex> lock(mutex_);
  for (int i = 0; i < OPCODES; i++) spent_[i] += spent[i];
  return status;
}

}  // namespace baton

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <chrono>
#include <new>
#include <system_error>
#include <thread>

#include "runtime.h"

namespace baton {
namespace {

constexpr size_t ERRORS_KEPT = 256;

uint64_t mapped_bytes(uint64_t bytes) { return bytes ? bytes : 1; }  // an empty mapping is an error

double now() {
  return double(std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count());
}

}  // namespace

// ---- segments ----------------------------------------------------------------------------------------------------

std::shared_ptr<Segment> Segment::create(uint64_t bytes) {
  constexpr uint64_t HUGE_PAGE = 2 << 20;
  if (bytes > uint64_t(1) << 46) return nullptr;
  void* p = mmap(nullptr, mapped_bytes(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  if (bytes >= HUGE_PAGE) madvise(p, bytes, MADV_HUGEPAGE);
  return std::make_shared<Segment>(static_cast<char*>(p), bytes);
}

Segment::~Segment() { munmap(base, mapped_bytes(bytes)); }

// ---- instruction sets ----------------------------------------------------------------------------------------------

namespace {

std::atomic<const Instructions*> selected{nullptr};

}  // namespace

bool select_instructions(uint32_t isa) {
  const Instructions* choice = nullptr;
  if (isa == 1) choice = &generic::instructions;
#if defined(__x86_64__)
  __builtin_cpu_init();
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (isa == 2 && avx2) choice = &avx2::instructions;
  if (isa == 3 && avx512) choice = &avx512::instructions;
#endif
  if (isa == 0) return select_instructions(3) || select_instructions(2) || select_instructions(1);
  if (choice) selected = choice;
  return choice != nullptr;
}

const Instructions& instructions() {
  if (!selected.load()) {
    const char* wanted = getenv("BATON_ISA");
    const char* names[] = {"", "generic", "avx2", "avx512"};
    for (uint32_t isa = 1; wanted && isa <= 3; isa++)
      if (!strcmp(wanted, names[isa])) select_instructions(isa);
    if (!selected.load()) select_instructions(0);
  }
  return *selected.load();
}

// ---- devices -----------------------------------------------------------------------------------------------------

bool Device::start() {
  if (!pool_.ok()) return false;
  try {
    std::thread([self = shared_from_this()] { self->work(); }).detach();
  } catch (const std::system_error&) {
    return false;
  }
  return true;
}

void Device::close() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closing_ = cancelled_ = true;
  }
  queued_.notify_all();
  finished_.notify_all();
}

void Device::submit(Job job) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    queue_.push_back(std::move(job));
  }
  queued_.notify_one();
}

int32_t Device::wait(baton_completion* out, uint32_t capacity, uint32_t timeout_ms) {
  std::unique_lock<std::mutex> lock(mutex_);
  finished_.wait_for(lock, std::chrono::milliseconds(timeout_ms), [&] { return closing_ || !completions_.empty(); });
  uint32_t n = 0;
  for (; n < capacity && !completions_.empty(); n++) out[n] = completions_.front(), completions_.pop_front();
  return int32_t(n);
}

int32_t Device::error(uint32_t ticket, std::string& text) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = errors_.find(ticket);
  if (found == errors_.end()) return BATON_BAD_ARGUMENT;
  text = found->second;
  return BATON_OK;
}

void Device::profile(double* nanoseconds) {
  std::lock_guard<std::mutex> lock(mutex_);
  memcpy(nanoseconds, spent_, sizeof spent_);
  memset(spent_, 0, sizeof spent_);
}

double Device::product(uint32_t mode, long m, long n, long k, float* x, float* w, float* y) {
  std::lock_guard<std::mutex> lock(running_);
  double start = now();
  instructions().product(pool_, mode, m, n, k, x, w, y);
  return (now() - start) * 1e-9;
}

void Device::work() {
  flush_subnormals();
  for (;;) {
    Job job;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      queued_.wait(lock, [&] { return closing_ || !queue_.empty(); });
      if (closing_) return;
      job = std::move(queue_.front());
      queue_.pop_front();
    }
    std::string error;
    int32_t status;
    try {
      status = execute(job, error);
    } catch (const std::bad_alloc&) {
      status = BATON_OUT_OF_MEMORY;
    }
    uint32_t ticket = job.ticket;
    job = Job();  // memory of destroyed handles goes before the completion is seen
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!error.empty()) {
        if (errors_.size() >= ERRORS_KEPT) errors_.erase(errors_.begin());
        errors_[ticket] = error;
      }
      completions_.push_back({ticket, status});
    }
    finished_.notify_all();
  }
}

int32_t Device::execute(const Job& job, std::string& error) {
  std::lock_guard<std::mutex> running(running_);
  const Instructions& isa = instructions();
  std::vector<void*> operands;
  std::vector<uint64_t> bytes;
  std::vector<double> attributes;
  double spent[OPCODES] = {}, start = now(), last = start;
  int32_t status = BATON_OK;
  size_t index = 0;
  for (const Operation& op : job.program->operations) {
    if (cancelled_) {
      status = BATON_CANCELLED;
      error = "it was cancelled";
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
    Call call{operands.data(), bytes.data(), attributes.data(), int(operands.size()), int(attributes.size()), &pool_, text};
    isa.kernels[op.code](call);
    double t = now();
    spent[op.code] += t - last;
    last = t;
    if (text[0]) {
      status = BATON_FAILED;
      error = "operation " + std::to_string(index) + " (" + opcode_name(op.code) + "): " + text;
      break;
    }
    index++;
  }
  spent[0] = last - start;
  std::lock_guard<std::mutex> lock(mutex_);
  for (int i = 0; i < OPCODES; i++) spent_[i] += spent[i];
  return status;
}

}  // namespace baton

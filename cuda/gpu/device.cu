// Devices of the CUDA backend. The worker issues a job's work to its stream and goes on to the next one, and a second thread waits
// for the ends. A job that was told to wait for others is issued when they have ended, behind copies as soon as those are issued.
#include <algorithm>

#include "kernels/kernel.cuh"
#include "runtime.h"

namespace baton {
namespace {

constexpr size_t MOST_GRAPHS = 64, MOST_SEEN = 4096;
constexpr int CAPTURE_AT = 2;  // runs on the same addresses and sizes: the first warms up what is loaded on first use

std::string gpu_error(cudaError_t e) { return std::string("the GPU said: ") + cudaGetErrorString(e); }

// BATON_CUDA_CHECK=1: after every operation the host waits, so that an error names the operation that made it.
bool checks_each() {
  static const bool on = [] {
    const char* value = getenv("BATON_CUDA_CHECK");
    return value && value[0] == '1';
  }();
  return on;
}

}  // namespace

bool meets(const Program& p) {
  for (const Operation& op : p.operations)
    if (is_collective(op.code)) return true;
  return false;
}

Event::Event(bool timed) {
  // Waiting threads sleep: there are as many as devices.
  if (cudaEventCreateWithFlags(&id, cudaEventBlockingSync | (timed ? 0u : cudaEventDisableTiming)) != cudaSuccess) id = nullptr;
}
Event::~Event() {
  if (id) cudaEventDestroy(id);
}

int32_t Device::create(uint32_t unit, std::shared_ptr<Device>& device) {
  if (!missing_gpu().empty()) return BATON_FAILED;
  if (unit >= uint32_t(gpu_count())) return BATON_BAD_ARGUMENT;
  auto d = std::make_shared<GpuDevice>(int(unit));
  if (!d->prepare() || !d->start()) return BATON_OUT_OF_MEMORY;
  prefer_gpu(int(unit));
  device = d;
  return BATON_OK;
}

bool GpuDevice::prepare() {
  auto ok = [](cudaError_t e) { return e == cudaSuccess; };
  void *scratch = nullptr, *fault = nullptr, *faults = nullptr;
  if (!ok(cudaSetDevice(gpu_)) || !ok(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)) ||
      !ok(cudaMalloc(&scratch, SCRATCH_BYTES + PRODUCT_BYTES)) || !ok(cudaMalloc(&fault, sizeof(Fault))) ||
      !ok(cudaHostAlloc(&faults, IN_FLIGHT * sizeof(Fault), cudaHostAllocPortable)))
    return false;
  scratch_ = static_cast<char*>(scratch);
  fault_ = static_cast<Fault*>(fault), faults_ = static_cast<Fault*>(faults);
  for (int i = 0; i < MEETINGS; i++) meetings_.push_back(std::make_shared<Event>(false));
  for (int other = 0; other < gpu_count(); other++) {
    int can = 0;
    if (other != gpu_ && ok(cudaDeviceCanAccessPeer(&can, gpu_, other)) && can) cudaDeviceEnablePeerAccess(other, 0);
  }
  cudaGetLastError();  // peers that were enabled before are no error
  return meetings_.back()->id != nullptr && progress_.prepare(IN_FLIGHT + 1);
}

GpuDevice::~GpuDevice() {
  cudaSetDevice(gpu_);
  for (auto& entry : graphs_) cudaGraphExecDestroy(entry.second.graph);
  if (stream_) cudaStreamSynchronize(stream_), cudaStreamDestroy(stream_);
  if (scratch_) cudaFree(scratch_);
  if (fault_) cudaFree(fault_);
  if (faults_) cudaFreeHost(faults_);
}

bool GpuDevice::reaches(int gpu) const {
  int can = 0;
  return gpu < 0 || gpu == gpu_ || (cudaDeviceCanAccessPeer(&can, gpu_, gpu) == cudaSuccess && can);
}

void GpuDevice::enter() {
  cudaSetDevice(gpu_);
#ifdef BATON_EMULATION
#if defined(__x86_64__)
  __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | 0x8040);  // as -ftz=true does
#endif
#endif
  completer_ = std::thread([this] { complete(); });
}

void GpuDevice::leave() {
  {
    std::lock_guard<std::mutex> lock(issued_mutex_);
    leaving_ = true;
  }
  issued_changed_.notify_all();
  completer_.join();
}

int32_t GpuDevice::perform(Job& job, std::string& error) {
  current_ = {};
  {
    std::unique_lock<std::mutex> lock(issued_mutex_);
    issued_changed_.wait(lock, [&] { return in_flight_ < IN_FLIGHT; });
  }
  for (auto& before : job.predecessors)
    if (before->mark) cudaStreamWaitEvent(stream_, static_cast<Event*>(before->mark.get())->id, 0);
  cudaMemsetAsync(fault_, 0, sizeof(Fault), stream_);
  current_.slot = int(next_fault_++ % IN_FLIGHT);
  progress_.begin(current_.slot);
  int32_t status = job.program ? execute(job, error) : copy(job, error);
  auto mark = std::make_shared<Event>(false);
  Fault* host = faults_ + current_.slot;
  cudaError_t e = cudaMemcpyAsync(host, fault_, sizeof(Fault), cudaMemcpyDeviceToHost, stream_);
  if (e == cudaSuccess) e = cudaEventRecord(mark->id, stream_);
  if (e != cudaSuccess && status == BATON_OK) status = BATON_FAILED, error = gpu_error(e);
  // After a fault every call fails, whatever it asks for: the operation that is issued now is not the one that made it.
  cudaError_t now = status == BATON_FAILED ? cudaStreamQuery(stream_) : cudaSuccess;
  if (now != cudaSuccess && now != cudaErrorNotReady) current_.lost = now;
  job.mark = mark;
  current_.fault = host;
  return status;
}

bool GpuDevice::follow(const std::shared_ptr<Job>& job, uint64_t begin_ns, int32_t status, const std::string& error) {
  if (status != BATON_OK) job->abort(error);  // ranks that would wait for it stop now
  bool copies = !job->program;
  current_.job = job, current_.begin_ns = begin_ns, current_.status = status, current_.error = error;
  if (!job->mark) current_.fault = nullptr;
  {
    std::lock_guard<std::mutex> lock(issued_mutex_);
    issued_.push_back(std::move(current_));
    in_flight_++;
  }
  current_ = {};
  issued_changed_.notify_all();
  // A program can still fail when its integers are looked at, and what waits for it must not run then. Copies cannot.
  if (status == BATON_OK && copies) ledger().issue(job);
  return true;
}

void GpuDevice::complete() {
  cudaSetDevice(gpu_);
  for (uint64_t last_end = 0;;) {
    Issued next;
    {
      std::unique_lock<std::mutex> lock(issued_mutex_);
      issued_changed_.wait(lock, [&] { return leaving_ || !issued_.empty(); });
      if (issued_.empty()) return;
      next = std::move(issued_.front());
      issued_.pop_front();
    }
    end(next, last_end);
    {
      std::lock_guard<std::mutex> lock(issued_mutex_);
      in_flight_--;
    }
    issued_changed_.notify_all();
  }
}

void GpuDevice::end(Issued& issued, uint64_t& last_end) {
  Job& job = *issued.job;
  if (issued.fault) {
    watch(issued);
    cudaError_t e = cudaEventSynchronize(static_cast<Event*>(job.mark.get())->id);
    ledger().settle(job);
    if (issued.lost != cudaSuccess && !checks_each()) {
      issued.error = gpu_error(issued.lost) + ", " + place_of(issued);
    } else if (issued.status != BATON_OK) {
      // It is said already why.
    } else if (e != cudaSuccess) {
      issued.status = BATON_FAILED;
      issued.error = gpu_error(e) + ", " + place_of(issued);
    } else if (issued.fault->set) {
      issued.status = BATON_FAILED;
      issued.error = "operation " + std::to_string(issued.fault->operation) + " (" +
                     opcode_name(job.program->operations[size_t(issued.fault->operation)].code) + "): " + fault_text(*issued.fault);
    } else if (stopped(job)) {
      issued.status = BATON_CANCELLED, issued.error = stop_reason();
    } else if (job.doomed) {
      issued.status = BATON_CANCELLED, issued.error = job.cause;
    }
  }
  double spent[OPCODES] = {};
  for (size_t i = 0; i + 1 < issued.marks.size() && i < issued.codes.size(); i++) {
    float ms = 0;
    if (cudaEventElapsedTime(&ms, issued.marks[i]->id, issued.marks[i + 1]->id) != cudaSuccess) continue;
    spent[issued.codes[i]] += double(ms) * 1e6, spent[0] += double(ms) * 1e6;
  }
  if (!issued.codes.empty()) spend(spent);
  uint64_t begin = std::max({issued.begin_ns, last_end, job.not_before});
  last_end = clock_ns();
  finish(issued.job, begin, issued.status, issued.error);
}

// Where a job was when the GPU failed. The fault takes all that is on the GPU, so other devices there may have made it.
std::string GpuDevice::place_of(const Issued& issued) const {
  if (!issued.job->program) return "while this device copied";
  const auto& operations = issued.job->program->operations;
  int at = progress_.at(issued.replayed ? IN_FLIGHT : issued.slot);
  if (at < 0 || size_t(at) >= operations.size()) return "before the first operation of this job";
  std::string text = "while this device was at operation " + std::to_string(at) + " (" + opcode_name(operations[size_t(at)].code) + ")";
  size_t last = std::min(operations.size(), size_t(at) + Progress::EVERY) - 1;
  if (!issued.replayed || last == size_t(at)) return text;
  return text + " or one of those up to " + std::to_string(last) + "; BATON_CUDA_CHECK=1 says which";
}

Call GpuDevice::call_on(const Operands& o, char* error) const {
  return {o.at.data(), o.bytes.data(), o.types.data(), o.attributes.data(), int(o.at.size()), int(o.attributes.size()), 0, stream_, fault_,
          scratch_, const_cast<GpuDevice*>(this), nullptr, nullptr, 0, nullptr, error};
}

int32_t GpuDevice::issue_operations(Job& job, std::string& error, Mode mode) {
  Operands operands;
  std::vector<Group*> groups;
  std::vector<uint32_t> ranks;
  for (const Member& m : job.members) groups.push_back(m.group.get()), ranks.push_back(m.rank);
  auto mark = [&] {
    current_.marks.push_back(std::make_shared<Event>(true));
    cudaEventRecord(current_.marks.back()->id, stream_);
  };
  bool timed = mode == Mode::timed;
  if (timed) mark();
  size_t index = 0;
  for (const Operation& op : job.program->operations) {
    if (stopped(job)) {
      error = stop_reason();
      return BATON_CANCELLED;
    }
    if (mode != Mode::captured) progress_.mark(stream_, current_.slot, int(index));
    else if (index % Progress::EVERY == 0) progress_.mark_captured(stream_, IN_FLIGHT, int(index));
    operands.bind(job, op);
    char text[ERROR_BYTES] = "";
    Call call = call_on(operands, text);
    call.operation = int(index);
    call.groups = groups.data(), call.ranks = ranks.data(), call.axes = int(groups.size());
    kernel_of(op.code)(call);
    if (checks_each() && !text[0] && !call.stopped) succeeded(call, cudaStreamSynchronize(stream_));
    if (text[0] || call.stopped) return failure(job, index, call.stopped, stopped(job), text, error);
    if (timed) mark(), current_.codes.push_back(op.code);
    index++;
  }
  return BATON_OK;
}

int32_t GpuDevice::execute(Job& job, std::string& error) {
  Mode mode = profiling_ ? Mode::timed : Mode::plain;
  if (mode == Mode::timed || checks_each() || meets(*job.program)) return issue_operations(job, error, mode);
  Key key{uint64_t(reinterpret_cast<uintptr_t>(job.program.get()))};
  for (auto& s : job.segments) key.push_back(s ? uint64_t(reinterpret_cast<uintptr_t>(s->base)) : 0);
  key.insert(key.end(), job.dims.begin(), job.dims.end());
  if (replay(key, error)) return error.empty() ? BATON_OK : BATON_FAILED;
  if (seen_.size() > MOST_SEEN) seen_.clear();
  int32_t status;
  if (++seen_[key] >= CAPTURE_AT && capture(job, key, error, status)) return status;
  return issue_operations(job, error, mode);
}

bool GpuDevice::replay(const Key& key, std::string& error) {
  auto found = graphs_.find(key);
  if (found == graphs_.end()) return false;
  found->second.used = ++graph_clock_;
  current_.replayed = true;
  progress_.mark(stream_, IN_FLIGHT, Progress::NOT_BEGUN);
  cudaError_t e = cudaGraphLaunch(found->second.graph, stream_);
  if (e != cudaSuccess) error = gpu_error(e);
  return true;
}

// False when it could not be captured: it then runs as it is.
bool GpuDevice::capture(Job& job, const Key& key, std::string& error, int32_t& status) {
  if (cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal) != cudaSuccess) return cudaGetLastError(), false;
  status = issue_operations(job, error, Mode::captured);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t made = nullptr;
  bool ok = cudaStreamEndCapture(stream_, &graph) == cudaSuccess && graph;
  if (status != BATON_OK) {
    if (graph) cudaGraphDestroy(graph);
    return true;
  }
  ok = ok && cudaGraphInstantiate(&made, graph, 0) == cudaSuccess;
  if (graph) cudaGraphDestroy(graph);
  if (!ok) return cudaGetLastError(), false;
  if (graphs_.size() >= MOST_GRAPHS) {
    auto oldest = std::min_element(graphs_.begin(), graphs_.end(),
                                   [](const auto& a, const auto& b) { return a.second.used < b.second.used; });
    cudaStreamSynchronize(stream_);  // it may still run
    cudaGraphExecDestroy(oldest->second.graph);
    graphs_.erase(oldest);
  }
  graphs_[key] = {made, 0, job.program};
  return replay(key, error), status = error.empty() ? BATON_OK : BATON_FAILED, true;
}

int32_t GpuDevice::copy(Job& job, std::string& error) {
  char text[ERROR_BYTES] = "";
  Operands none;
  Call call = call_on(none, text);
  copy_memory(call, job.moves, job.weight);
  error = text;
  return error.empty() ? BATON_OK : BATON_FAILED;
}

double GpuDevice::product(uint32_t mode, long m, long n, long k, uint32_t reps) {
  cudaSetDevice(gpu_);
  auto segment = [&](uint64_t count) { return Segment::create(count * 4, this, false); };
  auto x = segment(uint64_t(m) * k), w = segment(uint64_t(n) * k), y = segment(uint64_t(m) * n);
  if (!x || !w || !y) return BATON_OUT_OF_MEMORY;
  if (mode > 2) return BATON_BAD_ARGUMENT;  // peak and bandwidth are what the data sheet says
  char text[ERROR_BYTES] = "";
  Operands none;
  Call c = call_on(none, text);
  if (cudaStreamCreateWithFlags(&c.stream, cudaStreamNonBlocking) != cudaSuccess) return BATON_FAILED;
  auto single = [](const std::shared_ptr<Segment>& s) { return Numbers{s->base, false}; };
  auto into = [](const std::shared_ptr<Segment>& s) { return OutNumbers{s->base, false}; };
  std::vector<double> seconds;
  Event begin(true), end(true);
  for (uint32_t i = 0; i < reps + 1; i++) {
    cudaEventRecord(begin.id, c.stream);
    if (mode == 0) multiply(c, {single(x), k, 1}, weight_of(single(w), k, false), {into(y), n, false}, NO_NUMBERS, m, n, k);
    if (mode == 1) multiply(c, {single(y), n, 1}, weight_back(single(w), k, false), {into(x), k, false}, NO_NUMBERS, m, k, n);
    if (mode == 2) multiply_gradient(c, single(y), n, single(x), into(w), false, NO_NUMBERS, m, n, k);
    cudaEventRecord(end.id, c.stream);
    float ms = 0;
    if (cudaEventSynchronize(end.id) != cudaSuccess || cudaEventElapsedTime(&ms, begin.id, end.id) != cudaSuccess) break;
    if (i > 0) seconds.push_back(ms * 1e-3);
  }
  cudaStreamDestroy(c.stream);
  if (text[0] || seconds.size() != reps) return BATON_FAILED;
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

}  // namespace baton

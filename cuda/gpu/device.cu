// Devices of the CUDA backend. The worker issues a job's work to its stream and goes on to the next one, and a thread for each stream
// waits for the ends: programs have one stream, copies the other. A job that was told to wait for others is issued when they have
// ended, behind copies as soon as those are issued; for earlier jobs of its device its stream waits where they touch the same memory.
#include <algorithm>
#include <utility>

#include "beside.h"
#include "kernels/kernel.cuh"
#include "runtime.h"

namespace baton {
namespace {

constexpr size_t MOST_GRAPHS = 64, MOST_SEEN = 4096;
constexpr uint32_t FIRST_TIMED = 4;
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
  int least = 0, greatest = 0;
  if (!ok(cudaSetDevice(gpu_)) || !ok(cudaDeviceGetStreamPriorityRange(&least, &greatest)) ||
      !ok(cudaStreamCreateWithFlags(&compute_.stream, cudaStreamNonBlocking)) ||
      // What other devices wait for goes first where both streams have blocks to run.
      !ok(cudaStreamCreateWithPriority(&copies_.stream, cudaStreamNonBlocking, greatest)) ||
      !ok(cudaMalloc(&scratch, SCRATCH_BYTES + PRODUCT_BYTES + COPY_BYTES)) || !ok(cudaMalloc(&fault, sizeof(Fault))) ||
      !ok(cudaHostAlloc(&faults, IN_FLIGHT * sizeof(Fault), cudaHostAllocPortable)))
    return false;
  compute_.scratch = scratch_ = static_cast<char*>(scratch);
  copies_.scratch = scratch_ + SCRATCH_BYTES + PRODUCT_BYTES;
  fault_ = static_cast<Fault*>(fault), faults_ = static_cast<Fault*>(faults);
  for (int i = 0; i < MEETINGS; i++) meetings_.push_back(std::make_shared<Event>(false));
  for (int other = 0; other < gpu_count(); other++) {
    int can = 0;
    if (other != gpu_ && ok(cudaDeviceCanAccessPeer(&can, gpu_, other)) && can) cudaDeviceEnablePeerAccess(other, 0);
  }
  cudaGetLastError();  // peers that were enabled before are no error
  return meetings_.back()->id != nullptr && progress_.prepare(2 * IN_FLIGHT + 1);
}

GpuDevice::~GpuDevice() {
  cudaSetDevice(gpu_);
  for (auto& entry : graphs_) cudaGraphExecDestroy(entry.second.graph);
  for (Lane* lane : {&compute_, &copies_})
    if (lane->stream) cudaStreamSynchronize(lane->stream), cudaStreamDestroy(lane->stream);
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
  for (Lane* lane : {&compute_, &copies_}) lane->completer = std::thread([this, lane] { complete(*lane); });
}

void GpuDevice::leave() {
  {
    std::lock_guard<std::mutex> lock(issued_mutex_);
    leaving_ = true;
  }
  issued_changed_.notify_all();
  for (Lane* lane : {&compute_, &copies_}) lane->completer.join();
}

// The last job of the other lane that touches the same: its stream's order says it of those before.
std::shared_ptr<Mark> GpuDevice::wait_for_other(Lane& lane, const Footprint& touched) {
  const Lane& other = &lane == &compute_ ? copies_ : compute_;
  std::lock_guard<std::mutex> lock(issued_mutex_);
  for (auto mark = other.open.rbegin(); mark != other.open.rend(); ++mark)
    if (clash((*mark)->touched, touched)) return cudaStreamWaitEvent(lane.stream, (*mark)->end.id, 0), *mark;
  return nullptr;
}

bool GpuDevice::idle(const Lane& lane) {
  std::lock_guard<std::mutex> lock(issued_mutex_);
  return lane.open.empty();
}

int32_t GpuDevice::perform(Job& job, std::string& error) {
  Lane& lane = lane_of(job);
  current_ = {};
  {
    std::unique_lock<std::mutex> lock(issued_mutex_);
    issued_changed_.wait(lock, [&] { return lane.in_flight < IN_FLIGHT; });
  }
  auto mark = std::make_shared<Mark>();
  mark->touched = footprint_of(job);
  for (auto& before : job.predecessors)
    if (before->mark) cudaStreamWaitEvent(lane.stream, static_cast<Mark*>(before->mark.get())->end.id, 0);
  current_.behind = wait_for_other(lane, mark->touched);
  int32_t status;
  Fault* host = nullptr;
  cudaError_t e = cudaSuccess;
  if (job.program) {
    cudaMemsetAsync(fault_, 0, sizeof(Fault), lane.stream);
    current_.slot = int(next_fault_++ % IN_FLIGHT);
    progress_.begin(current_.slot), progress_.begin(BESIDE + current_.slot);
    status = execute(job, error);
    host = faults_ + current_.slot;
    e = cudaMemcpyAsync(host, fault_, sizeof(Fault), cudaMemcpyDeviceToHost, lane.stream);
  } else {
    status = copy(job, error);
  }
  if (e == cudaSuccess) e = cudaEventRecord(mark->end.id, lane.stream);
  if (e != cudaSuccess && status == BATON_OK) status = BATON_FAILED, error = gpu_error(e);
  // After a fault every call fails, whatever it asks for: the operation that is issued now is not the one that made it.
  cudaError_t now = status == BATON_FAILED ? cudaStreamQuery(lane.stream) : cudaSuccess;
  if (now != cudaSuccess && now != cudaErrorNotReady) current_.lost = now;
  job.mark = mark;
  current_.fault = host;
  return status;
}

bool GpuDevice::follow(const std::shared_ptr<Job>& job, uint64_t begin_ns, int32_t status, const std::string& error) {
  if (status != BATON_OK) job->abort(error);  // ranks that would wait for it stop now
  bool copies = !job->program;
  Lane& lane = lane_of(*job);
  current_.job = job, current_.begin_ns = begin_ns, current_.status = status, current_.error = error;
  if (!job->mark) current_.fault = nullptr;
  {
    std::lock_guard<std::mutex> lock(issued_mutex_);
    if (job->mark) lane.open.push_back(std::static_pointer_cast<Mark>(job->mark));
    lane.issued.push_back(std::move(current_));
    lane.in_flight++;
  }
  current_ = {};
  issued_changed_.notify_all();
  // A program can still fail when its integers are looked at, and what waits for it must not run then. Copies cannot.
  if (status == BATON_OK && copies) ledger().issue(job);
  return true;
}

void GpuDevice::complete(Lane& lane) {
  cudaSetDevice(gpu_);
  for (;;) {
    Issued next;
    {
      std::unique_lock<std::mutex> lock(issued_mutex_);
      issued_changed_.wait(lock, [&] { return leaving_ || !lane.issued.empty(); });
      if (lane.issued.empty()) return;
      next = std::move(lane.issued.front());
      lane.issued.pop_front();
    }
    end(next, lane);
    {
      std::lock_guard<std::mutex> lock(issued_mutex_);
      lane.last_end = clock_ns();
      if (auto mark = std::static_pointer_cast<Mark>(next.job->mark)) {
        mark->ended = true, mark->end_ns = lane.last_end;
        lane.open.pop_front();
      }
      lane.in_flight--;
    }
    issued_changed_.notify_all();
  }
}

void GpuDevice::end(Issued& issued, Lane& lane) {
  Job& job = *issued.job;
  if (job.mark) {
    watch(issued);
    cudaError_t e = cudaEventSynchronize(static_cast<Mark*>(job.mark.get())->end.id);
    ledger().settle(job);
    if (issued.lost != cudaSuccess && !checks_each()) {
      issued.error = gpu_error(issued.lost) + ", " + place_of(issued);
    } else if (issued.status != BATON_OK) {
      // It is said already why.
    } else if (e != cudaSuccess) {
      issued.status = BATON_FAILED;
      issued.error = gpu_error(e) + ", " + place_of(issued);
    } else if (issued.fault && issued.fault->set) {
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
    double ns = double(ms) * 1e6 * issued.weight;
    spent[issued.codes[i]] += ns, spent[0] += ns;
  }
  if (!issued.codes.empty()) spend(spent);
  uint64_t begin = std::max({issued.begin_ns, lane.last_end, job.not_before});
  if (issued.behind) {
    // Whoever hears of this job's end has heard of the other's, as when they had one stream.
    std::unique_lock<std::mutex> lock(issued_mutex_);
    issued_changed_.wait(lock, [&] { return issued.behind->ended; });
    begin = std::max(begin, issued.behind->end_ns);
  }
  finish(issued.job, begin, issued.status, issued.error);
}

// Where a job was when the GPU failed. The fault takes all that is on the GPU, so other devices there may have made it.
std::string GpuDevice::place_of(const Issued& issued) const {
  if (!issued.job->program) return "while this device copied";
  const auto& operations = issued.job->program->operations;
  auto named = [&](int at) { return "operation " + std::to_string(at) + " (" + opcode_name(operations[size_t(at)].code) + ")"; };
  int at = progress_.at(issued.replayed ? GRAPHS : issued.slot), beside = issued.replayed ? -1 : progress_.at(BESIDE + issued.slot);
  if (at < 0 || size_t(at) >= operations.size()) return "before the first operation of this job";
  std::string text = "while this device was at " + named(at);
  if (beside >= 0 && size_t(beside) < operations.size()) text += ", and beside it at " + named(beside);
  size_t last = std::min(operations.size(), size_t(at) + Progress::EVERY) - 1;
  if (!issued.replayed || last == size_t(at)) return text;
  return text + " or one of those up to " + std::to_string(last) + "; BATON_CUDA_CHECK=1 says which";
}

Call GpuDevice::call_on(const Lane& lane, const Operands& o, char* error) const {
  return {o.at.data(), o.bytes.data(), o.types.data(), o.attributes.data(), int(o.at.size()), int(o.attributes.size()), 0, lane.stream, fault_,
          lane.scratch, const_cast<GpuDevice*>(this), nullptr, nullptr, 0, nullptr, error};
}

int32_t GpuDevice::issue_operations(Job& job, std::string& error, Mode mode) {
  Operands operands;
  std::vector<Group*> groups;
  std::vector<uint32_t> ranks;
  for (const Member& m : job.members) groups.push_back(m.group.get()), ranks.push_back(m.rank);
  auto mark = [&] {
    current_.marks.push_back(std::make_shared<Event>(true));
    cudaEventRecord(current_.marks.back()->id, compute_.stream);
  };
  bool timed = mode == Mode::timed;
  if (timed) mark();
  // Collective operations go beside others, but where each one's time is asked for, or copies would hold them up.
  bool two = mode == Mode::plain && !checks_each() && meets(*job.program) && idle(copies_);
  Beside beside(*job.program, compute_.stream, two ? copies_.stream : nullptr, spare_events_);
  struct Join {
    Beside& beside;
    ~Join() { beside.join(); }
  } join{beside};
  size_t index = 0;
  for (const Operation& op : job.program->operations) {
    if (stopped(job)) {
      error = stop_reason();
      return BATON_CANCELLED;
    }
    operands.bind(job, op);
    char text[ERROR_BYTES] = "";
    cudaStream_t stream = beside.stream_for(index, operands);
    Call call = call_on(beside.on_second() ? copies_ : compute_, operands, text);
    int slot = current_.slot + (beside.on_second() ? BESIDE : 0);
    if (mode != Mode::captured) progress_.mark(stream, slot, int(index));
    else if (index % Progress::EVERY == 0) progress_.mark_captured(stream, GRAPHS, int(index));
    call.operation = int(index);
    call.groups = groups.data(), call.ranks = ranks.data(), call.axes = int(groups.size());
    kernel_of(op.code)(call);
    if (checks_each() && !text[0] && !call.stopped) succeeded(call, cudaStreamSynchronize(stream));
    if (text[0] || call.stopped) return failure(job, index, call.stopped, stopped(job), text, error);
    if (beside.on_second()) progress_.mark(stream, slot, Progress::NOT_BEGUN);
    beside.done(operands);
    if (timed) mark(), current_.codes.push_back(op.code);
    index++;
  }
  return BATON_OK;
}

// Executions that this one is timed for, 0 where it is not. The first ones of a program load code and are captured.
uint32_t GpuDevice::timed(const Program& program) {
  uint32_t every = every_;
  if (every <= 1) return every;
  if (executions_.size() > MOST_SEEN) executions_.clear();
  Executions& e = executions_[&program];
  if (++e.untimed < (e.sampled ? every : std::min(every, FIRST_TIMED))) return 0;
  e.sampled = true;
  return std::exchange(e.untimed, 0);
}

int32_t GpuDevice::execute(Job& job, std::string& error) {
  current_.weight = timed(*job.program);
  Mode mode = current_.weight ? Mode::timed : Mode::plain;
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
  progress_.mark(compute_.stream, GRAPHS, Progress::NOT_BEGUN);
  cudaError_t e = cudaGraphLaunch(found->second.graph, compute_.stream);
  if (e != cudaSuccess) error = gpu_error(e);
  return true;
}

// False when it could not be captured: it then runs as it is.
bool GpuDevice::capture(Job& job, const Key& key, std::string& error, int32_t& status) {
  if (cudaStreamBeginCapture(compute_.stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) return cudaGetLastError(), false;
  status = issue_operations(job, error, Mode::captured);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t made = nullptr;
  bool ok = cudaStreamEndCapture(compute_.stream, &graph) == cudaSuccess && graph;
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
    cudaStreamSynchronize(compute_.stream);  // it may still run
    cudaGraphExecDestroy(oldest->second.graph);
    graphs_.erase(oldest);
  }
  graphs_[key] = {made, 0, job.program};
  return replay(key, error), status = error.empty() ? BATON_OK : BATON_FAILED, true;
}

int32_t GpuDevice::copy(Job& job, std::string& error) {
  char text[ERROR_BYTES] = "";
  Operands none;
  Call call = call_on(copies_, none, text);
  copy_memory(call, job.moves, job.weight);
  error = text;
  return error.empty() ? BATON_OK : BATON_FAILED;
}

double GpuDevice::product(uint32_t mode, long m, long n, long k, uint32_t reps) {
  cudaSetDevice(gpu_);
  bool half = mode & 8;
  mode &= 7;
  auto segment = [&](uint64_t count) { return Segment::create(count * (half ? 2 : 4), this, false); };
  auto x = segment(uint64_t(m) * k), w = segment(uint64_t(n) * k), y = segment(uint64_t(m) * n);
  if (!x || !w || !y) return BATON_OUT_OF_MEMORY;
  if (mode > 2) return BATON_BAD_ARGUMENT;  // peak and bandwidth are what the data sheet says
  char text[ERROR_BYTES] = "";
  Operands none;
  Call c = call_on(compute_, none, text);
  if (cudaStreamCreateWithFlags(&c.stream, cudaStreamNonBlocking) != cudaSuccess) return BATON_FAILED;
  auto single = [half](const std::shared_ptr<Segment>& s) { return Numbers{s->base, half}; };
  auto into = [half](const std::shared_ptr<Segment>& s) { return OutNumbers{s->base, half}; };
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

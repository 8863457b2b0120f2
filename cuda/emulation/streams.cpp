// Streams and events of the emulation. Ordinarily a stream runs what it is given at once. With EMULATION_STREAMS work stays
// queued until something waits for it, and streams take turns in an order that brings out waits that are missing:
//   lazy    nothing runs but what is waited for, and what that waits for itself
//   eager   before anything that is waited for, all runs that may, what came last first
//   a number: what may run does so in an order drawn from this seed
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <algorithm>
#include <mutex>
#include <set>
#include <vector>

#include "cuda_runtime.h"
#include "streams.h"


// A point of a stream: reached once what was queued before has run.
struct EmulatedPoint {
  EmulatedStream* stream;
  std::atomic<bool> reached{false};
  timespec time{};
  std::shared_ptr<std::atomic<int>> stalled;  // of a stream that ran at once and was stalled by then

  void reach() {
    clock_gettime(CLOCK_MONOTONIC, &time);
    reached = true;
  }
};
// Whoever waits for an event waits for what it meant then, though it be recorded again.
struct EmulatedEvent {
  int gpu;
  std::shared_ptr<EmulatedPoint> point;
};

namespace {

enum class Order { at_once, lazy, eager, drawn };
uint64_t seed = 0;
Order order() {
  static const Order one = [] {
    const char* value = getenv("EMULATION_STREAMS");
    if (!value || !value[0]) return Order::at_once;
    if (!strcmp(value, "lazy")) return Order::lazy;
    if (!strcmp(value, "eager")) return Order::eager;
    return seed = strtoull(value, nullptr, 10), Order::drawn;
  }();
  return one;
}
bool deferred() { return order() != Order::at_once; }

std::mutex queues_mutex;   // of the queues
std::mutex running_mutex;  // held by the one thread that runs something
std::set<EmulatedStream*>& streams = *new std::set<EmulatedStream*>;
uint64_t numbers = 0;

bool may_run(EmulatedStream* s) { return !s->queue.empty() && !*s->stalled && (!s->queue.front().ready || s->queue.front().ready()); }

// A stream whose first item may run and brings `wanted` nearer, or null.
EmulatedStream* towards(EmulatedStream* wanted, std::set<EmulatedStream*>& seen) {
  if (!seen.insert(wanted).second || !streams.count(wanted) || wanted->queue.empty() || *wanted->stalled) return nullptr;
  if (may_run(wanted)) return wanted;
  for (EmulatedStream* other : wanted->queue.front().behind)
    if (EmulatedStream* found = towards(other, seen)) return found;
  return nullptr;
}

EmulatedStream* choose(EmulatedStream* wanted) {
  std::set<EmulatedStream*> seen;
  if (order() == Order::lazy) return towards(wanted, seen);
  std::vector<EmulatedStream*> all;
  for (EmulatedStream* s : streams)
    if (may_run(s)) all.push_back(s);
  if (all.empty()) return nullptr;
  auto number = [](EmulatedStream* s) { return s->queue.front().number; };
  std::sort(all.begin(), all.end(), [&](EmulatedStream* a, EmulatedStream* b) { return number(a) > number(b); });
  if (order() == Order::eager) return all[0];
  seed = seed * 6364136223846793005u + 1442695040888963407u;
  return all[(seed >> 33) % all.size()];
}

// Runs one item; false when none may.
bool advance(EmulatedStream* wanted) {
  std::lock_guard<std::mutex> running(running_mutex);
  std::function<void()> work;
  {
    std::lock_guard<std::mutex> lock(queues_mutex);
    EmulatedStream* s = choose(wanted);
    if (!s) return false;
    work = std::move(s->queue.front().work);
    s->queue.pop_front();
  }
  if (!emulation::faulted()) work();
  return true;
}

void wait_for(const EmulatedPoint& point) {
  while (!point.reached && !emulation::faulted())
    if (!deferred() || !advance(point.stream)) sched_yield();
}

std::shared_ptr<EmulatedPoint> point_of(EmulatedStream* s) {
  auto point = std::make_shared<EmulatedPoint>();
  point->stream = s;
  if (*s->stalled) point->stalled = s->stalled;
  if (deferred()) s->push({[point] { point->reach(); }, nullptr, {}, 0});
  else point->reach();
  return point;
}

}  // namespace

void EmulatedStream::push(EmulatedItem item) {
  std::lock_guard<std::mutex> lock(queues_mutex);
  item.number = ++numbers;
  queue.push_back(std::move(item));
}
bool EmulatedStream::deferred() const { return ::deferred(); }
void EmulatedStream::run(std::function<void()> work) { emulation::enqueue(this, std::move(work)); }

void emulation::enqueue(cudaStream_t stream, std::function<void()> work) {
  if (stream && stream->capture) stream->capture->work.push_back(std::move(work));
  else if (stream && deferred()) stream->push({std::move(work), nullptr, {}, 0});
  else if (!faulted()) work();
}

// Freed memory may be in use by what is queued: the runtime waits for all of it.
void emulation::drain() {
  while (deferred() && !faulted()) {
    EmulatedStream* some = nullptr;
    {
      std::lock_guard<std::mutex> lock(queues_mutex);
      for (EmulatedStream* s : streams)
        if (may_run(s)) some = s;
    }
    if (!some) return;
    advance(some);
  }
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) {
  std::lock_guard<std::mutex> lock(queues_mutex);
  streams.insert(*s = new EmulatedStream);
  return cudaGetDevice(&(*s)->gpu);
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned flags, int) { return cudaStreamCreateWithFlags(s, flags); }
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) { return *least = 0, *greatest = -5, cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  cudaStreamSynchronize(s);
  std::lock_guard<std::mutex> running(running_mutex);
  std::lock_guard<std::mutex> lock(queues_mutex);
  streams.erase(s);
  delete s->capture;
  return delete s, cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  if (s && s->capture) return cudaErrorInvalidValue;
  if (s && deferred()) wait_for(*point_of(s));
  return emulation::state();
}
cudaError_t cudaStreamQuery(cudaStream_t) { return emulation::state(); }
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
  auto point = e->point;
  if (deferred() && point && !point->reached) s->push({[] {}, [point] { return point->reached.load(); }, {point->stream}, 0});
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
  if (s->capture) return cudaErrorInvalidValue;
  s->capture = new EmulatedGraph;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* graph) {
  if (!s->capture) return cudaErrorInvalidValue;
  *graph = s->capture, s->capture = nullptr;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* e, cudaGraph_t g, unsigned long long) {
  return *e = new EmulatedGraph(*g), cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s) {
  for (auto& work : e->work) emulation::enqueue(s, work);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) { return delete g, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e) { return delete e, cudaSuccess; }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) { return cudaGetDevice(&(*e = new EmulatedEvent{})->gpu); }
cudaError_t cudaEventDestroy(cudaEvent_t e) { return delete e, cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
  if (e->gpu != s->gpu) return cudaErrorInvalidValue;  // they have to be of one context
  return e->point = point_of(s), cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t e) {
  if (!e->point) return emulation::state();
  while (deferred() && !e->point->reached && !emulation::faulted())
    if (!advance(e->point->stream)) break;
  bool waits = deferred() ? !e->point->reached : e->point->stalled && *e->point->stalled != 0;
  return waits && !emulation::faulted() ? cudaErrorNotReady : emulation::state();
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
  while (cudaEventQuery(e) == cudaErrorNotReady) sched_yield();
  return emulation::state();
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t a, cudaEvent_t b) {
  if (!a->point || !b->point || !a->point->reached || !b->point->reached) return cudaErrorNotReady;
  const timespec &from = a->point->time, &to = b->point->time;
  *ms = float(double(to.tv_sec - from.tv_sec) * 1e3 + double(to.tv_nsec - from.tv_nsec) * 1e-6);
  return cudaSuccess;
}

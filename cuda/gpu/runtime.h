// The GPU's devices: two streams each, work that is issued ahead of its end, and what is kept for it.
#pragma once
#include <condition_variable>
#include <map>
#include <thread>

#include "../common/device.h"
#include "kernels.h"
#include "progress.h"
#include "scoreboard.h"

namespace baton {

// "no CUDA driver: …" when there is no GPU to use, else an empty text.
std::string missing_gpu();
int gpu_count();

// An event that goes with its last user.
class Event {
 public:
  explicit Event(bool timed);
  ~Event();
  Event(const Event&) = delete;
  cudaEvent_t id = nullptr;
};

// Where a job ends on its stream, and what it touches: what comes later on the other stream waits for it where both touch the same.
struct Mark {
  Event end{false};
  Footprint touched;
  bool ended = false;   // its job has been reported
  uint64_t end_ns = 0;
};

class GpuDevice : public Device {
 public:
  explicit GpuDevice(int gpu) : gpu_(gpu) {}
  ~GpuDevice() override;
  bool prepare();  // false when there was no memory
  int gpu() const { return gpu_; }
  double product(uint32_t mode, long m, long n, long k, uint32_t reps) override;
  void sample(uint32_t every) override { every_ = every; }

  // The next of a ring of events for meetings of ranks. One is used again long after all have waited for it.
  cudaEvent_t meeting_event() { return meetings_[next_meeting_++ % MEETINGS]->id; }
  // Whether kernels of this device may read and write memory of that GPU; −1 is the host's.
  bool reaches(int gpu) const;

 private:
  static constexpr int MEETINGS = 64, IN_FLIGHT = 256;
  // A job whose work is under way, or that has failed before.
  struct Issued {
    std::shared_ptr<Job> job;
    uint64_t begin_ns;
    int32_t status;
    std::string error;
    Fault* fault;  // on the host, filled in when the job's mark is reached; null for copies, and when nothing was issued
    int slot;      // of its progress
    std::shared_ptr<Mark> behind;  // of a job on the other stream that it waits for
    bool replayed;
    cudaError_t lost;  // what took the GPU away, when that was seen while the job was issued
    std::vector<std::shared_ptr<Event>> marks;  // while profiling: before the first operation and after each
    std::vector<uint16_t> codes;
    uint32_t weight = 1;  // executions that these times are counted for
  };

  void enter() override;
  void leave() override;
  int32_t perform(Job& job, std::string& error) override;
  bool follow(const std::shared_ptr<Job>& job, uint64_t begin_ns, int32_t status, const std::string& error) override;

  // A stream, and the thread that waits for the ends of its jobs, in their order. Jobs of two lanes may end in any order.
  struct Lane {
    cudaStream_t stream = nullptr;
    char* scratch = nullptr;
    std::deque<Issued> issued;
    std::deque<std::shared_ptr<Mark>> open;  // of jobs that were issued and are not reported
    int in_flight = 0;
    uint64_t last_end = 0;
    std::thread completer;
  };
  Lane& lane_of(const Job& job) { return job.program ? compute_ : copies_; }
  // Makes a lane wait for what the other one does with the same memory.
  std::shared_ptr<Mark> wait_for_other(Lane& lane, const Footprint& touched);
  bool idle(const Lane& lane);

  int32_t execute(Job& job, std::string& error);
  uint32_t timed(const Program& program);
  enum class Mode { plain, timed, captured };
  int32_t issue_operations(Job& job, std::string& error, Mode mode);
  std::string place_of(const Issued& issued) const;
  int32_t copy(Job& job, std::string& error);
  void complete(Lane& lane);
  void end(Issued& issued, Lane& lane);
  void watch(Issued& issued);
  Call call_on(const Lane& lane, const Operands& operands, char* error) const;

  // A program that was captured on these addresses and sizes.
  struct Captured {
    cudaGraphExec_t graph = nullptr;
    uint64_t used = 0;
    std::shared_ptr<const Program> program;  // so that its address stays its own
  };
  typedef std::vector<uint64_t> Key;
  bool replay(const Key& key, std::string& error);
  bool capture(Job& job, const Key& key, std::string& error, int32_t& status);

  const int gpu_;
  Lane compute_, copies_;
  char* scratch_ = nullptr;                     // of both lanes
  Fault *fault_ = nullptr, *faults_ = nullptr;  // on the device; a ring on the host
  uint64_t next_fault_ = 0;
  // A slot for each program in flight, one for graphs, and then one for each program's operations beside its others.
  static constexpr int GRAPHS = IN_FLIGHT, BESIDE = IN_FLIGHT + 1;
  Progress progress_;
  std::vector<std::unique_ptr<Event>> spare_events_;  // of operations beside others
  std::vector<std::shared_ptr<Event>> meetings_;
  uint64_t next_meeting_ = 0, graph_clock_ = 0;
  std::map<Key, Captured> graphs_;
  std::map<Key, int> seen_;
  std::atomic<uint32_t> every_{64};  // execution of a program whose operations are timed
  struct Executions {
    uint32_t untimed = 0;  // since the last one that was timed
    bool sampled = false;
  };
  std::map<const Program*, Executions> executions_;
  Issued current_;  // of the worker, between perform and follow

  std::mutex issued_mutex_;
  std::condition_variable issued_changed_;
  bool leaving_ = false;
};

inline bool is_collective(uint16_t code) { return (code >= SHARD_LOGPROB && code <= SUM_DOUBLES) || code == REDUCE_OWN_ROWS; }
// Whether ranks meet in a program while it is issued: it cannot be a graph.
bool meets(const Program& program);

// Queues moves on a stream: to = from, or weight · from + (1 − weight) · to over floats when `weight` is not 1.
void copy_memory(Call& c, const std::vector<Move>& moves, double weight);

// The GPU of an address that some segment has, −1 for host memory.
int gpu_of(const void* address);
// GPU of segments that are near no device in particular: that of the first device.
void prefer_gpu(int gpu);

}  // namespace baton

// Copies between GPUs by NCCL's send and receive: where they cannot read each other's memory, or BATON_CUDA_COPIES=nccl. One thread, the
// receiver's, issues both ends.
#pragma once
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../common/segment.h"
#include "kernels.h"
#include "nccl.h"

namespace baton {

// What a GPU packs strided pieces in before it sends them: allocated with its first link, as NCCL's own buffers are.
constexpr uint64_t SEND_BYTES = RECEIVE_BYTES;

// What leaves one GPU, to whichever others: a stream, and memory for pieces that have to be packed.
struct Sender {
  std::mutex mutex;  // of whoever issues a send: packs, sends and events of one exchange stay together
  cudaStream_t stream = nullptr;
  char* scratch = nullptr;
};

// For as long as it lives, what this thread asks of CUDA is about another GPU.
struct On {
  int before = 0;
  explicit On(int gpu) { cudaGetDevice(&before), cudaSetDevice(gpu); }
  ~On() { cudaSetDevice(before); }
};

// Two communicators, one for each of a pair of GPUs, and the sender of the first.
class Link {
 public:
  // Null when NCCL cannot be had; `why` then says it.
  static std::shared_ptr<Link> between(int from, int to, std::string& why);
  ~Link();
  Link(const Link&) = delete;

  // What goes from one memory to the other as it is.
  struct Piece {
    const char* from;
    char* to;
    uint64_t bytes;
  };
  Sender& sender() const { return *sender_; }
  int source() const { return gpus_[0]; }
  // Queues all pieces in one group: sends on the sender's stream, receives on the call's. A failure is the call's error.
  void exchange(Call& c, const std::vector<Piece>& pieces);

  // ---- for the thread that waits for the ends of jobs ----
  // Why it cannot go on, or an empty text.
  std::string trouble();
  // Ends what is on the GPUs; the next copy makes another link.
  void abort();
  bool alive();

 private:
  Link(int from, int to) : gpus_{from, to} {}
  bool connect(std::string& why);
  std::string settle(int result, const char* what);

  const int gpus_[2];
  Sender* sender_ = nullptr;
  std::mutex mutex_;  // of calls that use the communicators
  NcclComm* comms_[2] = {};
};

// Whether a move between these GPUs (−1 for the host) goes through NCCL on a device of the second one.
bool by_nccl(const GpuDevice& device, int from, int to);

}  // namespace baton

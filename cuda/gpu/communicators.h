// The NCCL communicators of one group, one for each rank: made when the ranks first meet, warmed up, never blocking, and ended
// when the group fails or goes.
#pragma once
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kernels.h"
#include "nccl.h"

namespace baton {

class Communicators {
 public:
  // How the ranks of a group exchange data: all of them decide alike. `stopped`: the group has failed, or a call has its error.
  enum class Way { unknown, copies, nccl, stopped };

  static std::shared_ptr<Communicators> of(Group& group);
  explicit Communicators(uint32_t ranks) : ranks_(ranks) {}
  ~Communicators();
  Communicators(const Communicators&) = delete;

  // On every rank's thread, before its first operation in the group: meets the others there and makes the communicators, unless
  // BATON_CUDA_COLLECTIVES, the GPUs or the libraries say that data are copied.
  Way join(Call& c, Group& group, uint32_t rank);
  // Gives NCCL work on the call's stream and returns once it has taken it. A failure is the call's error, or `c.stopped`.
  void issue(Call& c, Group& group, uint32_t rank, const std::function<int(const Nccl&, NcclComm*)>& work);

  // ---- for the thread that waits for the ends of jobs ----
  bool joined(uint32_t rank) const { return ranks_[rank].way == Way::nccl; }
  // Why a rank's communicator cannot go on, or an empty text.
  std::string trouble(uint32_t rank);
  // Ends what a rank has on its GPU: kernels that wait for others return.
  void abort(uint32_t rank);

 private:
  struct Rank {
    std::mutex mutex;  // of calls that use the communicator
    NcclComm* comm = nullptr;
    Way way = Way::unknown;
  };
  bool connect(Call& c, Group& group, uint32_t rank, const NcclId& id, bool shared);
  bool taken(Call& c, Group& group, uint32_t rank, int result, const char* what);

  std::vector<Rank> ranks_;
};

}  // namespace baton

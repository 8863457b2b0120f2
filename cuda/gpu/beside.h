// Collective operations of a program beside its others, on the device's second stream.
#pragma once
#include <cuda_runtime.h>

#include <memory>
#include <vector>

#include "runtime.h"

namespace baton {

// Where each operation of one run of a program goes. Usage: `stream_for` before every operation in order, `done` behind it, `join` at
// the end, however the run ends. Ranks may decide differently: only events tie their streams together.
class Beside {
 public:
  // Without `second`, all goes to the first stream.
  Beside(const Program& program, cudaStream_t first, cudaStream_t second, std::vector<std::unique_ptr<Event>>& spare)
      : program_(program), first_(first), second_(second), spare_(spare) {}

  // The stream of an operation, which waits for what the operation needs of the other one.
  cudaStream_t stream_for(size_t index, const Operands& operands);
  bool on_second() const { return beside_; }
  void done(const Operands& operands);
  void join();

 private:
  // What runs on the second stream, in its order, and touches what the first one may come to.
  struct Pending {
    Footprint touched;
    std::unique_ptr<Event> end;
  };
  bool worth(size_t index) const;
  std::unique_ptr<Event> event();
  void wait_for(size_t count);

  const Program& program_;
  const cudaStream_t first_, second_;
  std::vector<std::unique_ptr<Event>>& spare_;
  std::vector<Pending> pending_;
  size_t index_ = 0;
  bool beside_ = false;
};

}  // namespace baton

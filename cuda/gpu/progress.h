// Which operation of a job a stream has come to, in memory of the host: it can still be read when a fault has taken the GPU away.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

namespace baton {

class Progress {
 public:
  static constexpr int NOT_BEGUN = -1;
  // A replayed graph marks some of its operations only: a mark there is a node of its own.
  static constexpr int EVERY = 16;

  ~Progress();
  bool prepare(int slots);  // false when there was no memory
  // Before a job is issued; nothing that was issued marks the slot any more.
  void begin(int slot) { words_[slot] = NOT_BEGUN; }
  // Queues: the stream has come to `operation`.
  void mark(cudaStream_t stream, int slot, int operation);
  // The same as a kernel, which can be captured.
  void mark_captured(cudaStream_t stream, int slot, int operation);
  int at(int slot) const { return words_[slot]; }

 private:
  volatile int* words_ = nullptr;
};

}  // namespace baton

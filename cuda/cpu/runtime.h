// The CPU's devices: the pools that they run kernels on.
#pragma once
#include <mutex>

#include "../common/device.h"
#include "kernels.h"
#include "widen.h"

namespace baton {

class CpuDevice : public Device {
 public:
  explicit CpuDevice(int threads) : pool_(threads) {}
  bool ok() const { return pool_.ok(); }  // false when there was no memory
  double product(uint32_t mode, long m, long n, long k, uint32_t reps) override;

 private:
  void enter() override { flush_subnormals(); }
  int32_t perform(Job& job, std::string& error) override;
  int32_t execute(Job& job, std::string& error);

  Pool pool_;
  Widened widened_;
  std::mutex kernels_;  // held while kernels use the pool
};

// The instruction set in use.
const Instructions& instructions();

// Runs moves on the pool: to = from, or weight · from + (1 − weight) · to over floats when `weight` is not 1. Ends early
// once `stop` is set.
void copy_memory(Pool& pool, const std::vector<Move>& moves, double weight, const std::atomic<bool>& stop);

}  // namespace baton

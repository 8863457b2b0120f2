#include "progress.h"

#ifndef BATON_EMULATION
#include <dlfcn.h>
#endif

#include "kernels/kernel.cuh"

namespace baton {
namespace {

__global__ void mark_kernel(volatile int* word, int operation) { *word = operation; }

#ifndef BATON_EMULATION
// CUresult cuStreamWriteValue32(CUstream, CUdeviceptr, cuuint32_t, unsigned): done by the stream itself, without a kernel.
typedef int Write(cudaStream_t, unsigned long long, unsigned, unsigned);
Write* driver_write() {
  static Write* const found = [] {
    void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    return driver ? reinterpret_cast<Write*>(dlsym(driver, "cuStreamWriteValue32_v2")) : nullptr;
  }();
  return found;
}
#endif

}  // namespace

Progress::~Progress() {
  if (words_) cudaFreeHost(const_cast<int*>(words_));
}

bool Progress::prepare(int slots) {
  void* p = nullptr;
  if (cudaHostAlloc(&p, size_t(slots) * sizeof(int), cudaHostAllocPortable | cudaHostAllocMapped) != cudaSuccess) return false;
  words_ = static_cast<int*>(p);
  for (int i = 0; i < slots; i++) words_[i] = NOT_BEGUN;
  return true;
}

void Progress::mark(cudaStream_t stream, int slot, int operation) {
  volatile int* word = words_ + slot;
#ifdef BATON_EMULATION
  emulation::enqueue(stream, [=] { *word = operation; });
#else
  // A mark that could not be queued is only missed when something else fails.
  if (driver_write()) driver_write()(stream, reinterpret_cast<uintptr_t>(word), unsigned(operation), 0);
#endif
}

void Progress::mark_captured(cudaStream_t stream, int slot, int operation) {
  volatile int* word = words_ + slot;
#ifdef BATON_EMULATION
  emulation::enqueue(stream, [=] { *word = operation; });
#else
  mark_kernel<<<1, 1, 0, stream>>>(word, operation);
#endif
}

}  // namespace baton

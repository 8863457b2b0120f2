// A host stand-in for the part of the CUDA runtime that cuda/gpu uses, for tests on machines without a GPU. Kernels run
// block by block on the calling thread, each thread of a block as a fiber, so barriers and warp shuffles mean what they
// mean on a GPU. Streams run what they are given at once, or put it off (streams.cpp). Nothing here is about speed.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#define BATON_EMULATION 1
#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// A host thread runs one block at a time.
#define __shared__ static thread_local

struct uint3 { unsigned x, y, z; };
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(8) float2 { float x, y; };

namespace emulation {

struct Here { uint3 thread, block; dim3 threads, blocks; };
extern thread_local Here* here;

void run(dim3 blocks, dim3 threads, size_t shared, const std::function<void()>& kernel);
void* dynamic_shared();
void block_barrier();
void warp_barrier();
unsigned lane();
// Shows the warp 8 bytes and returns those of another lane, after all lanes have come.
uint64_t exchange(uint64_t mine, unsigned from);
unsigned ballot(bool mine);
// Shows the warp up to 32 bytes and returns those of all lanes, 32 apart; they stay until the exchange after the next one.
const char* show(const void* mine, size_t bytes);
// Copies of a thread to shared memory that are made no sooner than it waits for them: what reads before sees what was there.
// A null source fills with zeros. `wait` leaves the newest groups that were committed under way.
void copy_later(void* to, const void* from, size_t bytes);
void commit_copies();
void wait_for_copies(int newest);

template <class T>
T shuffle(T value, unsigned from) {
  static_assert(sizeof(T) <= 8, "a shuffle moves 8 bytes at most");
  uint64_t word = 0;
  memcpy(&word, &value, sizeof value);
  word = exchange(word, from);
  memcpy(&value, &word, sizeof value);
  return value;
}

}  // namespace emulation

#define threadIdx (emulation::here->thread)
#define blockIdx (emulation::here->block)
#define blockDim (emulation::here->threads)
#define gridDim (emulation::here->blocks)

inline void __syncthreads() { emulation::block_barrier(); }
inline void __syncwarp(unsigned = ~0u) { emulation::warp_barrier(); }
inline void __threadfence() {}
template <class T>
T __shfl_xor_sync(unsigned, T v, int mask) { return emulation::shuffle(v, emulation::lane() ^ unsigned(mask)); }
template <class T>
T __shfl_sync(unsigned, T v, int from) { return emulation::shuffle(v, unsigned(from)); }
inline unsigned __ballot_sync(unsigned, int v) { return emulation::ballot(v != 0); }
inline int __ffs(unsigned v) { return __builtin_ffs(int(v)); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline float __ldg(const float* p) { return *p; }
inline int __ldg(const int* p) { return *p; }
inline float4 __ldg(const float4* p) { return *p; }
inline float __int_as_float(int v) { float f; memcpy(&f, &v, 4); return f; }
inline int __float_as_int(float v) { int i; memcpy(&i, &v, 4); return i; }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
template <class T>
T atomicAdd(T* p, T v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
inline int atomicCAS(int* p, int expected, int desired) {
  __atomic_compare_exchange_n(p, &expected, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}
inline int atomicMin(int* p, int v) { int old = *p; if (v < old) *p = v; return old; }
inline int atomicMax(int* p, int v) { int old = *p; if (v > old) *p = v; return old; }

// ---- the runtime -------------------------------------------------------------------------------------------------

enum cudaError_t {
  cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2, cudaErrorNotReady = 600, cudaErrorIllegalAddress = 700
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDefault = 4 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaEventBlockingSync = 1, cudaHostAllocPortable = 1,
                   cudaHostAllocMapped = 2;
struct EmulatedGraph { std::vector<std::function<void()>> work; };
struct EmulatedStream;
// What a stream that puts its work off has to do: once `ready` says so, if it is there; `behind` are streams that it waits for.
struct EmulatedItem {
  std::function<void()> work;
  std::function<bool()> ready;
  std::vector<EmulatedStream*> behind;
  uint64_t number;
};
// `stalled`: a kernel waits for something (that the stand-in for NCCL does not bring), and events behind it do not come.
struct EmulatedStream {
  std::shared_ptr<std::atomic<int>> stalled = std::make_shared<std::atomic<int>>(0);
  EmulatedGraph* capture = nullptr;
  int gpu = 0;
  std::deque<EmulatedItem> queue;
  virtual ~EmulatedStream() = default;
  // Virtual, so that stand-ins for libraries find them.
  virtual bool deferred() const;
  virtual void push(EmulatedItem item);
  // Does some work as its own: now, later, or for the graph that is being captured.
  virtual void run(std::function<void()> work);
};
struct EmulatedEvent;
typedef EmulatedStream* cudaStream_t;
typedef EmulatedEvent* cudaEvent_t;
typedef EmulatedGraph* cudaGraph_t;
typedef EmulatedGraph* cudaGraphExec_t;
struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
  size_t totalGlobalMem, sharedMemPerBlockOptin;
};

const char* cudaGetErrorString(cudaError_t);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
cudaError_t cudaDriverGetVersion(int*);
cudaError_t cudaRuntimeGetVersion(int*);
cudaError_t cudaGetDeviceCount(int*);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp*, int);
cudaError_t cudaSetDevice(int);
cudaError_t cudaGetDevice(int*);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaDeviceGetPCIBusId(char*, int, int);
cudaError_t cudaDeviceCanAccessPeer(int*, int, int);
cudaError_t cudaDeviceEnablePeerAccess(int, unsigned);
cudaError_t cudaMalloc(void**, size_t);
cudaError_t cudaFree(void*);
cudaError_t cudaHostAlloc(void**, size_t, unsigned);
cudaError_t cudaFreeHost(void*);
cudaError_t cudaMemcpyAsync(void*, const void*, size_t, cudaMemcpyKind, cudaStream_t);
cudaError_t cudaMemcpy2DAsync(void*, size_t, const void*, size_t, size_t, size_t, cudaMemcpyKind, cudaStream_t);
cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t*, unsigned);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t*, unsigned, int);
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest);
cudaError_t cudaStreamDestroy(cudaStream_t);
cudaError_t cudaStreamSynchronize(cudaStream_t);
cudaError_t cudaStreamQuery(cudaStream_t);
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned);
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode);
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t*);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t*, cudaGraph_t, unsigned long long);
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t);
cudaError_t cudaGraphDestroy(cudaGraph_t);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t*, unsigned);
cudaError_t cudaEventDestroy(cudaEvent_t);
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t);
cudaError_t cudaEventSynchronize(cudaEvent_t);
cudaError_t cudaEventQuery(cudaEvent_t);
cudaError_t cudaEventElapsedTime(float*, cudaEvent_t, cudaEvent_t);
template <class F>
cudaError_t cudaFuncSetAttribute(F*, cudaFuncAttribute, int) { return cudaSuccess; }

namespace emulation {
// Runs something on a stream, now or when something waits for it, or keeps it for the graph that is being captured.
void enqueue(cudaStream_t, std::function<void()>);
// The same for a kernel: EMULATION_FAULT=N makes the N-th one of the process an illegal access, after which nothing runs any more.
void enqueue_kernel(cudaStream_t, std::function<void()>);
}  // namespace emulation

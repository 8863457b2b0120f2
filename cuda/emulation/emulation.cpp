#include "cuda_runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "streams.h"

namespace emulation {

thread_local Here* here = nullptr;

namespace {

constexpr size_t STACK = 128 << 10, SHARED = 232448;
constexpr unsigned WARP = 32, MOST_THREADS = 1024;
enum State { READY, AT_BLOCK, AT_WARP, DONE };

#if defined(__x86_64__)
// Saves what a call preserves, and goes on where the other stack was left.
extern "C" void emulation_switch(void** from, void* to);
asm(R"(
.text
.hidden emulation_switch
.globl emulation_switch
.type emulation_switch, @function
emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulation_switch, .-emulation_switch
)");
typedef void* Context;
#else
typedef ucontext_t Context;
#endif

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

struct Fiber {
  Here at;
  Context context;
  State state;
  int parity;
  std::vector<std::vector<Copy>> copies;  // groups, oldest first; the last one is open
};

struct Warp {
  uint64_t slot[2][WARP];
  alignas(16) char shown[2][WARP][32];
};

// What a host thread needs to run one block.
struct Machine {
  char* stacks;
  std::vector<Fiber> fibers{MOST_THREADS};
  Warp warps[MOST_THREADS / WARP];
  alignas(1024) char shared[SHARED];
  Context scheduler;
  unsigned current = 0;
  const std::function<void()>* kernel = nullptr;

  Machine() {
    void* p = mmap(nullptr, STACK * MOST_THREADS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) abort();
    stacks = static_cast<char*>(p);
  }
  ~Machine() { munmap(stacks, STACK * MOST_THREADS); }

  Fiber& fiber() { return fibers[current]; }
  void prepare(unsigned i);
  void enter(unsigned i) {
    current = i;
    here = &fibers[i].at;
#if defined(__x86_64__)
    emulation_switch(&scheduler, fibers[i].context);
#else
    swapcontext(&scheduler, &fibers[i].context);
#endif
  }
  void yield(State state) {
    Fiber& f = fiber();
    f.state = state;
#if defined(__x86_64__)
    emulation_switch(&f.context, scheduler);
#else
    swapcontext(&f.context, &scheduler);
#endif
  }
  void block(unsigned count);
};

Machine& machine() {
  thread_local std::unique_ptr<Machine> one;
  if (!one) one.reset(new Machine);
  return *one;
}

void entry() {
  Machine& m = machine();
  (*m.kernel)();
  m.yield(DONE);
  abort();
}

void Machine::prepare(unsigned i) {
  Fiber& f = fibers[i];
  f.state = READY, f.parity = 0;
  f.copies.assign(1, {});
  char* top = stacks + STACK * (i + 1);
#if defined(__x86_64__)
  // As if `entry` had been called: aligned, with a return address that is never used, and six registers to restore.
  void** sp = reinterpret_cast<void**>(top) - 1;
  *--sp = reinterpret_cast<void*>(entry);
  sp -= 6;
  memset(sp, 0, 6 * sizeof *sp);
  f.context = sp;
  sp[7] = nullptr;
#else
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = top - STACK;
  f.context.uc_stack.ss_size = STACK;
  f.context.uc_link = nullptr;
  makecontext(&f.context, entry, 0);
#endif
}

void Machine::block(unsigned count) {
  for (unsigned i = 0; i < count; i++) prepare(i);
  for (unsigned live = count; live > 0;) {
    for (unsigned w = 0; w < count; w += WARP) {
      unsigned end = w + WARP < count ? w + WARP : count;
      for (;;) {
        unsigned ready = 0, waits = 0, others = 0;
        for (unsigned i = w; i < end; i++)
          if (fibers[i].state == READY) {
            enter(i);
            ready++;
            live -= fibers[i].state == DONE;
          }
        for (unsigned i = w; i < end; i++) waits += fibers[i].state == AT_WARP, others += fibers[i].state == AT_BLOCK;
        if (waits && others) {
          fprintf(stderr, "emulation: lanes of a warp wait for each other at different barriers\n");
          abort();
        }
        for (unsigned i = w; i < end; i++)
          if (fibers[i].state == AT_WARP) fibers[i].state = READY;
        if (!waits) break;
        if (!ready) abort();
      }
    }
    for (unsigned i = 0; i < count; i++)
      if (fibers[i].state == AT_BLOCK) fibers[i].state = READY;
  }
}

}  // namespace

void run(dim3 blocks, dim3 threads, size_t shared, const std::function<void()>& kernel) {
  unsigned count = threads.x * threads.y * threads.z;
  if (count == 0 || count > MOST_THREADS || shared > SHARED) {
    fprintf(stderr, "emulation: a kernel with %u threads and %zu bytes of shared memory\n", count, shared);
    abort();
  }
  Machine& m = machine();
  Here* outer = here;
  m.kernel = &kernel;
  for (unsigned i = 0; i < count; i++)
    m.fibers[i].at = {{i % threads.x, i / threads.x % threads.y, i / (threads.x * threads.y)}, {0, 0, 0}, threads, blocks};
  for (unsigned z = 0; z < blocks.z; z++)
    for (unsigned y = 0; y < blocks.y; y++)
      for (unsigned x = 0; x < blocks.x; x++) {
        memset(m.shared, 0xff, shared);  // NaN: a kernel may not count on zeros
        for (unsigned i = 0; i < count; i++) m.fibers[i].at.block = {x, y, z};
        m.block(count);
      }
  here = outer;
}

void* dynamic_shared() { return machine().shared; }
void block_barrier() { machine().yield(AT_BLOCK); }
void warp_barrier() { machine().yield(AT_WARP); }
unsigned lane() { return machine().current % WARP; }

// Two slots: a lane may come to the next exchange while another still reads this one, but not to the one after that.
uint64_t exchange(uint64_t mine, unsigned from) {
  Machine& m = machine();
  unsigned me = m.current;
  int parity = m.fibers[me].parity;
  m.fibers[me].parity ^= 1;
  m.warps[me / WARP].slot[parity][me % WARP] = mine;
  m.yield(AT_WARP);
  return m.warps[me / WARP].slot[parity][from % WARP];
}

const char* show(const void* mine, size_t bytes) {
  Machine& m = machine();
  unsigned me = m.current;
  int parity = m.fibers[me].parity;
  m.fibers[me].parity ^= 1;
  memcpy(m.warps[me / WARP].shown[parity][me % WARP], mine, bytes);
  m.yield(AT_WARP);
  return m.warps[me / WARP].shown[parity][0];
}

void copy_later(void* to, const void* from, size_t bytes) { machine().fiber().copies.back().push_back({to, from, bytes}); }
void commit_copies() { machine().fiber().copies.emplace_back(); }
void wait_for_copies(int newest) {
  auto& groups = machine().fiber().copies;
  while (int(groups.size()) - 1 > newest) {
    for (const Copy& c : groups.front()) c.from ? memcpy(c.to, c.from, c.bytes) : memset(c.to, 0, c.bytes);
    groups.erase(groups.begin());
  }
}

unsigned ballot(bool mine) {
  unsigned bits = 0;
  Machine& m = machine();
  unsigned me = m.current;
  int parity = m.fibers[me].parity;
  m.fibers[me].parity ^= 1;
  m.warps[me / WARP].slot[parity][me % WARP] = mine;
  m.yield(AT_WARP);
  for (unsigned i = 0; i < WARP; i++) {
    unsigned other = me / WARP * WARP + i;
    const dim3& t = m.fibers[me].at.threads;
    if (other < t.x * t.y * t.z && m.warps[me / WARP].slot[parity][i] == 1) bits |= 1u << i;
  }
  return bits;
}

}  // namespace emulation

// ---- the runtime -------------------------------------------------------------------------------------------------

namespace {

constexpr int GPUS = 16, HOST = GPUS;
constexpr size_t MEMORY = size_t(64) << 30;  // of each GPU, and of the host
struct Allocation {
  size_t bytes;
  int where;
};
std::mutex allocations_mutex;
std::map<void*, Allocation>& allocations = *new std::map<void*, Allocation>;
size_t allocated[GPUS + 1] = {};
thread_local int current = 0;  // the GPU that this thread has chosen

// Pages cost nothing before they are touched, so only small memory is filled with what was never written.
cudaError_t allocate(void** p, size_t bytes, int where) {
  std::lock_guard<std::mutex> lock(allocations_mutex);
  if (bytes > MEMORY - allocated[where]) return cudaErrorMemoryAllocation;
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return cudaErrorMemoryAllocation;
  if (bytes <= 1 << 20) memset(at, 0xa5, bytes);
  allocations[at] = {bytes, where}, allocated[where] += bytes;
  return *p = at, cudaSuccess;
}

// An illegal access takes everything that the process has on GPUs.
std::atomic<bool> gone{false};
bool faults_now() {
  static const long at = [] {
    const char* text = getenv("EMULATION_FAULT");
    return text ? atol(text) : 0;
  }();
  static std::atomic<long> kernels{0};
  return at > 0 && ++kernels == at;
}

}  // namespace

bool emulation::faulted() { return gone; }
cudaError_t emulation::state() { return gone ? cudaErrorIllegalAddress : cudaSuccess; }
using emulation::state;

// Kernels are compiled with -ftz=true: subnormals are zero while they run, on whatever thread.
void emulation::enqueue_kernel(cudaStream_t stream, std::function<void()> kernel) {
  if (stream && stream->gpu != current) {
    fprintf(stderr, "emulation: a kernel for a stream of GPU %d while GPU %d is chosen\n", stream->gpu, current);
    abort();
  }
  // EMULATION_LAUNCHES=PATH: a file that grows by a byte with every kernel.
  if (const char* path = getenv("EMULATION_LAUNCHES"))
    if (FILE* file = fopen(path, "a")) fputc('.', file), fclose(file);
  enqueue(stream, [kernel = std::move(kernel)] {
    if (faults_now()) return gone.store(true);
#if defined(__x86_64__)
    unsigned before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(before | 0x8040);
    kernel();
    __builtin_ia32_ldmxcsr(before);
#else
    kernel();
#endif
  });
}

const char* cudaGetErrorString(cudaError_t e) {
  switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    default: return "invalid value";
  }
}
cudaError_t cudaGetLastError() { return state(); }
cudaError_t cudaPeekAtLastError() { return state(); }
cudaError_t cudaDriverGetVersion(int* v) { return *v = 13000, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* v) { return *v = 13000, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* n) { return *n = GPUS, cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  // EMULATION_SHARED=101376 is a card whose blocks have less shared memory than an H100's.
  const char* shared = getenv("EMULATION_SHARED");
  *p = {"emulation", 9, 0, 4, MEMORY, shared ? size_t(atol(shared)) : 232448};
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int gpu) {
  if (gpu < 0 || gpu >= GPUS) return cudaErrorInvalidValue;
  return current = gpu, cudaSuccess;
}
cudaError_t cudaGetDevice(int* gpu) { return *gpu = current, cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  std::lock_guard<std::mutex> lock(allocations_mutex);
  return *free = MEMORY - allocated[current], *total = MEMORY, cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* id, int size, int gpu) {
  return snprintf(id, size_t(size), "0000:%02X:00.0", gpu + 1), cudaSuccess;
}
// EMULATION_PEERS=0: no GPU reads another one's memory, or would if there were more than one memory.
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  static const char* const text = getenv("EMULATION_PEERS");
  return *can = !text || text[0] != '0', cudaSuccess;
}
cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return cudaSuccess; }

cudaError_t cudaMalloc(void** p, size_t bytes) { return allocate(p, bytes, current); }
cudaError_t cudaFree(void* p) {
  emulation::drain();
  std::lock_guard<std::mutex> lock(allocations_mutex);
  auto found = allocations.find(p);
  if (found == allocations.end()) return cudaErrorInvalidValue;
  munmap(p, found->second.bytes);
  allocated[found->second.where] -= found->second.bytes;
  allocations.erase(found);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) { return allocate(p, bytes, HOST); }
cudaError_t cudaFreeHost(void* p) { return cudaFree(p); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t s) {
  emulation::enqueue(s, [=] { memmove(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                              cudaMemcpyKind, cudaStream_t s) {
  if (width > to_pitch || width > from_pitch) return cudaErrorInvalidValue;
  emulation::enqueue(s, [=] {
    for (size_t i = 0; i < height; i++)
      memcpy(static_cast<char*>(to) + i * to_pitch, static_cast<const char*>(from) + i * from_pitch, width);
  });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int byte, size_t bytes, cudaStream_t s) {
  // Fresh memory is zero already, and stays untouched.
  static const size_t PAGE = 4096;
  emulation::enqueue(s, [=] {
    if (byte == 0 && bytes > (1 << 20) && reinterpret_cast<uintptr_t>(p) % PAGE == 0 && bytes % PAGE == 0)
      madvise(p, bytes, MADV_DONTNEED);
    else
      memset(p, byte, bytes);
  });
  return cudaSuccess;
}

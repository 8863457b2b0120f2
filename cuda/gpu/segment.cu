// Memory of GPUs, and pinned memory of the host. One address space holds both, so a segment is an address.
#include <algorithm>
#include <map>
#include <mutex>

#include "runtime.h"

namespace baton {
namespace {

constexpr int HOST = -1, UNSET = -2;

// What reads and writes of the host go through, one after the other for each GPU, beside all that is queued.
struct Transfer {
  std::mutex mutex;
  cudaStream_t stream = nullptr;
};
Transfer& transfer_of(int gpu) {
  static std::mutex mutex;
  static std::map<int, Transfer>& all = *new std::map<int, Transfer>;
  std::lock_guard<std::mutex> lock(mutex);
  Transfer& t = all[gpu];
  if (!t.stream) cudaStreamCreateWithFlags(&t.stream, cudaStreamNonBlocking);
  return t;
}

std::atomic<int> preferred{UNSET};

// Which GPU an address belongs to.
std::mutex ranges_mutex;
std::map<const char*, std::pair<uint64_t, int>>& ranges = *new std::map<const char*, std::pair<uint64_t, int>>;

int32_t status_of(cudaError_t e) { return e == cudaSuccess ? BATON_OK : BATON_FAILED; }

// Queues something on the transfer stream of a GPU and waits for it.
template <class F>
int32_t transfer(int gpu, F queue) {
  if (cudaSetDevice(gpu) != cudaSuccess) return BATON_FAILED;
  Transfer& t = transfer_of(gpu);
  std::lock_guard<std::mutex> lock(t.mutex);
  cudaError_t e = queue(t.stream);
  return status_of(e == cudaSuccess ? cudaStreamSynchronize(t.stream) : e);
}

}  // namespace

void prefer_gpu(int gpu) {
  int nobody = UNSET;
  preferred.compare_exchange_strong(nobody, gpu);
}

int gpu_of(const void* address) {
  std::lock_guard<std::mutex> lock(ranges_mutex);
  auto after = ranges.upper_bound(static_cast<const char*>(address));
  if (after == ranges.begin()) return HOST;
  const auto& [base, range] = *--after;
  return static_cast<const char*>(address) < base + range.first ? range.second : HOST;
}

struct Segment::Pages {
  char* base;
  int gpu;
  ~Pages() {
    {
      std::lock_guard<std::mutex> lock(ranges_mutex);
      ranges.erase(base);
    }
    if (gpu == HOST) {
      cudaFreeHost(base);
    } else {
      cudaSetDevice(gpu);
      cudaFree(base);
    }
  }
};

Segment::Segment(char* base, uint64_t bytes, std::shared_ptr<const Pages> pages)
    : base(base), bytes(bytes), pages_(std::move(pages)) {}

std::shared_ptr<Segment> Segment::create(uint64_t bytes, const Device* near, bool host) {
  if (!missing_gpu().empty()) return nullptr;
  int gpu = host ? HOST : near ? static_cast<const GpuDevice*>(near)->gpu() : std::max(0, preferred.load());
  uint64_t room = std::max<uint64_t>(bytes, 64);
  void* p = nullptr;
  if (host) {
    if (cudaHostAlloc(&p, room, cudaHostAllocPortable | cudaHostAllocMapped) != cudaSuccess) return cudaGetLastError(), nullptr;
    memset(p, 0, room);
  } else {
    if (cudaSetDevice(gpu) != cudaSuccess || cudaMalloc(&p, room) != cudaSuccess) return cudaGetLastError(), nullptr;
  }
  char* base = static_cast<char*>(p);
  auto pages = std::shared_ptr<const Pages>(new Pages{base, gpu});
  {
    std::lock_guard<std::mutex> lock(ranges_mutex);
    ranges[base] = {room, gpu};
  }
  auto made = std::shared_ptr<Segment>(new Segment(base, bytes, pages));
  if (!host && made->fill(base, 0, room) != BATON_OK) return nullptr;
  return made;
}

std::shared_ptr<Segment> Segment::view(uint64_t offset, uint64_t length) const {
  char* p = place(offset, length);
  return p ? std::shared_ptr<Segment>(new Segment(p, length, pages_)) : nullptr;
}

char* Segment::place(uint64_t offset, uint64_t length) const {
  return offset <= bytes && length <= bytes - offset ? base + offset : nullptr;
}

int32_t Segment::write(char* to, const void* from, uint64_t length) const {
  if (length == 0) return BATON_OK;
  if (pages_->gpu == HOST) return memcpy(to, from, length), BATON_OK;
  return transfer(pages_->gpu, [&](cudaStream_t s) { return cudaMemcpyAsync(to, from, length, cudaMemcpyHostToDevice, s); });
}

int32_t Segment::read(const char* from, void* to, uint64_t length) const {
  if (length == 0) return BATON_OK;
  if (pages_->gpu == HOST) return memcpy(to, from, length), BATON_OK;
  return transfer(pages_->gpu, [&](cudaStream_t s) { return cudaMemcpyAsync(to, from, length, cudaMemcpyDeviceToHost, s); });
}

int32_t Segment::fill(char* to, uint8_t byte, uint64_t length) const {
  if (length == 0) return BATON_OK;
  if (pages_->gpu == HOST) return memset(to, byte, length), BATON_OK;
  return transfer(pages_->gpu, [&](cudaStream_t s) { return cudaMemsetAsync(to, byte, length, s); });
}

}  // namespace baton

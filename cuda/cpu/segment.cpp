#include "../common/segment.h"

#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>

#include "runtime.h"

namespace baton {
namespace {

uint64_t mapped_bytes(uint64_t bytes) { return bytes ? bytes : 1; }  // an empty mapping is an error

// Bytes of one task of a copy: small enough to stop soon and to share well, large enough for streaming stores.
constexpr uint64_t LEAST_PIECE = 256 << 10, LARGEST_PIECE = 32 << 20;

void move(char* to, const char* from, uint64_t bytes, float weight, bool widen) {
  if (widen) {
    float *t = reinterpret_cast<float*>(to), rest = 1 - weight;
    const uint16_t* f = reinterpret_cast<const uint16_t*>(from);
    for (uint64_t i = 0; i < bytes / 4; i++) {
      uint32_t bits = uint32_t(f[i]) << 16;
      float v;
      memcpy(&v, &bits, sizeof v);
      t[i] = weight == 1 ? v : weight * v + rest * t[i];
    }
    return;
  }
  if (weight == 1) {
    memmove(to, from, bytes);
    return;
  }
  float* t = reinterpret_cast<float*>(to);
  const float *f = reinterpret_cast<const float*>(from), rest = 1 - weight;
  for (uint64_t i = 0; i < bytes / 4; i++) t[i] = weight * f[i] + rest * t[i];
}

}  // namespace

struct Segment::Pages {
  char* base;
  uint64_t bytes;
  ~Pages() { munmap(base, mapped_bytes(bytes)); }
};

Segment::Segment(char* base, uint64_t bytes, std::shared_ptr<const Pages> pages)
    : base(base), bytes(bytes), pages_(std::move(pages)) {}

std::shared_ptr<Segment> Segment::create(uint64_t bytes, const Device*, bool) {
  constexpr uint64_t HUGE_PAGE = 2 << 20;
  if (bytes > uint64_t(1) << 46) return nullptr;
  void* p = mmap(nullptr, mapped_bytes(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  if (bytes >= HUGE_PAGE) madvise(p, bytes, MADV_HUGEPAGE);
  char* base = static_cast<char*>(p);
  return std::shared_ptr<Segment>(new Segment(base, bytes, std::shared_ptr<const Pages>(new Pages{base, bytes})));
}

std::shared_ptr<Segment> Segment::view(uint64_t offset, uint64_t length) const {
  char* p = place(offset, length);
  return p ? std::shared_ptr<Segment>(new Segment(p, length, pages_)) : nullptr;
}

char* Segment::place(uint64_t offset, uint64_t length) const {
  return offset <= bytes && length <= bytes - offset ? base + offset : nullptr;
}

int32_t Segment::write(char* to, const void* from, uint64_t length) const {
  if (length) memcpy(to, from, length);
  return BATON_OK;
}

int32_t Segment::read(const char* from, void* to, uint64_t length) const {
  if (length) memcpy(to, from, length);
  std::atomic_thread_fence(std::memory_order_acquire);  // reads that follow see what the worker wrote before
  return BATON_OK;
}

int32_t Segment::fill(char* to, uint8_t byte, uint64_t length) const {
  memset(to, byte, length);
  return BATON_OK;
}

void copy_memory(Pool& pool, const std::vector<Move>& moves, double weight, const std::atomic<bool>& stop) {
  std::vector<uint64_t> ends;  // of the moves, laid one behind the other from whole lines on
  uint64_t total = 0;
  for (const Move& m : moves) ends.push_back(total += (m.bytes * m.count + 63) & ~uint64_t(63));
  uint64_t piece = std::clamp(total / uint64_t(pool.threads() * 4) + 1, LEAST_PIECE, LARGEST_PIECE);
  long tasks = long((total + piece - 1) / piece);
  auto run = [&](long task) {
    // Cut at whole lines, and therefore at whole floats of every move.
    uint64_t at = total * uint64_t(task) / uint64_t(tasks) & ~uint64_t(63);
    uint64_t end = task + 1 == tasks ? total : total * uint64_t(task + 1) / uint64_t(tasks) & ~uint64_t(63);
    size_t i = size_t(std::upper_bound(ends.begin(), ends.end(), at) - ends.begin());
    for (uint64_t next; at < end && !stop; at = next, i++) {
      const Move& m = moves[i];
      uint64_t start = i ? ends[i - 1] : 0, inside = at - start;
      next = std::min(end, ends[i]);
      uint64_t left = std::min(next - start, m.bytes * m.count) - inside;
      uint64_t row = inside / m.bytes, column = inside % m.bytes, half = m.widen ? 2 : 1;
      if (m.bytes == m.from_stride * half && m.bytes == m.to_stride) {
        move(m.to + inside, m.from + inside / half, left, float(weight), m.widen);
        continue;
      }
      while (left > 0) {
        uint64_t n = std::min(m.bytes - column, left);
        move(m.to + row * m.to_stride + column, m.from + row * m.from_stride + column / half, n, float(weight), m.widen);
        left -= n, row++, column = 0;
      }
    }
  };
  pool.run(tasks, [](void* f, long task, int) { (*static_cast<decltype(run)*>(f))(task); }, &run);
}

}  // namespace baton

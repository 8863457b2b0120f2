#include "widen.h"

#include <string.h>

#include <algorithm>

#include "half.h"

namespace baton {
namespace {

constexpr uint64_t GRAIN = 65536, LINE = 64;

// f(begin, end) over [0, n), on the threads of a pool.
template <class F>
void each(Pool& pool, uint64_t n, F f) {
  auto task = [&](long i) { f(uint64_t(i) * GRAIN, std::min(n, uint64_t(i + 1) * GRAIN)); };
  pool.run(long((n + GRAIN - 1) / GRAIN), [](void* t, long i, int) { (*static_cast<decltype(task)*>(t))(i); }, &task);
}

}  // namespace

bool Widened::open(Pool& pool, const Operation& operation, Operands& operands) {
  copies_.clear();
  std::vector<size_t> of(operation.operands.size());
  for (size_t i = 0; i < of.size(); i++) {
    const Operand& o = operation.operands[i];
    if (o.type != Type::bf16) continue;
    auto* home = static_cast<uint16_t*>(operands.at[i]);
    // What an operation reads and writes at one place stays one place.
    size_t k = 0;
    while (k < copies_.size() && copies_[k].home != home) k++;
    if (k == copies_.size()) copies_.push_back({home, nullptr, 0, false});
    copies_[k].elements = std::max(copies_[k].elements, o.bytes / 2);
    copies_[k].written = copies_[k].written || o.written;
    of[i] = k;
  }
  auto room = [](const Copy& c) { return (c.elements * 4 + LINE - 1) / LINE * LINE; };
  uint64_t needed = 0;
  for (const Copy& c : copies_) needed += room(c);
  if (needed > bytes_) {
    memory_.reset();
    bytes_ = 0;
    void* p = nullptr;
    if (posix_memalign(&p, LINE, needed) != 0) return false;
    memory_.reset(static_cast<char*>(p));
    bytes_ = needed;
  }
  char* next = memory_.get();
  for (Copy& c : copies_) {
    c.wide = reinterpret_cast<float*>(next);
    next += room(c);
    auto* bits = reinterpret_cast<uint32_t*>(c.wide);
    each(pool, c.elements, [&](uint64_t begin, uint64_t end) {
      for (uint64_t i = begin; i < end; i++) bits[i] = uint32_t(c.home[i]) << 16;
    });
  }
  for (size_t i = 0; i < of.size(); i++) {
    if (operation.operands[i].type != Type::bf16) continue;
    operands.at[i] = copies_[of[i]].wide;
    operands.bytes[i] *= 2;
  }
  return true;
}

void Widened::close(Pool& pool) const {
  for (const Copy& c : copies_) {
    if (!c.written) continue;
    each(pool, c.elements, [&](uint64_t begin, uint64_t end) {
      for (uint64_t i = begin; i < end; i++) {
        uint32_t bits;
        memcpy(&bits, c.wide + i, sizeof bits);
        c.home[i] = half_of(bits);
      }
    });
  }
}

}  // namespace baton

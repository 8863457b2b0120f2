// Device memory and copies of it.
#pragma once
#include <stdint.h>

#include <atomic>
#include <memory>
#include <vector>

#include "pool.h"

namespace baton {

// A range of mapped pages, which live as long as some segment shows them. Pages cost nothing before they are touched.
class Segment {
 public:
  char* const base;
  const uint64_t bytes;

  static std::shared_ptr<Segment> create(uint64_t bytes);  // null when there is no memory
  std::shared_ptr<Segment> view(uint64_t offset, uint64_t length) const;
  // Address of a range, or null when it is not inside.
  char* place(uint64_t offset, uint64_t length) const;

 private:
  struct Pages;
  Segment(char* base, uint64_t bytes, std::shared_ptr<const Pages> pages);
  std::shared_ptr<const Pages> pages_;
};

// `count` runs of `bytes` bytes, the strides apart.
struct Move {
  std::shared_ptr<Segment> from_segment, to_segment;
  const char* from;
  char* to;
  uint64_t bytes, count, from_stride, to_stride;
};

// Runs moves on the pool: to = from, or weight · from + (1 − weight) · to over floats when `weight` is not 1. Ends early
// once `stop` is set.
void copy_memory(Pool& pool, const std::vector<Move>& moves, double weight, const std::atomic<bool>& stop);

}  // namespace baton

// Device memory, as the interface and the jobs see it. Each backend has a segment.cpp of its own.
#pragma once
#include <stdint.h>

#include <memory>

namespace baton {

class Device;

// A range of memory, which lives as long as some segment shows it.
class Segment {
 public:
  char* const base;  // in the address space of the backend
  const uint64_t bytes;

  // Zeroed memory near a device (null: wherever the backend likes), or host memory that devices copy from and to fast.
  // Null when there is no memory.
  static std::shared_ptr<Segment> create(uint64_t bytes, const Device* near, bool host);
  std::shared_ptr<Segment> view(uint64_t offset, uint64_t length) const;
  // Address of a range, or null when it is not inside.
  char* place(uint64_t offset, uint64_t length) const;

  // At once, whatever is queued; a status. The range is inside.
  int32_t write(char* to, const void* from, uint64_t length) const;
  int32_t read(const char* from, void* to, uint64_t length) const;
  int32_t fill(char* to, uint8_t byte, uint64_t length) const;

 private:
  struct Pages;
  Segment(char* base, uint64_t bytes, std::shared_ptr<const Pages> pages);
  std::shared_ptr<const Pages> pages_;
};

// `count` runs of `bytes` bytes, the strides apart. `widen`: from bf16 to f32; half as many bytes are read.
struct Move {
  std::shared_ptr<Segment> from_segment, to_segment;
  const char* from;
  char* to;
  uint64_t bytes, count, from_stride, to_stride;
  bool widen;
};

}  // namespace baton

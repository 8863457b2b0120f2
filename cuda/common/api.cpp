// The C interface: handles, bounds, and nothing that throws.
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <new>
#include <unordered_map>

#include "device.h"

using namespace baton;

namespace {

constexpr uint32_t VERSION = 3, NONE = UINT32_MAX;

// Handles count up and are never used twice, so a stale one is an error and not another object.
template <class T>
class Table {
 public:
  uint32_t add(std::shared_ptr<T> object) {
    std::lock_guard<std::mutex> lock(mutex_);
    objects_.emplace(++last_, std::move(object));
    return last_;
  }
  std::shared_ptr<T> get(uint32_t id) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto found = objects_.find(id);
    return found == objects_.end() ? nullptr : found->second;
  }
  std::shared_ptr<T> take(uint32_t id) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto found = objects_.find(id);
    if (found == objects_.end()) return nullptr;
    std::shared_ptr<T> object = std::move(found->second);
    objects_.erase(found);
    return object;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<uint32_t, std::shared_ptr<T>> objects_;
  uint32_t last_ = 0;
};

// Never destroyed: at exit a static destructor would wait for a worker that waits for work.
auto& devices = *new Table<Device>;
auto& segments = *new Table<Segment>;
auto& programs = *new Table<const Program>;
auto& groups = *new Table<Group>;

void put(char* to, uint32_t capacity, const std::string& text) {
  if (capacity) snprintf(to, capacity, "%s", text.c_str());
}

// No exception leaves the library.
template <class F>
int32_t guarded(F f) {
  try {
    return f();
  } catch (const std::bad_alloc&) {
    return BATON_OUT_OF_MEMORY;
  } catch (...) {
    return BATON_FAILED;
  }
}

// A rectangle of a move: `count` runs of `bytes`, `stride` apart, all inside.
bool inside(const Segment& s, uint64_t offset, uint64_t bytes, uint64_t count, uint64_t stride, uint64_t unit) {
  if ((offset | stride | bytes) % unit || offset > s.bytes || bytes > s.bytes - offset) return false;
  return count <= 1 || stride <= (s.bytes - offset - bytes) / (count - 1);
}

}  // namespace

uint32_t baton_version(void) { return VERSION; }

int32_t baton_describe(char* json, uint32_t capacity) {
  return guarded([&] {
    put(json, capacity, describe_backend());
    return BATON_OK;
  });
}

int32_t baton_select_isa(uint32_t isa) { return select_instructions(isa) ? BATON_OK : BATON_BAD_ARGUMENT; }

int32_t baton_device_create(uint32_t unit, uint32_t* device) {
  return guarded([&]() -> int32_t {
    std::shared_ptr<Device> d;
    int32_t status = Device::create(unit, d);
    if (status == BATON_OK) *device = devices.add(d);
    return status;
  });
}

// The worker leaves after the operation that it is in; what it holds goes with it.
int32_t baton_device_destroy(uint32_t device) {
  auto d = devices.take(device);
  if (!d) return BATON_BAD_HANDLE;
  d->close();
  return BATON_OK;
}

int32_t baton_group_create(uint32_t size, uint32_t deadline_ms, uint32_t* group) {
  if (size == 0 || size > 1024 || deadline_ms == 0) return BATON_BAD_ARGUMENT;
  return guarded([&]() -> int32_t {
    auto g = Group::create(size, deadline_ms);
    if (!g) return BATON_OUT_OF_MEMORY;
    *group = groups.add(g);
    return BATON_OK;
  });
}

int32_t baton_group_destroy(uint32_t group) { return groups.take(group) ? BATON_OK : BATON_BAD_HANDLE; }

int32_t baton_segment_create(uint32_t near, uint64_t bytes, uint32_t* segment) {
  return guarded([&]() -> int32_t {
    bool somewhere = near == BATON_ANYWHERE || near == BATON_HOST;
    auto d = somewhere ? nullptr : devices.get(near);
    if (!somewhere && !d) return BATON_BAD_HANDLE;
    auto s = Segment::create(bytes, d.get(), near == BATON_HOST);
    if (!s) return BATON_OUT_OF_MEMORY;
    *segment = segments.add(s);
    return BATON_OK;
  });
}

int32_t baton_segment_view(uint32_t segment, uint64_t offset, uint64_t bytes, uint32_t* view) {
  return guarded([&]() -> int32_t {
    auto s = segments.get(segment);
    if (!s) return BATON_BAD_HANDLE;
    auto v = offset % 64 == 0 ? s->view(offset, bytes) : nullptr;
    if (!v) return BATON_BAD_ARGUMENT;
    *view = segments.add(v);
    return BATON_OK;
  });
}

int32_t baton_segment_destroy(uint32_t segment) { return segments.take(segment) ? BATON_OK : BATON_BAD_HANDLE; }

int32_t baton_segment_write(uint32_t segment, uint64_t offset, const void* from, uint64_t bytes) {
  auto s = segments.get(segment);
  if (!s) return BATON_BAD_HANDLE;
  char* p = s->place(offset, bytes);
  if (!p) return BATON_BAD_ARGUMENT;
  return guarded([&] { return s->write(p, from, bytes); });
}

int32_t baton_segment_read(uint32_t segment, uint64_t offset, void* to, uint64_t bytes) {
  auto s = segments.get(segment);
  if (!s) return BATON_BAD_HANDLE;
  char* p = s->place(offset, bytes);
  if (!p) return BATON_BAD_ARGUMENT;
  return guarded([&] { return s->read(p, to, bytes); });
}

int32_t baton_segment_fill(uint32_t segment, uint64_t offset, uint64_t bytes, uint32_t byte) {
  auto s = segments.get(segment);
  if (!s) return BATON_BAD_HANDLE;
  char* p = s->place(offset, bytes);
  if (!p) return BATON_BAD_ARGUMENT;
  return guarded([&] { return s->fill(p, uint8_t(byte), bytes); });
}

int32_t baton_program_load(const void* bytes, uint64_t length, uint32_t* program, char* error, uint32_t capacity) {
  return guarded([&]() -> int32_t {
    auto p = std::make_shared<Program>();
    std::string why = p->decode(bytes, length);
    put(error, capacity, why);
    if (!why.empty()) return BATON_BAD_PROGRAM;
    *program = programs.add(p);
    return BATON_OK;
  });
}

int32_t baton_program_unload(uint32_t program) { return programs.take(program) ? BATON_OK : BATON_BAD_HANDLE; }

int32_t baton_submit(uint32_t device, uint32_t program, const uint32_t* bound, uint32_t segment_count, const uint32_t* dims,
                     uint32_t dim_count, const baton_membership* members, uint32_t group_count, const uint32_t* after,
                     uint32_t after_count, uint32_t ticket) {
  return guarded([&]() -> int32_t {
    auto d = devices.get(device);
    auto p = programs.get(program);
    if (!d || !p) return BATON_BAD_HANDLE;
    if (segment_count != p->segment_bytes.size() || dim_count != p->maxima.size()) return BATON_BAD_ARGUMENT;
    auto job = std::make_shared<Job>();
    job->ticket = ticket, job->program = p, job->dims.assign(dims, dims + dim_count);
    for (uint32_t i = 0; i < dim_count; i++)
      if (dims[i] > p->maxima[i] || (i == 0 && dims[i] != 1)) return BATON_BAD_ARGUMENT;
    for (uint32_t i = 0; i < segment_count; i++) {
      std::shared_ptr<Segment> s = bound[i] == NONE ? nullptr : segments.get(bound[i]);
      if (bound[i] != NONE && !s) return BATON_BAD_HANDLE;
      if ((s ? s->bytes : 0) < p->segment_bytes[i]) return BATON_BAD_ARGUMENT;
      job->segments.push_back(s);
    }
    for (uint32_t i = 0; i < group_count; i++) {
      std::shared_ptr<Group> g = members[i].group == NONE ? nullptr : groups.get(members[i].group);
      if (members[i].group != NONE && !g) return BATON_BAD_HANDLE;
      if (g && (members[i].rank >= g->size() || !g->claim(members[i].rank, device))) return BATON_BAD_ARGUMENT;
      job->members.push_back({g, members[i].rank});
    }
    return d->submit(job, after, after_count) ? BATON_OK : BATON_BAD_ARGUMENT;
  });
}

int32_t baton_copy(uint32_t device, const baton_move* moves, uint32_t move_count, double weight, const uint32_t* after,
                   uint32_t after_count, uint32_t ticket) {
  return guarded([&]() -> int32_t {
    auto d = devices.get(device);
    if (!d) return BATON_BAD_HANDLE;
    auto job = std::make_shared<Job>();
    job->ticket = ticket, job->weight = weight;
    for (uint32_t i = 0; i < move_count; i++) {
      const baton_move& m = moves[i];
      auto from = segments.get(m.from_segment), to = segments.get(m.to_segment);
      if (!from || !to) return BATON_BAD_HANDLE;
      uint64_t half = m.widen ? 2 : 1, unit = weight == 1 && !m.widen ? 2 : 4;  // what is only copied may be bf16
      if (m.widen > 1 || m.zero || m.bytes % unit || !inside(*from, m.from, m.bytes / half, m.count, m.from_stride, unit / half) ||
          !inside(*to, m.to, m.bytes, m.count, m.to_stride, unit))
        return BATON_BAD_ARGUMENT;
      if (m.count > 1 && m.to_stride < m.bytes) return BATON_BAD_ARGUMENT;  // runs would be written over each other
      if (m.bytes && m.count)
        job->moves.push_back({from, to, from->base + m.from, to->base + m.to, m.bytes, m.count, m.from_stride, m.to_stride, m.widen == 1});
    }
    return d->submit(job, after, after_count) ? BATON_OK : BATON_BAD_ARGUMENT;
  });
}

int32_t baton_wait(baton_completion* completions, uint32_t capacity, uint32_t timeout_ms) {
  return guarded([&] { return ledger().wait(completions, capacity, timeout_ms); });
}

int32_t baton_error(uint32_t ticket, char* text, uint32_t capacity) {
  return guarded([&]() -> int32_t {
    std::string error;
    if (!ledger().error(ticket, error)) return BATON_BAD_ARGUMENT;
    put(text, capacity, error);
    return BATON_OK;
  });
}

uint64_t baton_clock(void) { return clock_ns(); }

int32_t baton_cancel(uint32_t device, uint32_t on) {
  auto d = devices.get(device);
  if (!d) return BATON_BAD_HANDLE;
  d->cancel(on != 0);
  return BATON_OK;
}

int32_t baton_profile(uint32_t device, double* nanoseconds) {
  auto d = devices.get(device);
  if (!d) return BATON_BAD_HANDLE;
  d->profile(nanoseconds);
  return BATON_OK;
}

int32_t baton_profile_every(uint32_t device, uint32_t n) {
  auto d = devices.get(device);
  if (!d) return BATON_BAD_HANDLE;
  d->sample(n);
  return BATON_OK;
}

double baton_gemm_bench(uint32_t device, uint32_t mode, uint32_t m, uint32_t n, uint32_t k, uint32_t reps) {
  auto d = devices.get(device);
  if (!d || mode > 15 || (mode & 7) > 4 || reps == 0) return BATON_BAD_ARGUMENT;
  double seconds = BATON_FAILED;
  int32_t status = guarded([&] { return seconds = d->product(mode, m, n, k, reps), BATON_OK; });
  return status == BATON_OK ? seconds : status;
}

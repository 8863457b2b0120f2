// Copies between segments: many small runs go into one kernel, large ones to the copy engines, those from other GPUs through NCCL
// where kernels cannot read what is there.
#include <map>

#include "kernels/kernel.cuh"
#include "links.h"
#include "runtime.h"

namespace baton {
namespace {

constexpr int BATCH = 48;
constexpr size_t MOST_PIECES = 512;  // of one group of sends and receives
constexpr uint64_t LARGE = 4 << 20;

struct Run {
  const char* from;
  char* to;
  long width, count, from_stride, to_stride;  // elements
};
struct Runs {
  Run run[BATCH];
};

// Copies elements of the width of T, whatever they mean.
template <class T>
__global__ void move_kernel(Runs runs) {
  const Run& m = runs.run[blockIdx.y];
  for (long i = first_index(); i < m.width * m.count; i += index_step()) {
    long row = i / m.width, column = i % m.width;
    reinterpret_cast<T*>(m.to)[row * m.to_stride + column] = reinterpret_cast<const T*>(m.from)[row * m.from_stride + column];
  }
}
// to = weight · from + (1 − weight) · to, over fp32 numbers; `from` may be bf16.
template <class T>
__global__ void blend_kernel(Runs runs, float weight) {
  const Run& m = runs.run[blockIdx.y];
  float rest = 1 - weight;
  for (long i = first_index(); i < m.width * m.count; i += index_step()) {
    long row = i / m.width, column = i % m.width;
    float* to = reinterpret_cast<float*>(m.to) + row * m.to_stride + column;
    float from = number(reinterpret_cast<const T*>(m.from)[row * m.from_stride + column]);
    *to = weight == 1 ? from : weight * from + rest * *to;
  }
}

// The widest elements that all of a move's places and sizes are multiples of.
long width_of(const Move& m) {
  uint64_t all = m.bytes | reinterpret_cast<uintptr_t>(m.from) | reinterpret_cast<uintptr_t>(m.to);
  if (m.count > 1) all |= m.from_stride | m.to_stride;
  return all % 16 == 0 ? 16 : all % 4 == 0 ? 4 : 2;
}

bool whole_from(const Move& m) { return m.count == 1 || m.from_stride * (m.widen ? 2 : 1) == m.bytes; }
bool whole_to(const Move& m) { return m.count == 1 || m.to_stride == m.bytes; }
uint64_t sent_bytes(const Move& m) { return m.bytes / (m.widen ? 2 : 1) * m.count; }

// By kernels and copy engines on the call's stream. `near`: kernels there read and write all of it.
void copy_here(Call& c, const std::vector<Move>& moves, double weight, bool near = false) {
  Runs runs;
  int count = 0;
  long most = 0;
  long width = 0;  // of the elements that are batched: 0 for blends, −1 for blends of bf16
  auto flush = [&] {
    dim3 blocks(blocks_of(most, 256), unsigned(count));
    if (count && width == -1) launch(c, blend_kernel<bf16>, blocks, 256, 0, runs, float(weight));
    else if (count && width == 0) launch(c, blend_kernel<float>, blocks, 256, 0, runs, float(weight));
    else if (count && width == 16) launch(c, move_kernel<uint4>, blocks, 256, 0, runs);
    else if (count && width == 4) launch(c, move_kernel<uint32_t>, blocks, 256, 0, runs);
    else if (count) launch(c, move_kernel<uint16_t>, blocks, 256, 0, runs);
    count = 0, most = 0;
  };
  for (const Move& m : moves) {
    bool whole = whole_from(m) && whole_to(m), plain = weight == 1 && !m.widen;
    bool far = !near && (!c.device->reaches(gpu_of(m.from)) || !c.device->reaches(gpu_of(m.to)));
    if (plain && whole && (far || m.bytes * m.count >= LARGE)) {
      succeeded(c, cudaMemcpyAsync(m.to, m.from, m.bytes * m.count, cudaMemcpyDefault, c.stream));
      continue;
    }
    if (far && plain && m.from_stride >= m.bytes) {
      succeeded(c, cudaMemcpy2DAsync(m.to, m.to_stride, m.from, m.from_stride, m.bytes, m.count, cudaMemcpyDefault, c.stream));
      continue;
    }
    if (far) {
      fail(c, "GPU %d cannot read or write the memory of GPU %d directly, which a weighted copy needs; install NCCL", c.device->gpu(),
           gpu_of(m.from));
      return;
    }
    long each = plain ? width_of(m) : 4, n = long(m.bytes) / each, kind = plain ? each : m.widen ? -1 : 0;
    if (kind != width) flush(), width = kind;
    runs.run[count++] = {m.from, m.to, whole ? n * long(m.count) : n, whole ? 1 : long(m.count),
                         long(m.from_stride) * (m.widen ? 2 : 1) / each, long(m.to_stride) / each};
    most = larger(most, n * long(m.count));
    if (count == BATCH) flush();
  }
  flush();
}

// The same move in pieces that fit the memory for strided ones: some of its runs, or parts of one.
std::vector<Move> pieces_of(const Move& m) {
  constexpr uint64_t ROOM = SEND_BYTES;
  uint64_t half = m.widen ? 2 : 1, bytes = m.bytes, count = m.count;
  if (whole_from(m) && whole_to(m)) bytes *= count, count = 1;
  std::vector<Move> all;
  uint64_t runs = count == 1 ? 1 : ROOM / bytes;
  for (uint64_t row = 0; row < count; row += runs ? runs : 1) {
    uint64_t rows = runs ? (runs < count - row ? runs : count - row) : 1;
    for (uint64_t begin = 0; begin < bytes; begin += ROOM) {
      uint64_t part = count > 1 && runs ? bytes : ROOM < bytes - begin ? ROOM : bytes - begin;
      all.push_back({nullptr, nullptr, m.from + row * m.from_stride + begin / half, m.to + row * m.to_stride + begin, part, rows,
                     m.from_stride, m.to_stride, m.widen});
    }
  }
  return all;
}

// Through a link: what is strided, weighted or widened is packed before it is sent and unpacked behind it, as much at once as there
// is memory for.
void copy_over(Call& c, Link& link, const std::vector<Move>& moves, double weight) {
  Sender& sender = link.sender();
  std::lock_guard<std::mutex> lock(sender.mutex);
  std::vector<Link::Piece> pieces;
  std::vector<Move> pack, unpack;
  uint64_t sending = 0, receiving = 0;
  auto flush = [&] {
    if (pieces.empty() || c.error[0]) return;
    Event ready(false);
    Call there = c;
    there.stream = sender.stream;
    // What was sent or unpacked before has left the memory for pieces, and what this job waits for has come.
    succeeded(c, cudaEventRecord(ready.id, c.stream)) && succeeded(c, cudaStreamWaitEvent(sender.stream, ready.id, 0));
    if (!pack.empty()) {
      On on(link.source());
      copy_here(there, pack, 1, true);
    }
    if (!c.error[0]) link.exchange(c, pieces);
    {
      On on(link.source());  // an event is of the GPU of its stream
      Event sent(false);
      succeeded(c, cudaEventRecord(sent.id, sender.stream)) && succeeded(c, cudaStreamWaitEvent(c.stream, sent.id, 0));
    }
    if (!c.error[0]) copy_here(c, unpack, weight, true);
    pieces.clear(), pack.clear(), unpack.clear();
    sending = receiving = 0;
  };
  for (const Move& m : moves) {
    bool plain = weight == 1 && !m.widen, packs = !whole_from(m), unpacks = !plain || !whole_to(m);
    if (!packs && !unpacks) {
      pieces.push_back({m.from, m.to, m.bytes * m.count});
      if (pieces.size() >= MOST_PIECES) flush();
      continue;
    }
    for (const Move& p : pieces_of(m)) {
      uint64_t n = sent_bytes(p), room = (n + 63) / 64 * 64, each = n / p.count;
      if ((packs && sending + room > SEND_BYTES) || (unpacks && receiving + room > RECEIVE_BYTES) || pieces.size() >= MOST_PIECES) flush();
      char *from = packs ? sender.scratch + sending : const_cast<char*>(p.from), *to = unpacks ? c.scratch + receiving : p.to;
      if (packs) pack.push_back({nullptr, nullptr, p.from, from, each, p.count, p.from_stride, each, false}), sending += room;
      if (unpacks) unpack.push_back({nullptr, nullptr, to, p.to, p.bytes, p.count, each, p.to_stride, p.widen}), receiving += room;
      pieces.push_back({from, to, n});
    }
  }
  flush();
}

}  // namespace

void copy_memory(Call& c, const std::vector<Move>& moves, double weight, std::vector<std::shared_ptr<Link>>& links) {
  std::vector<Move> here;
  std::map<int, std::vector<Move>> far;  // by the GPU that they come from
  for (const Move& m : moves) {
    int from = gpu_of(m.from);
    (by_nccl(*c.device, from, gpu_of(m.to)) ? far[from] : here).push_back(m);
  }
  copy_here(c, here, weight);
  for (auto& [gpu, list] : far) {
    if (c.error[0]) return;
    std::string why;
    auto link = Link::between(gpu, c.device->gpu(), why);
    if (!link) {
      fail(c, "GPU %d cannot copy from GPU %d: %.180s", c.device->gpu(), gpu, why.c_str());
      return;
    }
    links.push_back(link);
    copy_over(c, *link, list, weight);
  }
}

}  // namespace baton

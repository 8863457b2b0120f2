#include "scoreboard.h"

#include <algorithm>
#include <map>

namespace baton {

bool clash(const Footprint& a, const Footprint& b) {
  for (const Touched& x : a)
    for (const Touched& y : b)
      if ((x.written || y.written) && x.from < y.to && y.from < x.to) return true;
  return false;
}

Footprint footprint_of(const Job& job) {
  Footprint all;
  if (job.program) {
    const Program& p = *job.program;
    for (size_t i = 0; i < job.segments.size(); i++) {
      if (!job.segments[i]) continue;
      uintptr_t base = reinterpret_cast<uintptr_t>(job.segments[i]->base);
      for (bool written : {false, true}) {
        const Hull& h = written ? p.writes[i] : p.reads[i];
        if (h.from < h.to) all.push_back({base + h.from, base + h.to, written});
      }
    }
    return all;
  }
  std::map<const Segment*, Touched> reads, writes;
  auto add = [](std::map<const Segment*, Touched>& in, const Segment* s, const char* at, uint64_t bytes, bool written) {
    uintptr_t from = reinterpret_cast<uintptr_t>(at), to = from + bytes;
    Touched& t = in.emplace(s, Touched{from, to, written}).first->second;
    t.from = std::min(t.from, from), t.to = std::max(t.to, to);
  };
  for (const Move& m : job.moves) {
    add(reads, m.from_segment.get(), m.from, (m.count - 1) * m.from_stride + m.bytes / (m.widen ? 2 : 1), false);
    add(writes, m.to_segment.get(), m.to, (m.count - 1) * m.to_stride + m.bytes, true);
  }
  for (auto& in : {reads, writes})
    for (auto& entry : in) all.push_back(entry.second);
  return all;
}

Footprint footprint_of(const Operation& operation, const Operands& operands) {
  Footprint all;
  for (size_t i = 0; i < operation.operands.size(); i++) {
    uintptr_t from = reinterpret_cast<uintptr_t>(operands.at[i]);
    if (operands.bytes[i]) all.push_back({from, from + operands.bytes[i], operation.operands[i].written});
  }
  return all;
}

}  // namespace baton

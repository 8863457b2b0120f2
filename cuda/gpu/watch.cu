// Jobs whose kernels wait for other ranks: the thread that waits for their end looks after NCCL meanwhile, and ends what cannot go on.
#include <unistd.h>

#include "communicators.h"
#include "kernels/kernel.cuh"
#include "runtime.h"

namespace baton {
namespace {

constexpr uint64_t BUSY_NS = 2000000;
constexpr int BUSY_US = 20, IDLE_US = 200;

}  // namespace

// Returns when the job's mark is reached, or nothing of it runs any more.
void GpuDevice::watch(Issued& issued) {
  Job& job = *issued.job;
  std::vector<std::pair<const Member*, std::shared_ptr<Communicators>>> joined;
  if (job.program && meets(*job.program))
    for (const Member& m : job.members) {
      auto all = m.group ? Communicators::of(*m.group) : nullptr;
      if (all && all->joined(m.rank)) joined.push_back({&m, all});
    }
  if (joined.empty()) return;
  auto end = static_cast<Mark*>(job.mark.get())->end.id;
  uint64_t begin = clock_ns(), since = begin;
  int last = Progress::NOT_BEGUN, last_beside = Progress::NOT_BEGUN;
  for (bool ended = false; !ended;) {
    // What NCCL noticed may have ended the kernels too: it is asked once more behind them.
    ended = cudaEventQuery(end) != cudaErrorNotReady;
    uint64_t now = clock_ns();
    int at = progress_.at(issued.slot), beside = progress_.at(BESIDE + issued.slot);
    if (at != last || beside != last_beside) last = at, last_beside = beside, since = now;
    // What runs beside may be what the other operations wait for.
    size_t index = beside >= 0 ? size_t(beside) : at < 0 ? 0 : size_t(at);
    for (auto& [m, all] : joined) {
      bool late = now - since > uint64_t(m->group->deadline_ms()) * 1000000;
      std::string why = all->trouble(m->rank);
      if (why.empty() && !ended && late && is_collective(job.program->operations[index].code))
        why = "NCCL did not finish within " + seconds(m->group->deadline_ms());
      if (why.empty() && (ended || !m->group->failed())) continue;
      if (!m->group->failed()) m->group->abort(m->rank, why);
      if (issued.status == BATON_OK) issued.status = failure(job, index, m->group.get(), stopped(job), "", issued.error);
      all->abort(m->rank);
    }
    if (!ended) usleep(now - begin < BUSY_NS ? BUSY_US : IDLE_US);
  }
}

}  // namespace baton

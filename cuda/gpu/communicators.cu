#include "communicators.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "../common/clock.h"
#include "kernels/kernel.cuh"
#include "runtime.h"

namespace baton {
namespace {

constexpr uint32_t JOIN = 65535;   // no operation
constexpr int SPINS = 1000, PAUSE_US = 50;
constexpr int SHARED_CTAS = 4;     // blocks of each rank's kernels where ranks share a GPU: all of them have to run at once
constexpr uint64_t GOODBYE_NS = 10000000000;

// What a rank tells the others when they first meet.
struct Card {
  NcclId id;
  int gpu, usable;
};

Communicators::Way wanted() {
  static const Communicators::Way way = [] {
    const char* value = getenv("BATON_CUDA_COLLECTIVES");
    std::string text = value ? value : "";
    return text == "nccl" ? Communicators::Way::nccl : text == "copies" ? Communicators::Way::copies : Communicators::Way::unknown;
  }();
  return way;
}

// NCCL tears a communicator down in steps that take time, which nobody waits for.
void bury(std::vector<NcclComm*> all) {
  std::thread([all = std::move(all)] {
    const Nccl& n = *open_nccl(nullptr);
    bool flushed = true;
    for (NcclComm* comm : all) {
      int state = n.CommFinalize(comm);
      for (uint64_t end = clock_ns() + GOODBYE_NS; state == Nccl::IN_PROGRESS && clock_ns() < end; usleep(PAUSE_US))
        if (n.CommGetAsyncError(comm, &state) != Nccl::SUCCESS) break;
      flushed = flushed && state == Nccl::SUCCESS;
    }
    for (NcclComm* comm : all) flushed ? n.CommDestroy(comm) : n.CommAbort(comm);
  }).detach();
}

}  // namespace

std::shared_ptr<Communicators> Communicators::of(Group& group) {
  return std::static_pointer_cast<Communicators>(group.kept([&] { return std::make_shared<Communicators>(group.size()); }));
}

Communicators::~Communicators() {
  std::vector<NcclComm*> all;
  for (Rank& r : ranks_)
    if (r.comm) all.push_back(r.comm);
  if (!all.empty()) bury(std::move(all));
}

Communicators::Way Communicators::join(Call& c, Group& group, uint32_t rank) {
  Rank& me = ranks_[rank];
  if (me.way != Way::unknown) return me.way;
  if (wanted() == Way::copies || group.size() == 1) return me.way = Way::copies;
  std::string why;
  const Nccl* n = open_nccl(&why);
  Card mine{{}, c.device->gpu(), n != nullptr};
  if (rank == 0 && n && n->GetUniqueId(&mine.id) != Nccl::SUCCESS) mine.usable = 0, why = "it has no identity for a group";
  memcpy(group.stage(rank), &mine, sizeof mine);
  if (!group.open(rank, {JOIN, 0, 0, nullptr, nullptr, 0, 0}, 0)) return c.stopped = &group, Way::stopped;
  std::vector<Card> all(group.size());
  for (uint32_t r = 0; r < group.size(); r++) memcpy(&all[r], group.staged(rank, r), sizeof(Card));
  group.leave(rank);
  std::vector<int> gpus;
  for (const Card& card : all) gpus.push_back(card.gpu);
  std::sort(gpus.begin(), gpus.end());
  bool shared = std::adjacent_find(gpus.begin(), gpus.end()) != gpus.end();
  if (wanted() == Way::unknown && (shared || !all[0].usable)) return me.way = Way::copies;
  const char* allowed = getenv("NCCL_MULTI_RANK_GPU_ENABLE");
  if (!all[0].usable || !n) {
    fail(c, "BATON_CUDA_COLLECTIVES=nccl: %s", why.empty() ? "rank 0 cannot use NCCL" : why.c_str());
  } else if (shared && n->version < Nccl::SHARES_GPUS) {
    fail(c, "NCCL %s cannot have several ranks on GPU %d, which needs %s or newer, or BATON_CUDA_COLLECTIVES=copies",
         nccl_version(n->version).c_str(), c.device->gpu(), nccl_version(Nccl::SHARES_GPUS).c_str());
  } else if (shared && !(allowed && allowed[0] == '1')) {
    fail(c, "several ranks on GPU %d need NCCL_MULTI_RANK_GPU_ENABLE=1 in the environment", c.device->gpu());
  } else if (connect(c, group, rank, all[0].id, shared)) {
    return me.way = Way::nccl;
  }
  return Way::stopped;
}

bool Communicators::connect(Call& c, Group& group, uint32_t rank, const NcclId& id, bool shared) {
  const Nccl& n = *open_nccl(nullptr);
  Rank& me = ranks_[rank];
  NcclConfig config{sizeof(NcclConfig), Nccl::MAGIC, Nccl::CONFIG_VERSION, 0, Nccl::UNSET, Nccl::UNSET, shared ? SHARED_CTAS : Nccl::UNSET,
                    nullptr, Nccl::UNSET};
  int result;
  {
    std::lock_guard<std::mutex> lock(me.mutex);
    result = n.CommInitRankConfig(&me.comm, int(group.size()), id, int(rank), &config);
  }
  if (!taken(c, group, rank, result, "connect the ranks")) return false;
  // NCCL connects ranks when they first exchange something. That may allocate, which waits for all that runs: better now.
  issue(c, group, rank, [&](const Nccl& n, NcclComm* comm) {
    return n.AllReduce(c.scratch, c.scratch, 1, Nccl::FLOAT, Nccl::SUM, comm, c.stream);
  });
  return !c.error[0] && !c.stopped;
}

void Communicators::issue(Call& c, Group& group, uint32_t rank, const std::function<int(const Nccl&, NcclComm*)>& work) {
  const Nccl& n = *open_nccl(nullptr);
  Rank& me = ranks_[rank];
  int result;
  {
    std::lock_guard<std::mutex> lock(me.mutex);
    if (!me.comm) {
      c.stopped = &group;
      return;
    }
    n.GroupStart();
    result = work(n, me.comm);
    int end = n.GroupEnd();
    if (result == Nccl::SUCCESS || result == Nccl::IN_PROGRESS) result = end;
  }
  taken(c, group, rank, result, "begin");
}

// Waits until NCCL has done its part on the host, the group has failed, or the time is over.
bool Communicators::taken(Call& c, Group& group, uint32_t rank, int result, const char* what) {
  const Nccl& n = *open_nccl(nullptr);
  Rank& me = ranks_[rank];
  uint64_t end = clock_ns() + uint64_t(group.deadline_ms()) * 1000000;
  std::string last;
  for (int spin = 0; result == Nccl::IN_PROGRESS; spin++) {
    bool late = clock_ns() > end;
    if (late || group.failed()) {
      if (late && !group.failed()) fail(c, "NCCL did not %s within %s", what, seconds(group.deadline_ms()).c_str());
      else c.stopped = &group;
      abort(rank);
      return false;
    }
    spin < SPINS ? void(sched_yield()) : void(usleep(PAUSE_US));
    std::lock_guard<std::mutex> lock(me.mutex);
    if (!me.comm) return c.stopped = &group, false;
    int asked = n.CommGetAsyncError(me.comm, &result);
    if (asked != Nccl::SUCCESS) result = asked;
  }
  if (result == Nccl::SUCCESS) return true;
  {
    std::lock_guard<std::mutex> lock(me.mutex);
    const char* more = me.comm ? n.GetLastError(me.comm) : nullptr;
    if (more && more[0]) last = std::string(" (") + more + ")";
  }
  fail(c, "NCCL could not %s: %s%.120s", what, n.GetErrorString(result), last.c_str());
  abort(rank);
  return false;
}

std::string Communicators::trouble(uint32_t rank) {
  const Nccl& n = *open_nccl(nullptr);
  Rank& me = ranks_[rank];
  std::lock_guard<std::mutex> lock(me.mutex);
  int state = Nccl::SUCCESS;
  if (!me.comm || n.CommGetAsyncError(me.comm, &state) != Nccl::SUCCESS) return "";
  return state == Nccl::SUCCESS || state == Nccl::IN_PROGRESS ? "" : std::string("NCCL said: ") + n.GetErrorString(state);
}

void Communicators::abort(uint32_t rank) {
  Rank& me = ranks_[rank];
  std::lock_guard<std::mutex> lock(me.mutex);
  if (me.comm) open_nccl(nullptr)->CommAbort(me.comm);
  me.comm = nullptr;
}

}  // namespace baton

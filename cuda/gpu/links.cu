#include "links.h"

#include <sched.h>
#include <unistd.h>

#include <map>

#include "../common/clock.h"
#include "kernels/kernel.cuh"
#include "runtime.h"

namespace baton {
namespace {

constexpr int SPINS = 1000, PAUSE_US = 50;

enum class Wanted { either, peer, nccl };
Wanted wanted() {
  static const Wanted one = [] {
    const char* value = getenv("BATON_CUDA_COPIES");
    std::string text = value ? value : "";
    return text == "nccl" ? Wanted::nccl : text == "peer" ? Wanted::peer : Wanted::either;
  }();
  return one;
}

std::mutex table_mutex;
std::map<std::pair<int, int>, std::shared_ptr<Link>>& table = *new std::map<std::pair<int, int>, std::shared_ptr<Link>>;
std::map<int, Sender>& senders = *new std::map<int, Sender>;

}  // namespace

bool by_nccl(const GpuDevice& device, int from, int to) {
  if (wanted() == Wanted::peer || from < 0 || to < 0 || from == to || to != device.gpu()) return false;
  return wanted() == Wanted::nccl || (!device.reaches(from) && open_nccl(nullptr));
}

std::shared_ptr<Link> Link::between(int from, int to, std::string& why) {
  std::lock_guard<std::mutex> lock(table_mutex);
  auto& found = table[{from, to}];
  if (found && found->alive()) return found;
  if (!open_nccl(&why)) return nullptr;
  std::shared_ptr<Link> made(new Link(from, to));
  if (!made->connect(why)) return nullptr;
  return found = made;
}

Link::~Link() { abort(); }

bool Link::connect(std::string& why) {
  const Nccl& n = *open_nccl(nullptr);
  sender_ = &senders[gpus_[0]];
  if (!sender_->stream) {
    On on(gpus_[0]);
    int least = 0, greatest = 0;
    void* scratch = nullptr;
    if (cudaDeviceGetStreamPriorityRange(&least, &greatest) != cudaSuccess || cudaMalloc(&scratch, SEND_BYTES) != cudaSuccess ||
        cudaStreamCreateWithPriority(&sender_->stream, cudaStreamNonBlocking, greatest) != cudaSuccess)
      return why = "there is no memory for what is sent", false;
    sender_->scratch = static_cast<char*>(scratch);
  }
  NcclId id;
  if (n.GetUniqueId(&id) != Nccl::SUCCESS) return why = "it has no identity for a pair of GPUs", false;
  NcclConfig config{sizeof(NcclConfig), Nccl::MAGIC, Nccl::CONFIG_VERSION, 0, Nccl::UNSET, Nccl::UNSET, Nccl::UNSET, nullptr, Nccl::UNSET};
  int result = Nccl::SUCCESS;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    n.GroupStart();
    for (int rank = 0; rank < 2; rank++) {
      On on(gpus_[rank]);
      int now = n.CommInitRankConfig(&comms_[rank], 2, id, rank, &config);
      if (now != Nccl::SUCCESS && now != Nccl::IN_PROGRESS) result = now;
    }
    int end = n.GroupEnd();
    if (result == Nccl::SUCCESS) result = end;
  }
  why = settle(result, "connect two GPUs");
  return why.empty();
}

// Waits until NCCL has done its part on the host; why it has not, or an empty text.
std::string Link::settle(int result, const char* what) {
  const Nccl& n = *open_nccl(nullptr);
  uint64_t end = clock_ns() + uint64_t(latest_deadline_ms()) * 1000000;
  for (int spin = 0; result == Nccl::SUCCESS || result == Nccl::IN_PROGRESS; spin++) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      result = Nccl::SUCCESS;
      for (NcclComm* comm : comms_) {
        int state = Nccl::SUCCESS;
        if (!comm) return "it was ended";
        int asked = n.CommGetAsyncError(comm, &state);
        if (asked != Nccl::SUCCESS) state = asked;
        if (state != Nccl::SUCCESS && (result == Nccl::SUCCESS || result == Nccl::IN_PROGRESS)) result = state;
      }
    }
    if (result == Nccl::SUCCESS) return "";
    if (clock_ns() > end) {
      abort();
      return std::string("NCCL did not ") + what + " within " + seconds(latest_deadline_ms());
    }
    spin < SPINS ? void(sched_yield()) : void(usleep(PAUSE_US));
  }
  abort();
  return std::string("NCCL could not ") + what + ": " + n.GetErrorString(result);
}

void Link::exchange(Call& c, const std::vector<Piece>& pieces) {
  const Nccl& n = *open_nccl(nullptr);
  int result = Nccl::SUCCESS;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!comms_[0]) {
      fail(c, "the connection of GPU %d and GPU %d was ended", gpus_[0], gpus_[1]);
      return;
    }
    n.GroupStart();
    for (const Piece& p : pieces) {
      int sent = n.Send(p.from, size_t(p.bytes), Nccl::BYTE, 1, comms_[0], sender_->stream);
      int received = n.Recv(p.to, size_t(p.bytes), Nccl::BYTE, 0, comms_[1], c.stream);
      for (int now : {sent, received})
        if (now != Nccl::SUCCESS && now != Nccl::IN_PROGRESS) result = now;
    }
    int end = n.GroupEnd();
    if (result == Nccl::SUCCESS) result = end;
  }
  std::string why = settle(result, "begin to copy");
  if (!why.empty()) fail(c, "%.200s", why.c_str());
}

std::string Link::trouble() {
  const Nccl& n = *open_nccl(nullptr);
  std::lock_guard<std::mutex> lock(mutex_);
  for (NcclComm* comm : comms_) {
    int state = Nccl::SUCCESS;
    if (!comm || n.CommGetAsyncError(comm, &state) != Nccl::SUCCESS) continue;
    if (state != Nccl::SUCCESS && state != Nccl::IN_PROGRESS) return std::string("NCCL said: ") + n.GetErrorString(state);
  }
  return "";
}

bool Link::alive() {
  std::lock_guard<std::mutex> lock(mutex_);
  return comms_[0] != nullptr;
}

void Link::abort() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (NcclComm*& comm : comms_) {
      if (comm) open_nccl(nullptr)->CommAbort(comm);
      comm = nullptr;
    }
  }
}

}  // namespace baton

// A host stand-in for libnccl.so.2, for tests of what surrounds NCCL: it does what it is asked for over host memory once all ranks
// have come, and says "in progress" until then, as non-blocking communicators do. FAKE_NCCL holds what goes wrong, separated by
// commas: version=22809; mute=K: the K-th operation of each communicator is in progress for ever; stall=K: it is taken and its
// kernel waits for ever; error=K: it ends with an error that is noticed later. Operations are counted from 1, the one that warms a
// communicator up included.
#include <stdio.h>
#include <stdlib.h>

#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "../cuda_bf16.h"

namespace {

constexpr int SUCCESS = 0, INVALID = 4, REMOTE = 6, IN_PROGRESS = 7;
constexpr int BYTE = 0, FLOAT = 7, BFLOAT16 = 9;

struct Id { char bytes[128]; };
struct Config { size_t size; unsigned magic, version; int blocking; };

long fault(const char* name) {
  const char* text = getenv("FAKE_NCCL");
  std::string all = text ? text : "", key = std::string(name) + "=";
  size_t at = all.find(key);
  return at == std::string::npos ? 0 : atol(all.c_str() + at + key.size());
}

enum Kind { ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST, REDUCE, SEND, RECV };
struct Work { Kind kind; const void* in; void* out; size_t count; int type, peer; cudaStream_t stream; };

struct Comm;
struct Clique {
  int ranks = 0;
  std::vector<Comm*> comms;
  int joined = 0;
};
struct Comm {
  std::shared_ptr<Clique> clique;
  int rank;
  std::vector<Work> waiting;  // collective operations in their order, and messages
  long issued = 0;
  int state = IN_PROGRESS;
  bool mute = false;
  cudaStream_t stalled = nullptr;
};

std::mutex mutex;
std::map<std::string, std::shared_ptr<Clique>> cliques;
long ids = 0;
thread_local int depth = 0;
thread_local std::vector<std::pair<Comm*, Work>> grouped;

size_t width(int type) { return type == BYTE ? 1 : type == BFLOAT16 ? 2 : type == FLOAT ? 4 : 8; }
template <class T>
void add_up(const std::vector<Work>& all, size_t from, size_t count, std::vector<char>& out) {
  out.resize(count * sizeof(T));
  T* to = reinterpret_cast<T*>(out.data());
  for (size_t i = 0; i < count; i++) {
    T s = static_cast<const T*>(all[0].in)[from + i];
    for (size_t r = 1; r < all.size(); r++) s += static_cast<const T*>(all[r].in)[from + i];
    to[i] = s;
  }
}
// In fp32, rounded once: NCCL may round after every addition.
void add_up_bf16(const std::vector<Work>& all, size_t from, size_t count, std::vector<char>& out) {
  out.resize(count * 2);
  auto* to = reinterpret_cast<__nv_bfloat16*>(out.data());
  for (size_t i = 0; i < count; i++) {
    float s = __bfloat162float(static_cast<const __nv_bfloat16*>(all[0].in)[from + i]);
    for (size_t r = 1; r < all.size(); r++) s += __bfloat162float(static_cast<const __nv_bfloat16*>(all[r].in)[from + i]);
    to[i] = __float2bfloat16_rn(s);
  }
}
std::vector<char> sums(const std::vector<Work>& all, size_t from, size_t count) {
  std::vector<char> out;
  if (all[0].type == BFLOAT16) return add_up_bf16(all, from, count, out), out;
  all[0].type == FLOAT ? add_up<float>(all, from, count, out) : add_up<double>(all, from, count, out);
  return out;
}

// Does something once all streams have come to it: at once where they run what they are given at once.
void together(const std::vector<cudaStream_t>& streams, std::function<void()> work) {
  if (!streams[0]->deferred()) return work();
  struct State {
    std::vector<bool> here;
    bool done = false;
  };
  auto state = std::make_shared<State>();
  state->here.resize(streams.size());
  for (size_t i = 0; i < streams.size(); i++) {
    auto ready = [state, i] {
      state->here[i] = true;
      for (bool one : state->here)
        if (!one) return false;
      return true;
    };
    streams[i]->push({[state, work] { state->done || (work(), state->done = true); }, ready, streams, 0});
  }
}

// Does a collective operation that all ranks have come to; results are made before any is written, for memory may be shared.
void perform(const std::vector<Work>& all) {
  size_t n = all[0].count, bytes = n * width(all[0].type), ranks = all.size();
  std::vector<std::vector<char>> results(ranks);
  for (size_t r = 0; r < ranks; r++) {
    const Work& w = all[r];
    if (w.kind == ALL_REDUCE || (w.kind == REDUCE && w.peer == int(r))) results[r] = sums(all, 0, n);
    if (w.kind == REDUCE_SCATTER) results[r] = sums(all, r * n, n);
    if (w.kind == BROADCAST) results[r].assign(static_cast<const char*>(all[w.peer].in), static_cast<const char*>(all[w.peer].in) + bytes);
    if (w.kind == ALL_GATHER)
      for (const Work& from : all)
        results[r].insert(results[r].end(), static_cast<const char*>(from.in), static_cast<const char*>(from.in) + bytes);
  }
  for (size_t r = 0; r < ranks; r++)
    if (!results[r].empty()) memcpy(all[r].out, results[r].data(), results[r].size());
}

void advance(Clique& clique) {
  for (bool moved = true; moved;) {
    moved = false;
    std::vector<Work> heads;
    for (Comm* c : clique.comms) {
      if (!c || c->mute) continue;
      for (size_t i = 0; i < c->waiting.size(); i++) {
        Work w = c->waiting[i];
        if (w.kind != SEND || w.peer >= clique.ranks || !clique.comms[w.peer]) continue;
        auto& other = clique.comms[w.peer]->waiting;
        for (size_t k = 0; k < other.size(); k++) {
          if (other[k].kind != RECV || other[k].peer != c->rank) continue;
          together({w.stream, other[k].stream}, [to = other[k].out, w] { memcpy(to, w.in, w.count * width(w.type)); });
          other.erase(other.begin() + long(k)), c->waiting.erase(c->waiting.begin() + long(i));
          moved = true;
          break;
        }
        if (moved) break;
      }
      if (!c->waiting.empty() && c->waiting[0].kind < SEND) heads.push_back(c->waiting[0]);
    }
    if (int(heads.size()) == clique.ranks) {
      std::vector<cudaStream_t> streams;
      for (const Work& w : heads) streams.push_back(w.stream);
      together(streams, [heads] { perform(heads); });
      for (Comm* c : clique.comms) c->waiting.erase(c->waiting.begin());
      moved = true;
    }
  }
  for (Comm* c : clique.comms)
    if (c && c->state == IN_PROGRESS && c->waiting.empty() && clique.joined == clique.ranks) c->state = SUCCESS;
}

int submit(Comm* c, const Work& w) {
  if (depth) return grouped.push_back({c, w}), SUCCESS;
  std::lock_guard<std::mutex> lock(mutex);
  c->issued++;
  if (c->issued == fault("error")) return c->state = REMOTE, SUCCESS;
  if (c->issued == fault("stall")) return *w.stream->stalled = 1, c->stalled = w.stream, SUCCESS;
  c->mute = c->mute || c->issued == fault("mute");
  c->state = IN_PROGRESS;
  c->waiting.push_back(w);
  advance(*c->clique);
  return c->state;
}

int leave(Comm* c) {
  std::lock_guard<std::mutex> lock(mutex);
  if (c->stalled) *c->stalled->stalled = 0;
  c->clique->comms[c->rank] = nullptr;
  delete c;
  return SUCCESS;
}

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

API int ncclGetVersion(int* v) { return *v = fault("version") ? int(fault("version")) : 23007, SUCCESS; }
API int ncclGetUniqueId(Id* id) {
  std::lock_guard<std::mutex> lock(mutex);
  memset(id, 0, sizeof *id);
  snprintf(id->bytes, sizeof id->bytes, "fake %ld", ++ids);
  return SUCCESS;
}
API int ncclCommInitRankConfig(Comm** comm, int ranks, Id id, int rank, Config* config) {
  if (!config || config->magic != 0xcafebeef || config->blocking != 0) return INVALID;
  std::lock_guard<std::mutex> lock(mutex);
  auto& clique = cliques[id.bytes];
  if (!clique) clique = std::make_shared<Clique>();
  clique->ranks = ranks, clique->comms.resize(size_t(ranks));
  clique->comms[size_t(rank)] = *comm = new Comm{clique, rank, {}};
  clique->joined++;
  advance(*clique);
  return (*comm)->state;
}
API int ncclCommGetAsyncError(Comm* c, int* state) {
  std::lock_guard<std::mutex> lock(mutex);
  return *state = c->state, SUCCESS;
}
API int ncclCommFinalize(Comm*) { return SUCCESS; }
API int ncclCommDestroy(Comm* c) { return leave(c); }
API int ncclCommAbort(Comm* c) { return leave(c); }
API const char* ncclGetErrorString(int e) { return e == REMOTE ? "remote process exited or there was a network error" : "invalid"; }
API const char* ncclGetLastError(Comm*) { return "fake"; }
API int ncclAllReduce(const void* in, void* out, size_t n, int type, int, Comm* c, cudaStream_t s) {
  return submit(c, {ALL_REDUCE, in, out, n, type, 0, s});
}
API int ncclReduceScatter(const void* in, void* out, size_t n, int type, int, Comm* c, cudaStream_t s) {
  return submit(c, {REDUCE_SCATTER, in, out, n, type, 0, s});
}
API int ncclAllGather(const void* in, void* out, size_t n, int type, Comm* c, cudaStream_t s) {
  return submit(c, {ALL_GATHER, in, out, n, type, 0, s});
}
API int ncclBroadcast(const void* in, void* out, size_t n, int type, int root, Comm* c, cudaStream_t s) {
  return submit(c, {BROADCAST, in, out, n, type, root, s});
}
API int ncclReduce(const void* in, void* out, size_t n, int type, int, int root, Comm* c, cudaStream_t s) {
  return submit(c, {REDUCE, in, out, n, type, root, s});
}
API int ncclSend(const void* in, size_t n, int type, int peer, Comm* c, cudaStream_t s) {
  return submit(c, {SEND, in, nullptr, n, type, peer, s});
}
API int ncclRecv(void* out, size_t n, int type, int peer, Comm* c, cudaStream_t s) {
  return submit(c, {RECV, nullptr, out, n, type, peer, s});
}
API int ncclGroupStart() { return depth++, SUCCESS; }
API int ncclGroupEnd() {
  if (--depth) return SUCCESS;
  int result = SUCCESS;
  for (auto& [comm, work] : std::exchange(grouped, {})) {
    int now = submit(comm, work);
    if (result == SUCCESS) result = now;
  }
  return result;
}

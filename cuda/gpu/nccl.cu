#include "nccl.h"

#include <dlfcn.h>
#include <stddef.h>

#include "libraries.h"

#if !defined(BATON_EMULATION) && __has_include(<nccl.h>)
#include <nccl.h>
static_assert(sizeof(baton::NcclId) == sizeof(ncclUniqueId) && ncclInProgress == baton::Nccl::IN_PROGRESS, "see nccl.h");
static_assert(ncclFloat32 == baton::Nccl::FLOAT && ncclFloat64 == baton::Nccl::DOUBLE && ncclBfloat16 == baton::Nccl::BFLOAT16 && ncclSum == baton::Nccl::SUM, "see nccl.h");
static_assert(offsetof(ncclConfig_t, blocking) == offsetof(baton::NcclConfig, blocking), "see nccl.h");
static_assert(offsetof(ncclConfig_t, maxCTAs) == offsetof(baton::NcclConfig, most_ctas), "see nccl.h");
static_assert(offsetof(ncclConfig_t, splitShare) == offsetof(baton::NcclConfig, share), "see nccl.h");
static_assert(sizeof(ncclConfig_t) >= sizeof(baton::NcclConfig), "see nccl.h");
#endif

namespace baton {
namespace {

constexpr int OLDEST = 21800;  // non-blocking communicators with a configuration of this shape

struct Opened {
  Nccl nccl{};
  bool usable = false;
  std::string why;
};

Opened open_once() {
  Opened o;
  void* handle = open_library(Library::nccl, &o.why);
  if (!handle) return o;
  const char* absent = nullptr;
  auto find = [&](auto& function, const char* name) {
    void* symbol = dlsym(handle, name);
    if (!symbol && !absent) absent = name;
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
  };
  Nccl& n = o.nccl;
  int (*get_version)(int*) = nullptr;
  find(get_version, "ncclGetVersion");
  find(n.GetUniqueId, "ncclGetUniqueId"), find(n.CommInitRankConfig, "ncclCommInitRankConfig");
  find(n.CommFinalize, "ncclCommFinalize"), find(n.CommDestroy, "ncclCommDestroy"), find(n.CommAbort, "ncclCommAbort");
  find(n.CommGetAsyncError, "ncclCommGetAsyncError"), find(n.GetErrorString, "ncclGetErrorString");
  find(n.GetLastError, "ncclGetLastError"), find(n.AllReduce, "ncclAllReduce"), find(n.ReduceScatter, "ncclReduceScatter");
  find(n.AllGather, "ncclAllGather"), find(n.Broadcast, "ncclBroadcast"), find(n.Reduce, "ncclReduce");
  find(n.Send, "ncclSend"), find(n.Recv, "ncclRecv"), find(n.GroupStart, "ncclGroupStart"), find(n.GroupEnd, "ncclGroupEnd");
  if (get_version) get_version(&n.version);
  if (n.version < OLDEST) o.why = "NCCL is of version " + nccl_version(n.version) + ", " + nccl_version(OLDEST) + " or newer is needed";
  else if (absent) o.why = "NCCL " + nccl_version(n.version) + " has no " + absent;
  else o.usable = true;
  return o;
}

}  // namespace

std::string nccl_version(int code) {
  return std::to_string(code / 10000) + "." + std::to_string(code / 100 % 100) + "." + std::to_string(code % 100);
}

const Nccl* open_nccl(std::string* why) {
  static const Opened& opened = *new Opened(open_once());
  if (why) *why = opened.why;
  return opened.usable ? &opened.nccl : nullptr;
}

}  // namespace baton

// The part of NCCL that is used, opened when it is wanted: its functions, with the types that they need written out, so that
// nothing has to be installed to compile this. nccl.cu compares them with nccl.h where there is one.
#pragma once
#include <cuda_runtime.h>

#include <string>

namespace baton {

struct NcclComm;
struct NcclId {
  char bytes[128];
};
// The members that NCCL has had since 2.18; it reads no more than `size`.
struct NcclConfig {
  size_t size;
  unsigned magic, version;
  int blocking, cluster, least_ctas, most_ctas;
  const char* network;
  int share;
};

struct Nccl {
  static constexpr int SUCCESS = 0, IN_PROGRESS = 7, BYTE = 0, FLOAT = 7, DOUBLE = 8, BFLOAT16 = 9, SUM = 0;
  static constexpr unsigned MAGIC = 0xcafebeef, CONFIG_VERSION = 21800;
  static constexpr int UNSET = -2147483647 - 1;
  // The first version in which ranks may share a GPU.
  static constexpr int SHARES_GPUS = 23003;

  int version;
  int (*GetUniqueId)(NcclId*);
  int (*CommInitRankConfig)(NcclComm**, int ranks, NcclId, int rank, NcclConfig*);
  int (*CommFinalize)(NcclComm*);
  int (*CommDestroy)(NcclComm*);
  int (*CommAbort)(NcclComm*);
  int (*CommGetAsyncError)(NcclComm*, int*);
  const char* (*GetErrorString)(int);
  const char* (*GetLastError)(NcclComm*);
  int (*AllReduce)(const void*, void*, size_t, int type, int op, NcclComm*, cudaStream_t);
  int (*ReduceScatter)(const void*, void*, size_t each, int type, int op, NcclComm*, cudaStream_t);
  int (*AllGather)(const void*, void*, size_t each, int type, NcclComm*, cudaStream_t);
  int (*Broadcast)(const void*, void*, size_t, int type, int root, NcclComm*, cudaStream_t);
  int (*Reduce)(const void*, void*, size_t, int type, int op, int root, NcclComm*, cudaStream_t);
  int (*Send)(const void*, size_t, int type, int peer, NcclComm*, cudaStream_t);
  int (*Recv)(void*, size_t, int type, int peer, NcclComm*, cudaStream_t);
  int (*GroupStart)();
  int (*GroupEnd)();
};

// Null when NCCL cannot be used; `why` then says it in one line.
const Nccl* open_nccl(std::string* why);

// "2.30.7"
std::string nccl_version(int code);

}  // namespace baton

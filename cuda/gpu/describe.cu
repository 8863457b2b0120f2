// What this machine has: driver, GPUs, memory, which of them reach each other.
#include <mutex>

#include "kernels/kernel.cuh"
#include "libraries.h"
#include "runtime.h"

namespace baton {
namespace {

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out + "\"";
}
std::string version(int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); }

}  // namespace

int gpu_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

std::string missing_gpu() {
  int driver = 0, count = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
    return "no CUDA driver: libcuda.so.1 cannot be loaded, install NVIDIA's driver";
  cudaError_t e = cudaGetDeviceCount(&count);
  if (e != cudaSuccess) return std::string("no GPU can be used: ") + cudaGetErrorString(e);
  return count == 0 ? "there is a CUDA driver and no GPU" : "";
}

std::string describe_backend() {
  std::string missing = missing_gpu(), isa = "none", gpus, peers;
  int driver = 0, runtime = 0, count = missing.empty() ? gpu_count() : 0;
  cudaDriverGetVersion(&driver), cudaRuntimeGetVersion(&runtime);
  for (int i = 0; i < count; i++) {
    cudaDeviceProp p{};
    size_t free = 0, total = 0;
    if (cudaGetDeviceProperties(&p, i) != cudaSuccess) continue;
    if (cudaSetDevice(i) == cudaSuccess) cudaMemGetInfo(&free, &total);
    if (i == 0) isa = "sm_" + std::to_string(p.major * 10 + p.minor);
    std::string reach;
    for (int j = 0; j < count; j++) {
      int can = 0;
      if (j != i && cudaDeviceCanAccessPeer(&can, i, j) == cudaSuccess && can) reach += (reach.empty() ? "" : ",") + std::to_string(j);
    }
    char bus[32] = "";
    if (cudaDeviceGetPCIBusId(bus, sizeof bus, i) != cudaSuccess) bus[0] = 0;
    gpus += std::string(gpus.empty() ? "" : ",") + "{\"name\":" + quoted(p.name) + ",\"capability\":\"" + std::to_string(p.major) +
            "." + std::to_string(p.minor) + "\",\"multiprocessors\":" + std::to_string(p.multiProcessorCount) +
            ",\"bytes\":" + std::to_string(total) + ",\"freeBytes\":" + std::to_string(free) + ",\"bus\":" + quoted(bus) + ",\"peers\":[" + reach + "]}";
  }
  return "{\"backend\":\"cuda\",\"isa\":\"" + isa + "\",\"cores\":" + std::to_string(std::thread::hardware_concurrency()) +
         ",\"scratchBytesPerThread\":" + std::to_string(SCRATCH_BYTES + PRODUCT_BYTES + COPY_BYTES) + ",\"driver\":\"" + version(driver) + "\",\"runtime\":\"" +
         version(runtime) + "\",\"math\":\"" + (on_tensor_cores(false) ? "bf16" : on_tensor_cores(true) ? "as stored" : "fp32") + "\",\"libraries\":" + describe_libraries() + ",\"missing\":" + quoted(missing) + ",\"gpus\":[" + gpus + "]}";
}

// There is one set of kernels; a test that asks for the best one gets it.
bool select_instructions(uint32_t isa) { return isa == 0; }

}  // namespace baton

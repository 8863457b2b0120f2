#include "chains.h"

#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>
#include <mutex>

#include "kernels/kernel.cuh"
#include "libraries.h"
#include "runtime.h"

namespace baton {
namespace {

// What a chain was compiled to, loaded on one GPU; null when it cannot be.
typedef void* Function;

std::string environment(const char* name) {
  const char* value = getenv(name);
  return value ? value : "";
}

// ---- files -------------------------------------------------------------------------------------------------------

// FNV-1a, twice with different beginnings: a name, not a defence.
std::string name_of(const std::string& text) {
  char name[40];
  uint64_t hash[2] = {14695981039346656037u, 1099511628211u};
  for (uint64_t& h : hash)
    for (unsigned char c : text) h = (h ^ c) * 1099511628211u;
  snprintf(name, sizeof name, "%016llx%016llx", (unsigned long long)hash[0], (unsigned long long)hash[1]);
  return name;
}
std::string cache_folder() {
  std::string base = environment("XDG_CACHE_HOME"), home = environment("HOME");
  if (base.empty()) base = (home.empty() ? "/tmp" : home) + "/.cache";
  std::string path = base + "/baton";
  mkdir(base.c_str(), 0777), mkdir(path.c_str(), 0777);
  path += "/kernels";
  mkdir(path.c_str(), 0777);
  return path;
}
std::string read_file(const std::string& path) {
  std::string out;
  FILE* f = fopen(path.c_str(), "rb");
  if (!f) return out;
  char buffer[65536];
  for (size_t n; (n = fread(buffer, 1, sizeof buffer, f)) > 0;) out.append(buffer, n);
  fclose(f);
  return out;
}
// Appears whole or not at all; where nothing can be written it is compiled again next time.
void write_file(const std::string& path, const std::string& content) {
  std::string temporary = path + "." + std::to_string(getpid()) + "." + std::to_string(clock_ns());
  FILE* f = fopen(temporary.c_str(), "wb");
  if (!f) return;
  bool whole = fwrite(content.data(), 1, content.size(), f) == content.size();
  whole = fclose(f) == 0 && whole;
  if (!whole || rename(temporary.c_str(), path.c_str()) != 0) unlink(temporary.c_str());
}

// ---- the compiler ------------------------------------------------------------------------------------------------

#ifdef BATON_EMULATION

// The host's compiler stands in for NVRTC, and a shared library for a module.
constexpr bool ON_HOST = true;
std::string target(int) { return "host"; }
bool can_compile() { return environment("BATON_CUDA_POINTWISE") == "nvrtc"; }
// A place for a file that is gone soon, without its ending.
std::string temporary_base() {
  std::string folder = environment("TMPDIR");
  return (folder.empty() ? std::string(P_tmpdir) : folder) + "/baton-chain-" + std::to_string(getpid()) + "-" + std::to_string(clock_ns());
}
std::string compile(const std::string& source, const std::string&) {
  std::string base = temporary_base(), cxx = environment("CXX");
  write_file(base + ".cpp", source);
  std::string command = (cxx.empty() ? "g++" : cxx) + " -std=c++17 -O2 -fPIC -shared -ffp-contract=off -fno-math-errno -w -o " + base + ".so " + base + ".cpp";
  std::string out = system(command.c_str()) == 0 ? read_file(base + ".so") : "";
  unlink((base + ".cpp").c_str()), unlink((base + ".so").c_str());
  return out;
}
Function load(const std::string& image) {
  std::string path = temporary_base() + ".so";
  write_file(path, image);
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  unlink(path.c_str());
  return library ? dlsym(library, "chain") : nullptr;
}
void run(Call& c, Function f, const ChainPorts& ports, long n, unsigned blocks) {
  auto chain = reinterpret_cast<void (*)(const ChainPorts*, long long, long long, long long)>(f);
  emulation::enqueue_kernel(c.stream, [=] {
    emulation::run(dim3(blocks), dim3(256), 0, [&] { chain(&ports, first_index(), index_step(), n); });
  });
  succeeded(c, cudaGetLastError());
}

#else

constexpr bool ON_HOST = false;

struct Nvrtc {
  int (*Version)(int*, int*) = nullptr;
  int (*CreateProgram)(void**, const char*, const char*, int, const char* const*, const char* const*) = nullptr;
  int (*CompileProgram)(void*, int, const char* const*) = nullptr;
  int (*GetCUBINSize)(void*, size_t*) = nullptr;
  int (*GetCUBIN)(void*, char*) = nullptr;
  int (*DestroyProgram)(void**) = nullptr;
  // Of the driver.
  int (*ModuleLoadData)(void**, const void*) = nullptr;
  int (*ModuleGetFunction)(void**, void*, const char*) = nullptr;
  int (*LaunchKernel)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, cudaStream_t, void**, void**) = nullptr;
  bool usable = true;

  Nvrtc() {
    void *library = open_library(Library::nvrtc), *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    auto find = [&](void* handle, auto& function, const char* name) {
      function = handle ? reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, name)) : nullptr;
      usable = usable && function;
    };
    find(library, Version, "nvrtcVersion"), find(library, CreateProgram, "nvrtcCreateProgram");
    find(library, CompileProgram, "nvrtcCompileProgram"), find(library, GetCUBINSize, "nvrtcGetCUBINSize");
    find(library, GetCUBIN, "nvrtcGetCUBIN"), find(library, DestroyProgram, "nvrtcDestroyProgram");
    find(driver, ModuleLoadData, "cuModuleLoadData"), find(driver, ModuleGetFunction, "cuModuleGetFunction");
    find(driver, LaunchKernel, "cuLaunchKernel");
    if (usable) open_builtins();
  }
  // NVRTC asks for these by name alone; of a pip wheel they are found only when they are open already.
  void open_builtins() const {
    Dl_info info;
    int major = 0, minor = 0;
    if (Version(&major, &minor) != 0 || !dladdr(reinterpret_cast<void*>(Version), &info) || !info.dli_fname) return;
    std::string path = info.dli_fname, folder = path.substr(0, path.rfind('/') + 1);
    dlopen((folder + "libnvrtc-builtins.so." + std::to_string(major) + "." + std::to_string(minor)).c_str(), RTLD_NOW | RTLD_LOCAL);
  }
};
const Nvrtc& nvrtc() {
  static const Nvrtc& one = *new Nvrtc;
  return one;
}

bool can_compile() { return nvrtc().usable; }
std::string target(int gpu) {
  int major = 0, minor = 0, a = 0, b = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, gpu);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, gpu);
  nvrtc().Version(&a, &b);
  return "sm_" + std::to_string(major * 10 + minor) + " nvrtc " + std::to_string(a) + "." + std::to_string(b);
}
// An empty text when it cannot.
std::string compile(const std::string& source, const std::string& target) {
  std::string architecture = "--gpu-architecture=" + target.substr(0, target.find(' '));
  // The arithmetic of ffi/build_cuda.ts.
  const char* options[] = {architecture.c_str(), "--std=c++17", "--fmad=false", "--ftz=true", "--prec-div=true", "--prec-sqrt=true"};
  void* program = nullptr;
  if (nvrtc().CreateProgram(&program, source.c_str(), "chain.cu", 0, nullptr, nullptr) != 0) return "";
  std::string image;
  size_t bytes = 0;
  if (nvrtc().CompileProgram(program, 6, options) == 0 && nvrtc().GetCUBINSize(program, &bytes) == 0 && bytes > 0) {
    image.resize(bytes);
    if (nvrtc().GetCUBIN(program, &image[0]) != 0) image.clear();
  }
  nvrtc().DestroyProgram(&program);
  return image;
}
Function load(const std::string& image) {
  void *module = nullptr, *function = nullptr;
  bool ok = nvrtc().ModuleLoadData(&module, image.data()) == 0 && nvrtc().ModuleGetFunction(&function, module, "chain") == 0;
  return ok ? function : nullptr;
}
void run(Call& c, Function f, const ChainPorts& ports, long n, unsigned blocks) {
  ChainPorts copy = ports;
  long long count = n;
  void* arguments[] = {&copy, &count};
  int e = nvrtc().LaunchKernel(f, blocks, 1, 1, 256, 1, 1, 0, c.stream, arguments, nullptr);
  if (e != 0) fail(c, "the GPU's driver refused a compiled chain with error %d", e);
}

#endif

Function function_of(const ChainShape& shape, int gpu) {
  static std::mutex mutex;
  static std::map<std::string, Function>& known = *new std::map<std::string, Function>;
  std::string where = target(gpu), source = shape.source(ON_HOST), key = where + "\n" + source;
  std::lock_guard<std::mutex> lock(mutex);
  auto found = known.find(std::to_string(gpu) + " " + key);
  if (found != known.end()) return found->second;
  std::string path = cache_folder() + "/" + name_of(key), image = read_file(path);
  Function function = image.empty() ? nullptr : load(image);
  if (!function) {
    image = compile(source, where);
    function = image.empty() ? nullptr : load(image);
    if (function) write_file(path, image);
  }
  return known[std::to_string(gpu) + " " + key] = function;
}

}  // namespace

bool launch_chain(Call& c, const ChainShape& shape, const ChainPorts& ports, long n) {
  static const bool on = environment("BATON_CUDA_POINTWISE") != "interpreter" && can_compile();
  Function f = on && n > 0 ? function_of(shape, c.device->gpu()) : nullptr;
  if (f) run(c, f, ports, n, blocks_of(parts(n, shape.packed() ? 8 : 1), 256));
  return f;
}

}  // namespace baton

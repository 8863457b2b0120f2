#include "libraries.h"

#include <dlfcn.h>
#include <link.h>
#include <stdlib.h>

#include <mutex>
#include <vector>

namespace baton {
namespace {

struct Known {
  const char* name;
  std::vector<const char*> files;  // the newest first
};
const Known& known(Library library) {
  static const Known blas{"cublasLt", {"libcublasLt.so.13", "libcublasLt.so.12"}}, nccl{"nccl", {"libnccl.so.2"}},
      nvrtc{"nvrtc", {"libnvrtc.so.13", "libnvrtc.so.12"}}, cudnn{"cudnn", {"libcudnn.so.9"}};
  switch (library) {
    case Library::blas: return blas;
    case Library::nccl: return nccl;
    case Library::nvrtc: return nvrtc;
    case Library::cudnn: break;
  }
  return cudnn;
}

struct Opened {
  bool tried = false;
  void* handle = nullptr;
  std::string why;
};

std::vector<std::string> folders() {
  std::vector<std::string> all;
  const char* list = getenv("BATON_CUDA_LIBRARIES");
  std::string text = list ? list : "";
  for (size_t at = 0; at < text.size();) {
    size_t end = text.find(':', at);
    if (end == std::string::npos) end = text.size();
    if (end > at) all.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return all;
}

template <class F>
F* symbol(void* handle, const char* name) { return handle ? reinterpret_cast<F*>(dlsym(handle, name)) : nullptr; }

std::string dotted(long a, long b, long c) { return std::to_string(a) + "." + std::to_string(b) + "." + std::to_string(c); }

std::string version(Library library, void* handle) {
  int major = 0, minor = 0;
  switch (library) {
    case Library::blas: {
      auto* f = symbol<size_t()>(handle, "cublasLtGetVersion");
      long v = f ? long(f()) : 0;
      return dotted(v / 10000, v / 100 % 100, v % 100);
    }
    case Library::nccl: {
      auto* f = symbol<int(int*)>(handle, "ncclGetVersion");
      if (f) f(&major);
      return dotted(major / 10000, major / 100 % 100, major % 100);
    }
    case Library::nvrtc: {
      auto* f = symbol<int(int*, int*)>(handle, "nvrtcVersion");
      if (f) f(&major, &minor);
      return std::to_string(major) + "." + std::to_string(minor);
    }
    case Library::cudnn: {
      auto* f = symbol<size_t()>(handle, "cudnnGetVersion");
      long v = f ? long(f()) : 0;
      return dotted(v / 10000, v / 100 % 100, v % 100);
    }
  }
  return "";
}

// " (/usr/lib/libnccl.so.2)", the file that was opened.
std::string place(void* handle) {
  link_map* map = nullptr;
  return dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && map && map->l_name[0] ? std::string(" (") + map->l_name + ")" : "";
}

}  // namespace

void* open_library(Library library, std::string* why) {
  static std::mutex mutex;
  static Opened all[4];
  std::lock_guard<std::mutex> lock(mutex);
  Opened& o = all[int(library)];
  if (!o.tried) {
    o.tried = true;
    const Known& k = known(library);
    std::string where;
    for (const std::string& folder : folders()) {
      where += (where.empty() ? "" : ", ") + folder;
      for (const char* file : k.files)
        if (!o.handle) o.handle = dlopen((folder + "/" + file).c_str(), RTLD_NOW | RTLD_LOCAL);
    }
    for (const char* file : k.files)
      if (!o.handle) o.handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!o.handle)
      o.why = std::string("no ") + k.files[0] + " in " + (where.empty() ? "" : where + " or ") +
              "the system's folders, install it or name its folder in BATON_CUDA_LIBRARIES";
  }
  if (why) *why = o.why;
  return o.handle;
}

std::string describe_libraries() {
  std::string json;
  for (Library library : {Library::blas, Library::nccl, Library::nvrtc, Library::cudnn}) {
    std::string why;
    void* handle = open_library(library, &why);
    json += std::string(json.empty() ? "{" : ",") + "\"" + known(library).name + "\":\"" + (handle ? version(library, handle) + place(handle) : why) + "\"";
  }
  return json + "}";
}

}  // namespace baton

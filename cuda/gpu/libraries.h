// Libraries that are opened when they are wanted, so that this one loads without them.
#pragma once
#include <string>

namespace baton {

enum class Library { blas, nccl, nvrtc, cudnn };

// The handle of a library, or null; `why` then says in one line what is missing and where it was looked for.
void* open_library(Library library, std::string* why = nullptr);

// JSON: {"cublasLt":"13.1.0 (/usr/lib/libcublasLt.so.13)","nccl":…,"nvrtc":…,"cudnn":…}, or the line that says what is missing.
std::string describe_libraries();

}  // namespace baton

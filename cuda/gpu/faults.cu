// What kernels found wrong with integers that they were given, in the words of the CPU backend.
#include <string>

#include "kernels/kernel.cuh"

namespace baton {
namespace {

constexpr const char* INDEX_NAMES[] = {"token id", "row", "position", "slot", "target", "page", "kept token"};

__global__ void check_ends_kernel(Reporter r, const int* ends, long count, long n) {
  // In order, so that the first one is reported.
  __shared__ int wrong;
  if (threadIdx.x == 0) wrong = 0x7fffffff;
  __syncthreads();
  for (long i = threadIdx.x; i < count; i += blockDim.x)
    if (ends[i] < (i ? ends[i - 1] : 0) || ends[i] > n) atomicMin(&wrong, int(i));
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (wrong != 0x7fffffff) r.report(SEGMENT, 0, wrong, ends[wrong], wrong ? ends[wrong - 1] : 0, n);
  else if ((count ? ends[count - 1] : 0) != n) r.report(LAST_SEGMENT, 0, count ? ends[count - 1] : 0, n);
}

}  // namespace

void check_ends(Call& c, const int* ends, long count, long n) {
  launch(c, check_ends_kernel, dim3(1), 256, 0, reporter(c), ends, count, n);
}

std::string fault_text(const Fault& f) {
  const long long* v = f.value;
  char text[ERROR_BYTES] = "it failed";
  switch (f.what) {
    case INDEX: snprintf(text, sizeof text, "%s %lld is %lld and there are %lld", INDEX_NAMES[f.index], v[0], v[1], v[2]); break;
    case SEGMENT: snprintf(text, sizeof text, "segment %lld ends at %lld, after %lld, of %lld", v[0], v[1], v[2], v[3]); break;
    case LAST_SEGMENT: snprintf(text, sizeof text, "the last segment ends at %lld, not at %lld", v[0], v[1]); break;
    case NO_PAGE: snprintf(text, sizeof text, "slot %lld has no page for position %lld", v[0], v[1]); break;
    case NO_ROOM: snprintf(text, sizeof text, "slot %lld has %lld tokens and room for %lld", v[0], v[1], v[2]); break;
    case NOT_KEPT:
      snprintf(text, sizeof text, "target %lld is %lld, which is not among the %lld kept tokens", v[0], v[1], v[2]);
      break;
    case NOT_FINITE: snprintf(text, sizeof text, "the logits of slot %lld are not finite", v[0]); break;
  }
  return text;
}

}  // namespace baton

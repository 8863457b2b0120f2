// A host stand-in for libnvidia-ml.so.1, for tests of what is said of links. GPUs are numbered by their bus, "0000:01:00.0" being the
// first. FAKE_NVML=mesh: all of them are joined by NVLink; otherwise pairs are (0–1, 2–3, …), four are behind one PCIe switch each, and
// all else goes through the processors.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace {

typedef uintptr_t Device;  // its number and 1
constexpr int SUCCESS = 0, INVALID = 2;

bool mesh() {
  const char* text = getenv("FAKE_NVML");
  return text && !strcmp(text, "mesh");
}
bool joined(Device a, Device b) { return mesh() || (a - 1) / 2 == (b - 1) / 2; }

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int nvmlInit_v2() { return SUCCESS; }
int nvmlShutdown() { return SUCCESS; }
int nvmlSystemGetDriverVersion(char* text, unsigned size) { return snprintf(text, size, "580.1.2"), SUCCESS; }
int nvmlDeviceGetHandleByPciBusId_v2(const char* bus, Device* device) {
  unsigned at = 0;
  if (sscanf(bus, "0000:%x:00.0", &at) != 1 || at == 0) return INVALID;
  return *device = at, SUCCESS;
}
int nvmlDeviceGetP2PStatus(Device a, Device b, unsigned index, unsigned* status) {
  if (index != 2) return INVALID;
  return *status = joined(a, b) ? 0 : 6, SUCCESS;
}
int nvmlDeviceGetTopologyCommonAncestor(Device a, Device b, unsigned* level) {
  return *level = (a - 1) / 4 == (b - 1) / 4 ? 10 : 50, SUCCESS;
}
int nvmlDeviceGetNvLinkState(Device, unsigned link, unsigned* active) {
  if (link >= 18) return INVALID;
  return *active = link < (mesh() ? 18 : 4), SUCCESS;
}
int nvmlDeviceGetMaxPcieLinkGeneration(Device, unsigned* generation) { return *generation = 5, SUCCESS; }
int nvmlDeviceGetMaxPcieLinkWidth(Device, unsigned* width) { return *width = 16, SUCCESS; }

}

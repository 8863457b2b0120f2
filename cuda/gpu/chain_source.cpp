#include "chain_source.h"

#include "../common/opcodes.h"

namespace baton {
namespace {

// What math.cuh and the chain need where there are no headers: of a GPU's compiler, or of the host's for the emulation.
const char* const GPU = R"(
typedef unsigned short half_bits;
namespace baton {
__device__ inline half_bits half_of(float v) { half_bits h; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(v)); return h; }
}
)";
const char* const HOST = R"(
#include <math.h>
#include <string.h>
#define __device__
typedef unsigned short half_bits;
inline float __int_as_float(int v) { float f; memcpy(&f, &v, 4); return f; }
inline int __float_as_int(float v) { int i; memcpy(&i, &v, 4); return i; }
namespace baton {
inline half_bits half_of(float v) {
  unsigned u = unsigned(__float_as_int(v));
  if ((u & 0x7fffffff) > 0x7f800000) return half_bits(u >> 16 | 0x40);
  return half_bits((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
}
)";

// Packs of eight elements, then what is left of n.
const char* const WALK = R"(__device__ inline void walk(const Ports& p, long long first, long long step, long long n) {
  long long packs = PACKS ? n / 8 : 0;
  for (long long i = first; i < packs; i += step) pack(p, 8 * i);
  for (long long i = 8 * packs + first; i < n; i += step) element(p, i);
}
}
)";
const char* const GPU_END = R"(extern "C" __global__ void chain(baton::Ports p, long long n) {
  baton::walk(p, (long long)blockIdx.x * blockDim.x + threadIdx.x, (long long)gridDim.x * blockDim.x, n);
}
)";
const char* const HOST_END = R"(extern "C" void chain(const baton::Ports* p, long long first, long long step, long long n) {
  baton::walk(*p, first, step, n);
}
)";

std::string reg(int i) { return "r" + std::to_string(i); }

// The same expressions as `apply` of pointwise.cu.
std::string expression(const ChainShape::Step& s) {
  std::string a = reg(s.a), b = reg(s.b), c = reg(s.c);
  switch (s.op) {
    case CONSTANT: return "__int_as_float(int(" + std::to_string(s.constant) + "u))";
    case ADD: return a + " + " + b;
    case SUB: return a + " - " + b;
    case MUL: return a + " * " + b;
    case DIV: return a + " / " + b;
    case MIN: return "least_of(" + a + ", " + b + ")";
    case MAX: return "most_of(" + a + ", " + b + ")";
    case NEG: return a + " * -1.f";
    case EXP: return "exp_of(" + a + ")";
    case LOG: return "log_of(" + a + ")";
    case SIGMOID: return "sigmoid_of(" + a + ")";
    case LT: return a + " < " + b + " ? 1.f : 0.f";
    case GE: return a + " >= " + b + " ? 1.f : 0.f";
    case WHERE: return a + " < 0.f || 0.f < " + a + " ? " + b + " : " + a + " >= 0.f ? " + c + " : " + b;
    case ABS: return "fabsf(" + a + ")";
    case SQRT: return "sqrtf(" + a + ")";
    case LOG_SIGMOID: return "log_sigmoid_of(" + a + ")";
    case SIGN: return "0.f < " + a + " ? 1.f : " + a + " < 0.f ? -1.f : " + a;
  }
  return a;
}

}  // namespace

bool ChainShape::packed() const { return inputs.size() + outputs.size() <= 8 && steps.size() <= 32; }

std::string ChainShape::source(bool host) const {
  auto number = [](size_t k) { return std::to_string(k); };
  auto type = [](const Port& z) { return std::string(z.half ? "half_bits" : "float"); };
  auto widened = [](const Port& z, const std::string& v) { return z.half ? "__int_as_float(int(unsigned(" + v + ") << 16))" : v; };
  auto narrowed = [](const Port& z, const std::string& v) { return z.half ? "half_of(" + v + ")" : v; };
  size_t n = inputs.size();
  const std::string EACH = "#pragma unroll\n  for (int e = 0; e < 8; e++) ";
  std::string compute, element, pack;
  for (size_t k = 0; k < n; k++) {
    std::string at = "((" + type(inputs[k]) + "*)p.at[" + number(k) + "])", one = at + "[0]";
    compute += "  float " + reg(int(k)) + " = x[" + number(k) + "];\n";
    element += "  x[" + number(k) + "] = " + widened(inputs[k], at + (inputs[k].one ? "[0]" : "[i]")) + ";\n";
    std::string from = inputs[k].one ? one : "t" + number(k) + ".v[e]";
    if (!inputs[k].one) pack += "  Pack<" + type(inputs[k]) + "> t" + number(k) + " = *(Pack<" + type(inputs[k]) + ">*)(" + at + " + i);\n";
    pack += EACH + "x[e][" + number(k) + "] = " + widened(inputs[k], from) + ";\n";
  }
  for (size_t k = 0; k < steps.size(); k++) compute += "  float " + reg(int(n + k)) + " = " + expression(steps[k]) + ";\n";
  element += "  compute(x, y);\n", pack += EACH + "compute(x[e], y[e]);\n";
  for (size_t k = 0; k < outputs.size(); k++) {
    std::string at = "((" + type(outputs[k]) + "*)p.at[" + number(n + k) + "])", to = "u" + number(k);
    compute += "  y[" + number(k) + "] = " + reg(results[k]) + ";\n";
    element += "  " + at + "[i] = " + narrowed(outputs[k], "y[" + number(k) + "]") + ";\n";
    pack += "  Pack<" + type(outputs[k]) + "> " + to + ";\n" + EACH + to + ".v[e] = " +
            narrowed(outputs[k], "y[e][" + number(k) + "]") + ";\n  *(Pack<" + type(outputs[k]) + ">*)(" + at + " + i) = " + to + ";\n";
  }
  if (!packed()) pack.clear();
  std::string x = "[" + number(n + 1) + "]", y = "[" + number(outputs.size() + 1) + "];\n";
  std::string head = "__device__ inline void ";
  return std::string("#define BATON_NO_HEADERS 1\n#define PACKS ") + (packed() ? "1\n" : "0\n") + (host ? HOST : GPU) + math_text() +
         "namespace baton {\nstruct Ports { void* at[" + number(CHAIN_PORTS) +
         "]; };\ntemplate <class T>\nstruct alignas(16) Pack { T v[8]; };\n" + head + "compute(const float* x, float* y) {\n" + compute +
         "}\n" + head + "element(const Ports& p, long long i) {\n  float x" + x + ", y" + y + element + "}\n" + head +
         "pack(const Ports& p, long long i) {\n  float x[8]" + x + ", y[8]" + y + pack + "}\n" + WALK + (host ? HOST_END : GPU_END);
}

}  // namespace baton

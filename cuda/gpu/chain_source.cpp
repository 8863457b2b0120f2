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

const char* const GPU_END = R"(extern "C" __global__ void chain(baton::Ports p, long long n) {
  long long step = (long long)gridDim.x * blockDim.x;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) baton::element(p, i);
}
)";
const char* const HOST_END = R"(extern "C" void chain(const baton::Ports* p, long long i) { baton::element(*p, i); }
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

std::string ChainShape::source(bool host) const {
  std::string body;
  auto port = [](size_t k, bool half) {
    return std::string(half ? "((half_bits*)" : "((float*)") + "p.at[" + std::to_string(k) + "])";
  };
  for (size_t k = 0; k < inputs.size(); k++) {
    std::string value = port(k, inputs[k].half) + (inputs[k].one ? "[0]" : "[i]");
    body += "  float " + reg(int(k)) + " = " + (inputs[k].half ? "__int_as_float(int(unsigned(" + value + ") << 16))" : value) + ";\n";
  }
  for (size_t k = 0; k < steps.size(); k++)
    body += "  float " + reg(int(inputs.size() + k)) + " = " + expression(steps[k]) + ";\n";
  for (size_t k = 0; k < outputs.size(); k++) {
    std::string value = reg(results[k]);
    body += "  " + port(inputs.size() + k, outputs[k].half) + "[i] = " + (outputs[k].half ? "half_of(" + value + ")" : value) + ";\n";
  }
  const char* end = host ? HOST_END : GPU_END;
  return std::string("#define BATON_NO_HEADERS 1\n") + (host ? HOST : GPU) + math_text() + "namespace baton {\nstruct Ports { void* at[" +
         std::to_string(CHAIN_PORTS) + "]; };\n__device__ inline void element(const Ports& p, long long i) {\n" + body + "}\n}\n" + end;
}

}  // namespace baton

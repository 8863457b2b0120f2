// swiglu, and the register machine that runs a fused chain of element-by-element operations.
#include "../chains.h"
#include "packs.cuh"

namespace baton {
namespace {

template <class T, int PER>
__global__ void swiglu_kernel(const T* gate, const T* up, T* y, long n) {
  for (long i = first_index() * PER; i < n; i += index_step() * PER) {
    float g[PER], u[PER];
    read<PER>(gate + i, g), read<PER>(up + i, u);
#pragma unroll
    for (int e = 0; e < PER; e++) g[e] = swiglu_of(g[e], u[e]);
    write<PER>(y + i, g);
  }
}

template <class T, int PER>
__global__ void swiglu_grad_kernel(const T* dy, const T* gate, const T* up, T* dgate, T* dup, long n) {
  for (long i = first_index() * PER; i < n; i += index_step() * PER) {
    float d[PER], g[PER], u[PER];
    read<PER>(dy + i, d), read<PER>(gate + i, g), read<PER>(up + i, u);
#pragma unroll
    for (int e = 0; e < PER; e++) {
      float s = sigmoid_of(g[e]), silu = g[e] * s;
      g[e] = d[e] * u[e] * (s * (1.f + (g[e] - silu)));
      u[e] = d[e] * silu;
    }
    write<PER>(dgate + i, g), write<PER>(dup + i, u);
  }
}

// f(packs of sixteen bytes, or one number at a time).
template <class T, class F>
void by_packs(bool wide, F f) {
  if (wide) f(std::integral_constant<int, WIDE<T>>());
  else f(std::integral_constant<int, 1>());
}

__device__ float apply(int op, float a, float b, float c) {
  switch (op) {
    case ADD: return a + b;
    case SUB: return a - b;
    case MUL: return a * b;
    case DIV: return a / b;
    case MIN: return least_of(a, b);
    case MAX: return most_of(a, b);
    case NEG: return a * -1.f;
    case EXP: return exp_of(a);
    case LOG: return log_of(a);
    case SIGMOID: return sigmoid_of(a);
    case LT: return a < b ? 1.f : 0.f;
    case GE: return a >= b ? 1.f : 0.f;
    case WHERE: return a < 0.f || 0.f < a ? b : a >= 0.f ? c : b;  // NaN is not 0
    case ABS: return fabsf(a);
    case SQRT: return sqrtf(a);
    case LOG_SIGMOID: return log_sigmoid_of(a);
    case SIGN: return 0.f < a ? 1.f : a < 0.f ? -1.f : a;
  }
  return a;
}

// One instruction, which needs no registers in memory: the additions to the residual stream.
template <class T>
struct Single {
  int op;
  const T* in[3];
  bool one[3];  // an input that is one number
  T* out;
};

template <class T, int PER>
__global__ void single_kernel(Single<T> z, long n) {
  typedef Pack<T, PER> P;
  for (long i = first_index() * PER; i < n; i += index_step() * PER) {
    P x[3], y;
    for (int k = 0; k < 3; k++) {
      if (!z.one[k]) x[k] = *pack_at<PER>(z.in[k] + i);
      else for (int e = 0; e < PER; e++) x[k].v[e] = z.in[k][0];
    }
    for (int e = 0; e < PER; e++) y.v[e] = stored<T>(apply(z.op, number(x[0].v[e]), number(x[1].v[e]), number(x[2].v[e])));
    *pack_at<PER>(z.out + i) = y;
  }
}

uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}
struct Step {
  uint16_t op, a, b, c;
};
// A chain as a kernel's argument: nothing has to be copied before it runs. STEPS and PORTS are what fits.
template <int STEPS, int PORTS>
struct Chain {
  int inputs, steps, outputs;
  void* port[PORTS];          // inputs, then outputs
  uint8_t half[PORTS];        // whether it is bf16
  uint16_t result[PORTS];     // register of an output
  uint8_t broadcast[PORTS];   // an input that is one number
  Step step[STEPS];           // of a constant, a and b are its bits
};

// Registers lie side by side for threads side by side.
template <int STEPS, int PORTS>
__global__ void chain_kernel(Chain<STEPS, PORTS> z, float* registers, long n) {
  long step = index_step();
  float* r = registers + first_index();
  for (long i = first_index(); i < n; i += step) {
    for (int k = 0; k < z.inputs; k++) r[k * step] = Numbers{z.port[k], z.half[k] != 0}[z.broadcast[k] ? 0 : i];
    for (int k = 0; k < z.steps; k++) {
      const Step s = z.step[k];
      float value;
      if (s.op == CONSTANT) value = __int_as_float(int(unsigned(s.b) << 16 | s.a));
      else value = apply(s.op, r[s.a * step], r[s.b * step], r[s.c * step]);
      r[(z.inputs + k) * step] = value;
    }
    for (int k = 0; k < z.outputs; k++)
      OutNumbers{z.port[z.inputs + k], z.half[z.inputs + k] != 0}.set(i, r[z.result[k] * step]);
  }
}

template <int STEPS, int PORTS>
void run_chain(Call& c) {
  long n = size(c, 0);
  int inputs = int(size(c, 1)), steps = int(size(c, 2)), outputs = int(size(c, 3));
  const double *stride = c.attribute + 4, *code = stride + inputs, *out = code + 4 * steps;
  Chain<STEPS, PORTS> z{inputs, steps, outputs, {}, {}, {}, {}, {}};
  for (int k = 0; k < inputs + outputs; k++) z.port[k] = c.operand[k], z.half[k] = is_half(c, k);
  for (int k = 0; k < inputs; k++) z.broadcast[k] = stride[k] == 0;
  for (int k = 0; k < outputs; k++) z.result[k] = uint16_t(out[k]);
  for (int k = 0; k < steps; k++) {
    const double* s = code + 4 * k;
    z.step[k] = {uint16_t(s[0]), uint16_t(s[1]), uint16_t(s[2]), uint16_t(s[3])};
    if (int(s[0]) != CONSTANT) continue;
    uint32_t bits = bits_of(float(s[1]));
    z.step[k] = {CONSTANT, uint16_t(bits & 0xffff), uint16_t(bits >> 16), 0};
  }
  // As many threads as have room for their registers.
  long room = long(SCRATCH_BYTES / 4) / larger(inputs + steps, 1) / 128;
  unsigned blocks = unsigned(smaller(smaller(parts(n, 128), room), 4096));
  launch(c, chain_kernel<STEPS, PORTS>, dim3(blocks), 128, 0, z, reinterpret_cast<float*>(c.scratch), n);
}

// By a kernel that was compiled for this chain.
bool run_compiled(Call& c) {
  int inputs = int(size(c, 1)), steps = int(size(c, 2)), outputs = int(size(c, 3));
  if (inputs + outputs > CHAIN_PORTS) return false;
  const double *stride = c.attribute + 4, *code = stride + inputs, *out = code + 4 * steps;
  ChainShape shape;
  ChainPorts ports{};
  for (int k = 0; k < inputs + outputs; k++) {
    ports.at[k] = c.operand[k];
    (k < inputs ? shape.inputs : shape.outputs).push_back({is_half(c, k), k < inputs && stride[k] == 0});
  }
  for (int k = 0; k < steps; k++) {
    const double* s = code + 4 * k;
    shape.steps.push_back({int(s[0]), 0, 0, 0, 0});
    if (int(s[0]) == CONSTANT) shape.steps.back().constant = bits_of(float(s[1]));
    else shape.steps.back().a = int(s[1]), shape.steps.back().b = int(s[2]), shape.steps.back().c = int(s[3]);
  }
  for (int k = 0; k < outputs; k++) shape.results.push_back(int(out[k]));
  for (int k = 0; k < inputs + outputs; k++)
    if (!aligned(ports.at[k])) return false;  // operands of programs are
  return launch_chain(c, shape, ports, size(c, 0));
}

// False for what is no single instruction over operands of one type.
template <class T>
bool run_single(Call& c) {
  long n = size(c, 0), inputs = size(c, 1);
  const double *stride = c.attribute + 4, *code = stride + inputs, *out = code + 4;
  if (size(c, 2) != 1 || size(c, 3) != 1 || int(code[0]) == CONSTANT || long(out[0]) != inputs) return false;
  for (int k = 1; k <= inputs; k++)
    if (is_half(c, k) != is_half(c, 0)) return false;
  Single<T> z{int(code[0]), {}, {}, at<T>(c, int(inputs))};
  bool whole = n % WIDE<T> == 0 && aligned(z.out);
  for (int k = 0; k < 3; k++) {
    int from = int(code[1 + k]);
    z.in[k] = at<T>(c, from), z.one[k] = stride[from] == 0;
    whole = whole && (z.one[k] || aligned(z.in[k]));
  }
  by_packs<T>(whole, [&](auto per) { launch(c, single_kernel<T, per()>, dim3(blocks_of(n / per(), 256)), 256, 0, z, n); });
  return true;
}

}  // namespace

void swiglu(Call& c, const void* gate, const void* up, void* y, bool half, long n) {
  auto run = [&](auto type) {
    typedef decltype(type) T;
    const T *g = static_cast<const T*>(gate), *u = static_cast<const T*>(up);
    T* to = static_cast<T*>(y);
    by_packs<T>(n % WIDE<T> == 0 && aligned(g, u, to), [&](auto per) {
      launch(c, swiglu_kernel<T, per()>, dim3(blocks_of(n / per(), 256)), 256, 0, g, u, to, n);
    });
  };
  if (half) run(bf16());
  else run(float());
}

void swiglu(Call& c) { swiglu(c, c.operand[0], c.operand[1], c.operand[2], is_half(c, 0), size(c, 0)); }

void swiglu_grad(Call& c) {
  long n = size(c, 0);
  by_type(c, 0, [&](auto type) {
    typedef decltype(type) T;
    const T *dy = at<T>(c, 0), *gate = at<T>(c, 1), *up = at<T>(c, 2);
    T *dgate = at<T>(c, 3), *dup = at<T>(c, 4);
    by_packs<T>(n % WIDE<T> == 0 && aligned(dy, gate, up, dgate, dup), [&](auto per) {
      launch(c, swiglu_grad_kernel<T, per()>, dim3(blocks_of(n / per(), 256)), 256, 0, dy, gate, up, dgate, dup, n);
    });
  });
}

void pointwise(Call& c) {
  long inputs = size(c, 1), steps = size(c, 2), outputs = size(c, 3);
  if (outputs == 0) return;
  if (inputs > 0 && (is_half(c, 0) ? run_single<bf16>(c) : run_single<float>(c))) return;
  if (run_compiled(c)) return;
  if (steps <= 128 && inputs + outputs <= 64) run_chain<128, 64>(c);
  else run_chain<MAX_INSTRUCTIONS, 512>(c);
}

}  // namespace baton

// swiglu, and the register machine that runs a fused chain of element-by-element operations.
#include "../../common/opcodes.h"
#include "kernel.h"

namespace baton {
namespace BATON_ISA {

// Elements worth a thread of their own: a decode step's are not, since moving them between cores costs more.
constexpr long GRAIN = 16384;

void swiglu(Call& c) {
  const float *gate = floats(c, 0), *up = floats(c, 1);
  float* y = floats(c, 2);
  split(*c.pool, size(c, 0), GRAIN, [&](long begin, long end) {
    by_lanes(begin, end, [&](long i, long n) {
      store_live(y + i, gated(load_live(gate + i, n), load_live(up + i, n)), n);
    });
  });
}

// silu'(g) = σ(g) · (1 + g · (1 − σ(g)))
void swiglu_grad(Call& c) {
  const float *dy = floats(c, 0), *gate = floats(c, 1), *up = floats(c, 2);
  float *dgate = floats(c, 3), *dup = floats(c, 4);
  split(*c.pool, size(c, 0), GRAIN, [&](long begin, long end) {
    by_lanes(begin, end, [&](long i, long n) {
      v16 d = load_live(dy + i, n), g = load_live(gate + i, n), u = load_live(up + i, n);
      v16 s = sigmoid(g), silu = g * s;
      store_live(dgate + i, d * u * (s * (all(1.f) + (g - silu))), n);
      store_live(dup + i, d * silu, n);
    });
  });
}

namespace {

v16 apply(int op, v16 a, v16 b, v16 c) {
  v16 o = zero(), one = all(1.f);
  switch (op) {
    case ADD: return a + b;
    case SUB: return a - b;
    case MUL: return a * b;
    case DIV: return a / b;
    case MIN: return least(a, b);
    case MAX: return most(a, b);
    case NEG: return a * all(-1.f);
    case EXP: return exp(a);
    case LOG: return log(a);
    case SIGMOID: return sigmoid(a);
    case LT: return pick(less(a, b), one, o);
    case GE: return pick(at_least(a, b), one, o);
    case WHERE: return pick(less(a, o), b, pick(less(o, a), b, pick(at_least(a, o), c, b)));  // NaN is not 0
    case ABS: return magnitude(a);
    case SQRT: return root(a);
    case LOG_SIGMOID: return log_sigmoid(a);
    case SIGN: return pick(less(o, a), one, pick(less(a, o), all(-1.f), a));
  }
  return a;
}

}  // namespace

// Registers hold a block of values; one instruction runs over a whole block, so its decoding costs nothing. Inputs and
// outputs are registers too, copied in and out, and therefore may share memory.
void pointwise(Call& c) {
  long n = size(c, 0), inputs = size(c, 1), instructions = size(c, 2), outputs = size(c, 3);
  const double *stride = c.attribute + 4, *code = stride + inputs, *out = code + 4 * instructions;
  if (outputs == 0) return;
  long block = smaller(512, long(SCRATCH_BYTES / 4) / larger(inputs + instructions, 1) & ~15L);
  parallel(*c.pool, parts(n, 4096), [&](long task, int thread) {
    float* registers = reinterpret_cast<float*>(c.pool->scratch(thread));
    for (long begin = task * 4096, end = smaller(n, begin + 4096); begin < end; begin += block) {
      long live = smaller(block, end - begin);
      for (long i = 0; i < inputs; i++) {
        float* to = registers + i * block;
        const float* from = floats(c, int(i));
        if (stride[i] != 0) memcpy(to, from + begin, size_t(live) * 4);
        else
          for (long j = 0; j < block; j++) to[j] = *from;
      }
      for (long i = 0; i < instructions; i++) {
        int op = int(code[4 * i]);
        float* to = registers + (inputs + i) * block;
        if (op == CONSTANT) {
          for (long j = 0; j < block; j++) to[j] = float(code[4 * i + 1]);
          continue;
        }
        const float *a = registers + long(code[4 * i + 1]) * block, *b = registers + long(code[4 * i + 2]) * block;
        const float* d = registers + long(code[4 * i + 3]) * block;
        for (long j = 0; j < live; j += 16) store(to + j, apply(op, load(a + j), load(b + j), load(d + j)));
      }
      for (long i = 0; i < outputs; i++)
        memcpy(floats(c, int(inputs + i)) + begin, registers + long(out[i]) * block, size_t(live) * 4);
    }
  });
}

}  // namespace BATON_ISA
}  // namespace baton

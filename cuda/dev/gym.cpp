// Two versions of the CPU kernels side by side: `base`, from another commit, and `trial`, from the working tree. Every case is
// a list of operations as a program of the benchmark's models has them, each on memory of its own, so that caches are as warm
// as in a run. Outputs have to agree bit for bit; times alternate. bench/gym.ts builds and runs it.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <functional>
#include <regex>
#include <string>
#include <vector>

#include "../common/clock.h"
#include "../common/opcodes.h"
#include "../cpu/kernels.h"

namespace baton {
namespace base { extern const Instructions instructions; }
namespace trial { extern const Instructions instructions; }

namespace {

struct Block {
  void* p;
  uint64_t bytes;
};
struct Operation {
  int code;
  std::vector<Block> operands;
  std::vector<double> attributes;
};
struct Model {
  long hidden, layers, heads, kv, d, inner, vocabulary;
};
const Model S{256, 4, 8, 4, 32, 688, 4096}, M{512, 8, 8, 4, 64, 1376, 32000};

constexpr uint64_t ARENA = uint64_t(8) << 30;

struct Case {
  std::vector<Operation> operations;
  std::vector<Operation> parts;  // what `base` runs where operations are joined in `trial`; else the same
  std::vector<Block> outputs;
  double flops = 0, bytes = 0;
  char* arena;
  uint64_t used = 0;
  uint32_t state = 1;

  // Memory as a segment's: huge pages, one buffer behind the other.
  Case() {
    arena = static_cast<char*>(mmap(nullptr, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    madvise(arena, ARENA, MADV_HUGEPAGE);
  }
  ~Case() { munmap(arena, ARENA); }

  Block make(long n) {
    uint64_t bytes = uint64_t(n + 15) / 16 * 64;
    Block b{arena + used, bytes};
    used += bytes;
    return b;
  }
  float random() { return float(int32_t(state = state * 1664525u + 1013904223u)) * 0x1p-31f; }
  Block reals(long n, float scale = 1) {
    Block b = make(n);
    for (uint64_t i = 0; i < b.bytes / 4; i++) static_cast<float*>(b.p)[i] = scale * random();
    return b;
  }
  Block integers(long n, std::function<long(long)> f) {
    Block b = make(n);
    for (long i = 0; i < n; i++) static_cast<int32_t*>(b.p)[i] = int32_t(f(i));
    return b;
  }
  Block out(long n) {
    Block b = reals(n);
    outputs.push_back(b);
    return b;
  }
  // The weight of a layer, in panels.
  Block weight(long n, long k) { return reals((n + 15) / 16 * 16 * k, .05f); }
  void add(int code, std::vector<Block> operands, std::vector<double> attributes) {
    operations.push_back({code, operands, attributes});
  }
};

typedef void Each(long n, long k, int input);
// The products of a layer: outputs, inputs, and which activation they read.
void products(const Model& m, const std::function<Each>& f) {
  f(m.hidden, m.hidden, 0), f(m.kv * m.d, m.hidden, 0), f(m.kv * m.d, m.hidden, 0), f(m.hidden, m.hidden, 1);
  f(m.inner, m.hidden, 2), f(m.inner, m.hidden, 2), f(m.hidden, m.inner, 3);
}

// Products of all layers over `rows` tokens: forward (3), by the input (4) or by the weight (5); weights in panels or in rows.
void layers(Case& c, const Model& m, int code, double rows, bool head, double panels = 1) {
  auto product = [&](long n, long k, Block x) {
    Block w = c.weight(n, k);
    long padded = (n + 15) / 16 * 16;
    if (code == 3) c.add(3, {x, w, c.out(long(rows) * n)}, {rows, double(n), double(k), panels, 0});
    if (code == 4) c.add(4, {c.reals(long(rows) * n), w, c.out(long(rows) * k)}, {rows, double(n), double(k), 0, panels});
    if (code == 5) c.add(5, {c.reals(long(rows) * n), x, c.out(padded * k)}, {rows, double(n), double(k), 0, panels});
    c.flops += 2 * rows * double(n) * double(k), c.bytes += 4. * double(padded) * double(k);
  };
  for (long l = 0; l < m.layers; l++) {
    Block in[4] = {c.reals(long(rows) * m.hidden), c.reals(long(rows) * m.hidden), c.reals(long(rows) * m.hidden),
                   c.reals(long(rows) * m.inner)};
    products(m, [&](long n, long k, int input) { product(n, k, in[input]); });
  }
  if (head) product(m.vocabulary, m.hidden, c.reals(long(rows) * m.hidden));
}

// One product over warm memory.
void one(Case& c, int code, double rows, double n, double k) {
  Block x = c.reals(long(rows * k)), w = c.weight(long(n), long(k)), y = c.reals(long(rows * n));
  c.outputs.push_back(code == 3 ? y : code == 4 ? x : w);
  if (code == 3) c.add(3, {x, w, y}, {rows, n, k, 1, 0});
  if (code == 4) c.add(4, {y, w, x}, {rows, n, k, 0, 1});
  if (code == 5) c.add(5, {y, x, w}, {rows, n, k, 0, 1});
  c.flops = 2 * rows * n * k;
}

void attention(Case& c, const Model& m, double sequences, double length, bool backward) {
  double t = sequences * length, h = double(m.heads), kv = double(m.kv), d = double(m.d);
  Block ends = c.integers(long(sequences), [&](long i) { return (i + 1) * long(length); });
  std::vector<double> attributes{t, sequences, h, kv, d, 0, 1 / sqrt(d)};
  long nq = long(t * h * d), nk = long(t * kv * d);
  for (long l = 0; l < m.layers; l++) {
    Block q = c.reals(nq), k = c.reals(nk), v = c.reals(nk), o = c.out(nq), lse = c.out(long(t * h));
    if (!backward) c.add(12, {q, k, v, ends, o, lse}, attributes);
    else c.add(13, {c.reals(nq), q, k, v, o, lse, ends, c.out(nq), c.out(nk), c.out(nk)}, attributes);
    c.flops += (backward ? 2.5 : 1) * 4 * t * h * d * (length / 2);
  }
  if (!backward) return;
  c.outputs.erase(std::remove_if(c.outputs.begin(), c.outputs.end(), [&](Block b) {
    for (Operation& op : c.operations) if (op.operands[4].p == b.p || op.operands[5].p == b.p) return true;
    return false;
  }), c.outputs.end());
  // Log-sum-exps that make attention weights of sensible size.
  for (Operation& op : c.operations)
    for (uint64_t i = 0; i < op.operands[5].bytes / 4; i++) static_cast<float*>(op.operands[5].p)[i] = 6;
}

// `keep`: the logits go from the forward pass to the backward pass in memory.
void head(Case& c, const Model& m, double rows, bool backward, bool keep) {
  double h = double(m.hidden), v = double(m.vocabulary);
  Block x = c.reals(long(rows * h)), w = c.weight(m.vocabulary, m.hidden), one = c.integers(1, [](long) { return 0x3f800000; });
  Block targets = c.integers(long(rows), [&](long i) { return i * 37 % m.vocabulary; }), lse = c.out(long(rows));
  c.flops = (backward ? 6 : 2) * rows * h * v;
  double step = keep ? double((((m.vocabulary + 15) / 16) | 1) * 16) : 0;
  if (!backward) {
    std::vector<Block> operands{x, w, targets, one, c.out(long(rows)), lse};
    if (keep) operands.push_back(c.out(long(rows * step)));
    return c.add(16, operands, {rows, h, v, 0, step, 1});
  }
  c.outputs.clear();
  for (long i = 0; i < long(rows); i++) static_cast<float*>(lse.p)[i] = 9;
  std::vector<Block> operands{c.reals(long(rows)), x, w, targets, one, lse};
  if (keep) operands.push_back(c.reals(long(rows * step)));
  operands.push_back(c.out(long(rows * h))), operands.push_back(c.out(m.vocabulary * m.hidden));
  c.add(17, operands, {rows, h, v, 0, 0, 0, v, step, 1});
}

// A decode step's attention: pages of sequences lie scattered, as after some rounds.
void paged(Case& c, const Model& m, double rows, long context) {
  long each = context / 16 + 1, pages = long(rows) * each;
  double h = double(m.heads), kv = double(m.kv), d = double(m.d);
  Block cache = c.reals(m.layers * pages * m.kv * m.d * 32);
  Block table = c.integers(pages, [&](long i) { return i * 7919 % pages; });
  Block slots = c.integers(long(rows), [](long i) { return i; }), positions = c.integers(long(rows), [&](long) { return context; });
  for (long l = 0; l < m.layers; l++) {
    c.add(35, {c.reals(long(rows * h * d)), cache, slots, positions, table, c.out(long(rows * h * d))},
          {rows, h, kv, d, 0, 1 / sqrt(d), double(l), double(pages), double(each)});
    c.bytes += rows * double(context + 1) * kv * d * 8, c.flops += 4 * rows * h * d * double(context + 1);
  }
}

// All of a decode step but its small operations.
void decode(Case& c, const Model& m, double rows, long context) {
  layers(c, m, 3, rows, true);
  paged(c, m, rows, context);
}

// Products of the same rows, joined or one after the other: q, k and v (3), gate and up (2), and these with swiglu (1).
void joined(Case& c, const Model& m, double rows, int which) {
  long h = m.hidden, kv = m.kv * m.d, t = long(rows);
  auto work = [&](long n, long k) { c.flops += 2 * rows * double(n) * double(k), c.bytes += 4. * double((n + 15) / 16 * 16) * double(k); };
  auto product = [&](Block x, Block w, Block y, long n) {
    c.parts.push_back({3, {x, w, y}, {rows, double(n), double(h), 1, 0}});
    work(n, h);
  };
  for (long l = 0; l < m.layers; l++) {
    Block x = c.reals(t * h);
    std::vector<long> widths = which == 3 ? std::vector<long>{h, kv, kv} : std::vector<long>{m.inner, m.inner};
    std::vector<Block> ins{x}, outs;
    std::vector<double> sizes{rows};
    for (long n : widths) {
      ins.push_back(c.weight(n, h)), outs.push_back(which == 1 ? c.reals(t * n) : c.out(t * n));
      product(x, ins.back(), outs.back(), n);
      sizes.push_back(double(n));
    }
    if (which == 1) {
      Block y = c.out(t * m.inner);
      c.parts.push_back({14, {outs[0], outs[1], y}, {rows * double(m.inner)}});
      c.add(55, {x, ins[1], ins[2], y}, {rows, double(m.inner), double(h), 1});
      continue;
    }
    ins.insert(ins.end(), outs.begin(), outs.end());
    sizes.insert(sizes.end(), {double(h), 1, 0});
    c.add(which == 3 ? 53 : 54, ins, sizes);
  }
}

struct Named {
  std::string name;
  std::function<void(Case&)> fill;
};
std::vector<Named> cases() {
  std::vector<Named> all;
  for (auto& [size, m] : {std::pair<const char*, const Model&>{"S", S}, {"M", M}}) {
    const Model& model = m;
    auto add = [&](std::string name, std::function<void(Case&)> fill) { all.push_back({size + ("." + name), fill}); };
    add("forward", [&](Case& c) { layers(c, model, 3, 2048, false); });
    add("dx", [&](Case& c) { layers(c, model, 4, 2048, false); });
    add("dw", [&](Case& c) { layers(c, model, 5, 2048, false); });
    add("forwardRows", [&](Case& c) { layers(c, model, 3, 2048, false, 0); });
    add("dxRows", [&](Case& c) { layers(c, model, 4, 2048, false, 0); });
    add("dwRows", [&](Case& c) { layers(c, model, 5, 2048, false, 0); });
    add("head", [&](Case& c) { head(c, model, 2040, false, false); });
    add("headGrad", [&](Case& c) { head(c, model, 2040, true, false); });
    add("headKept", [&](Case& c) { head(c, model, 2040, false, true); });
    add("headKeptGrad", [&](Case& c) { head(c, model, 2040, true, true); });
    add("attention", [&](Case& c) { attention(c, model, 8, 256, false); });
    add("attentionGrad", [&](Case& c) { attention(c, model, 8, 256, true); });
    if (&model == &S)  // one product alone, as other libraries are timed
      for (auto [n, k] : {std::pair<double, double>{512, 512}, {1024, 256}, {256, 1024}, {1024, 1024}})
        for (int code : {3, 4, 5}) {
          const char* how[] = {"forward", "dx", "dw"};
          add(std::string(how[code - 3]) + "_" + std::to_string(int(n)) + "x" + std::to_string(int(k)), [code, n = n, k = k](Case& c) {
            one(c, code, 1024, n, k);
          });
        }
    for (double rows : {1., 8., 32., 2048.}) {
      std::string of = std::to_string(int(rows));
      add("qkv" + of, [&, rows](Case& c) { joined(c, model, rows, 3); });
      add("gateUp" + of, [&, rows](Case& c) { joined(c, model, rows, 2); });
      add("gated" + of, [&, rows](Case& c) { joined(c, model, rows, 1); });
      if (rows > 32) continue;
      add("products" + std::to_string(int(rows)), [&, rows](Case& c) { layers(c, model, 3, rows, true); });
      add("paged" + std::to_string(int(rows)), [&, rows](Case& c) { paged(c, model, rows, 96); });
      add("decode" + std::to_string(int(rows)), [&, rows](Case& c) { decode(c, model, rows, 96); });
    }
  }
  return all;
}

// CPU time for one thread, since neighbours do not count there; else the clock.
double now(const Pool& pool) {
  if (pool.threads() > 1) return double(clock_ns()) * 1e-9;
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

// Seconds of all of these operations, once.
double run(const Instructions& kernels, Pool& pool, const std::vector<Operation>& operations) {
  char error[ERROR_BYTES] = "";
  double start = now(pool);
  for (const Operation& op : operations) {
    void* at[16];
    uint64_t bytes[16];
    for (size_t i = 0; i < op.operands.size(); i++) at[i] = op.operands[i].p, bytes[i] = op.operands[i].bytes;
    Call call{at, bytes, op.attributes.data(), int(op.operands.size()), int(op.attributes.size()), &pool,
              nullptr, nullptr, 0, nullptr, error};
    kernels.kernels[op.code](call);
  }
  if (*error) fprintf(stderr, "%s\n", error), exit(1);
  return now(pool) - start;
}

double peak(Pool& pool) {
  static float y[4096];
  double best = 1;
  for (int i = 0; i < 9; i++) {
    uint64_t start = clock_ns();
    trial::instructions.product(pool, 3, 256, 256, 256, nullptr, nullptr, y);
    best = std::min(best, double(clock_ns() - start) * 1e-9);
  }
  return 2e-9 * 256 * 256 * 256 / best;
}

std::vector<char> snapshot(const Case& c) {
  std::vector<char> all;
  for (Block b : c.outputs) all.insert(all.end(), static_cast<char*>(b.p), static_cast<char*>(b.p) + b.bytes);
  return all;
}

}  // namespace
}  // namespace baton

int main(int count, char** argument) {
  using namespace baton;
  std::regex wanted(count > 1 ? argument[1] : "");
  int threads = count > 2 ? atoi(argument[2]) : 1, different = 0;
  double budget = count > 3 ? atof(argument[3]) : 1;
  flush_subnormals();
  Pool pool(threads);
  for (const Named& n : cases()) {
    if (!std::regex_search(n.name, wanted)) continue;
    Case c;
    n.fill(c);
    double before = peak(pool);
    auto base_run = [&] { return run(base::instructions, pool, c.parts.empty() ? c.operations : c.parts); };
    auto trial_run = [&] { return run(trial::instructions, pool, c.operations); };
    base_run();
    std::vector<char> expected = snapshot(c);
    trial_run();
    bool same = expected == snapshot(c);
    different += !same;
    std::vector<double> a, b;
    uint64_t start = clock_ns();
    for (int i = 0; a.size() < 7 || double(clock_ns() - start) * 1e-9 < budget; i++) {
      // In pairs whose order changes: a neighbour who comes or goes meets both.
      if (i & 1) b.push_back(trial_run());
      a.push_back(base_run());
      if (!(i & 1)) b.push_back(trial_run());
    }
    double after = peak(pool);
    std::sort(a.begin(), a.end()), std::sort(b.begin(), b.end());
    double best = std::max(before, after), rate = c.flops * 1e-9 / b[0];
    printf("%-20s base %8.3f ms  trial %8.3f ms  (medians %8.3f %8.3f)  gain %5.3f  %6.1f GFLOP/s  %4.1f%% of %.0f  %5.1f GB/s  %s\n",
           n.name.c_str(), 1e3 * a[0], 1e3 * b[0], 1e3 * a[a.size() / 2], 1e3 * b[b.size() / 2], a[0] / b[0], rate, 100 * rate / best,
           best, c.bytes * 1e-9 / b[0], same ? "same bits" : "DIFFERENT BITS");
    fflush(stdout);
  }
  return different > 0;
}

// Attention over packed bf16 sequences by cuDNN, forward and backward, where BATON_CUDA_ATTENTION=cudnn asks for it.
//
// cuDNN takes a graph of products and pointwise operations, sees attention in it and runs one of its fused kernels; the graphs below are
// those that its own front end builds for packed sequences with grouped heads (NVIDIA/cudnn-frontend, scaled dot-product attention). A
// sequence is an element of the first axis, at an offset and of a length that are read on the GPU. What is compiled for a graph depends
// on the number of sequences and the longest length that it allows, so both are rounded up to powers of two.
#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <tuple>
#include <utility>

#include "../cudnn.h"
#include "../runtime.h"
#include "attention.cuh"

namespace baton {
namespace {

constexpr size_t MOST_PLANS = 256;  // none is dropped: captured graphs have their kernels
constexpr long MOST_NUMBERS = 1L << 31;

bool wanted() {
  static const bool yes = [] {
    const char* value = getenv("BATON_CUDA_ATTENTION");
    return value && !strcmp(value, "cudnn");
  }();
  return yes;
}

// Says why kernels of our own run, every reason once.
bool decline(const std::string& why) {
  static std::mutex mutex;
  static std::set<std::string>& said = *new std::set<std::string>;
  std::lock_guard<std::mutex> lock(mutex);
  if (said.insert(why).second) fprintf(stderr, "Attention is computed by Baton's own kernels where BATON_CUDA_ATTENTION=cudnn asked for cuDNN: %s\n", why.c_str());
  return false;
}

struct Form {
  long heads, kv, d, window, sequences, length;
  float scale;
  bool backward;
  bool operator<(const Form& o) const { return all() < o.all(); }

 private:
  std::tuple<long, long, long, long, long, long, float, bool> all() const { return {heads, kv, d, window, sequences, length, scale, backward}; }
};

typedef CudnnGraph::Tensor Tensor;
typedef CudnnGraph::Four Four;

// The graph of one form. Tensors in memory, by what they hold.
struct Attention {
  CudnnGraph graph;
  const Form form;
  const Four scores, queries, keys, rows;
  Tensor query_length, key_length, of_q, of_k, of_v, of_o, of_lse;
  Tensor q, k, v, o, lse;                  // of the backward pass k and v turned, of the forward pass k alone
  Tensor of_dq, of_dk, of_dv, of_dO;
  Tensor dO, dq, dk, dv, delta, dq_sum, dk_heads, dv_heads;
  Tensor scale;

  Attention(const Cudnn& cudnn, const Form& f)
      : graph(cudnn), form(f), scores{f.sequences, f.heads, f.length, f.length}, queries{f.sequences, f.heads, f.length, f.d},
        keys{f.sequences, f.kv, f.length, f.d}, rows{f.sequences, f.heads, f.length, 1} {
    query_length = lengths(), key_length = lengths();
    of_q = offsets(), of_k = offsets(), of_v = offsets(), of_o = offsets(), of_lse = offsets();
    q = graph.stored(Cudnn::BF16, queries, packed(form.heads), &of_q);
    k = turned(of_k);
    v = form.backward ? turned(of_v) : graph.stored(Cudnn::BF16, keys, packed(form.kv), &of_v);
    o = graph.stored(Cudnn::BF16, queries, packed(form.heads), &of_o);
    lse = graph.stored(Cudnn::F32, rows, {form.length * form.heads, 1, form.heads, 1}, &of_lse);
    scale = graph.scalar(form.scale);
    if (form.backward) backward();
    else forward();
  }

 private:
  Tensor lengths() { return graph.stored(Cudnn::I32, {form.sequences, 1, 1, 1}, {1, 1, 1, 1}); }
  Tensor offsets() { return graph.stored(Cudnn::I32, {form.sequences + 1, 1, 1, 1}, {1, 1, 1, 1}); }
  Four packed(long heads) const { return {form.length * heads * form.d, form.d, heads * form.d, 1}; }
  Tensor turned(const Tensor& ragged) {
    Four step = packed(form.kv);
    return graph.stored(Cudnn::BF16, {form.sequences, form.kv, form.d, form.length}, {step[0], step[1], step[3], step[2]}, &ragged);
  }
  Tensor of(int type, const Four& sizes) { return graph.between(type, sizes); }
  Tensor pointwise(int mode, const Tensor& x, const Tensor& b) {
    Tensor y = of(Cudnn::F32, x.sizes);
    return graph.pointwise(mode, x, b, y), y;
  }
  Tensor pointwise(int mode, const Tensor& x) {
    Tensor y = of(Cudnn::F32, x.sizes);
    return graph.pointwise(mode, x, y), y;
  }
  Tensor compare(int mode, const Tensor& x, const Tensor& b) {
    Tensor y = of(Cudnn::TRUTH, scores);
    return graph.pointwise(mode, x, b, y, Cudnn::TRUTH), y;
  }
  Tensor index(int axis, const Tensor& like, int compute) {
    Tensor y = of(Cudnn::I32, scores);
    return graph.index(axis, like, y, compute), y;
  }
  Tensor where(const Tensor& truth, const Tensor& x) {
    Tensor y = of(Cudnn::F32, scores);
    return graph.select(truth, x, graph.scalar(-INFINITY), y), y;
  }

  // scale · q·k, and −∞ past the ends of a sequence.
  Tensor scaled_scores() {
    Tensor s = of(Cudnn::F32, scores);
    graph.matmul(q, k, s, &query_length, &key_length, nullptr);
    s = pointwise(Cudnn::MUL, s, scale);
    Tensor row = index(2, s, Cudnn::I32), column = index(3, s, Cudnn::I32);
    Tensor rows_live = compare(Cudnn::LESS, row, query_length), columns_live = compare(Cudnn::LESS, column, key_length);
    return where(compare(Cudnn::AND, rows_live, columns_live), s);
  }
  // −∞ for keys after a query and, with a window, for those too far before it.
  Tensor seen(Tensor s) {
    Tensor row = index(2, s, Cudnn::F32), column = index(3, s, Cudnn::F32);
    s = where(compare(Cudnn::NOT_LESS, row, column), s);
    if (form.window == 0 || form.window >= form.length) return s;
    row = index(2, s, Cudnn::F32), column = index(3, s, Cudnn::F32);
    return where(compare(Cudnn::GREATER, pointwise(Cudnn::ADD, column, graph.scalar(float(form.window))), row), s);
  }

  void forward() {
    Tensor s = seen(scaled_scores()), top = of(Cudnn::F32, rows), sum = of(Cudnn::F32, rows), p = of(Cudnn::BF16, scores);
    graph.reduce(Cudnn::MOST, s, top);
    Tensor e = pointwise(Cudnn::EXP, pointwise(Cudnn::SUB, s, top));
    graph.reduce(Cudnn::SUM, e, sum);
    graph.pointwise(Cudnn::ADD, top, pointwise(Cudnn::LOG, sum), lse);
    graph.pointwise(Cudnn::DIV, e, sum, p);
    graph.matmul(p, v, o, &query_length, nullptr, &key_length);
  }

  // Gradients of keys or values: over the heads of a group they are summed by cuDNN, from memory that it is lent.
  void gradient_of_keys(const Tensor& weights, const Tensor& with, const Tensor& of_y, const Tensor& y, Tensor& of_heads) {
    Tensor turned = graph.between(Cudnn::BF16, scores, {form.heads * form.length * form.length, form.length * form.length, 1, form.length});
    graph.reshape(weights, turned);
    if (form.heads == form.kv) return graph.matmul(turned, with, y, &key_length, nullptr, &query_length);
    long group = form.heads / form.kv;
    Four step = y.steps;
    of_heads = graph.stored(Cudnn::BF16, queries, {step[0] * group, step[1], step[2] * group, 1}, &of_y);
    graph.matmul(turned, with, of_heads, &key_length, nullptr, &query_length);
    graph.reduce(Cudnn::SUM, of_heads, y);
  }

  void backward() {
    of_dO = offsets(), of_dq = offsets(), of_dk = offsets(), of_dv = offsets();
    dO = graph.stored(Cudnn::BF16, queries, packed(form.heads), &of_dO);
    dq = graph.stored(Cudnn::BF16, queries, packed(form.heads), &of_dq);
    dk = graph.stored(Cudnn::BF16, keys, packed(form.kv), &of_dk);
    dv = graph.stored(Cudnn::BF16, keys, packed(form.kv), &of_dv);
    // Σ dO·o
    Tensor sum = of(Cudnn::F32, rows), ds, p;
    graph.reduce(Cudnn::SUM, pointwise(Cudnn::MUL, dO, o), sum);
    delta = graph.stored(Cudnn::F32, rows, lse.steps, &of_lse);
    graph.pointwise(Cudnn::MUL, sum, graph.scalar(1), delta);
    // p = exp(scale · q·k − lse), dv = pᵀ·dO
    p = pointwise(Cudnn::EXP, seen(pointwise(Cudnn::SUB, scaled_scores(), lse)));
    gradient_of_keys(p, dO, of_dv, dv, dv_heads);
    // ds = p · (dO·v − Σ dO·o) · scale, dk = dsᵀ·q
    ds = of(Cudnn::F32, scores);
    graph.matmul(dO, v, ds, &query_length, &key_length, nullptr);
    ds = pointwise(Cudnn::MUL, pointwise(Cudnn::MUL, pointwise(Cudnn::SUB, ds, delta), p), scale);
    gradient_of_keys(ds, q, of_dk, dk, dk_heads);
    // dq = ds·k, of which blocks of keys add their parts in fp32
    Tensor rows_of_k = graph.between(Cudnn::BF16, keys, packed(form.kv), &of_k);
    graph.reshape(k, rows_of_k);
    dq_sum = graph.stored(Cudnn::F32, queries, packed(form.heads), &of_dq);
    graph.matmul(ds, rows_of_k, dq_sum, &query_length, nullptr, &key_length);
    graph.pointwise(Cudnn::IDENTITY, dq_sum, dq);
  }
};

// Memory that a backward pass lends to cuDNN beside its workspace.
struct Lent {
  uint64_t delta, dq_sum, heads;  // bytes
  explicit Lent(const Form& f)
      : delta(f.backward ? rounded(uint64_t(f.length * f.heads) * 4) : 0), dq_sum(f.backward ? rounded(uint64_t(f.length * f.heads * f.d) * 4) : 0),
        heads(f.backward && f.heads != f.kv ? dq_sum : 0) {}
  uint64_t total() const { return delta + dq_sum + 2 * heads; }
  static uint64_t rounded(uint64_t bytes) { return (bytes + 255) / 256 * 256; }
};

// Of a device's worker thread; lives as long as the process.
class Plans {
 public:
  Cudnn::Handle handle = nullptr;
  bool usable = false;
  const Cudnn* cudnn = nullptr;

  explicit Plans(int gpu) {
    std::string why;
    cudnn = open_cudnn(&why);
    cudaDeviceProp card{};
    if (!cudnn) decline(why);
    else if (cudaGetDeviceProperties(&card, gpu) != cudaSuccess || (card.major != 9 && card.major != 10))
      decline("its kernels for packed sequences are for compute capability 9 and 10");
    else if (int status = cudnn->Create(&handle)) decline("cuDNN gave status " + std::to_string(status) + " for a handle");
    else usable = true;
  }

  Attention* find(const Form& form) {
    auto found = all_.find(form);
    if (found != all_.end()) return found->second.get();
    if (all_.size() >= MOST_PLANS) return decline("there are " + std::to_string(MOST_PLANS) + " plans already"), nullptr;
    auto& kept = all_[form];
    uint64_t lent = Lent(form).total();
    if (lent > ATTENTION_BYTES)
      return decline("gradients of " + std::to_string(form.length) + " tokens need " + std::to_string(lent >> 20) + " MiB of workspace, and there are " +
                     std::to_string(ATTENTION_BYTES >> 20)), nullptr;
    auto made = std::make_unique<Attention>(*cudnn, form);
    if (made->graph.close(handle) && made->graph.plan(handle, int64_t(ATTENTION_BYTES - lent))) kept = std::move(made);
    else decline(made->graph.error());
    return kept.get();
  }

 private:
  std::map<Form, std::unique_ptr<Attention>> all_;  // null where cuDNN cannot do it
};

Plans& plans(const Call& c) {
  thread_local Plans& one = *new Plans(c.device->gpu());
  return one;
}

long power_of_two(long n, long least) {
  while (least < n) least *= 2;
  return least;
}

// What cuDNN reads of the sequences, in the scratch: lengths, and where each begins in tensors of so many numbers a token. After the last
// sequence come empty ones. Ends that are wrong leave nothing to do.
struct Places {
  int *lengths, *wide, *narrow, *rows;
  Places(Call& c, long sequences) {
    int* p = reinterpret_cast<int*>(c.scratch);
    long each = parts(sequences + 1, 64) * 64;
    lengths = p, wide = p + each, narrow = p + 2 * each, rows = p + 3 * each;
  }
};
__global__ void places_kernel(Reporter r, const int* ends, int sequences, int all, Places to, int wide, int narrow, int heads) {
  int i = int(first_index());
  if (i > all) return;
  bool faulty = r.faulty();
  auto end = [&](int before) { return before == 0 || faulty ? 0 : ends[(before < sequences ? before : sequences) - 1]; };
  int begin = end(i);
  if (i < all) to.lengths[i] = end(i + 1) - begin;
  to.wide[i] = begin * wide, to.narrow[i] = begin * narrow, to.rows[i] = begin * heads;
}

// The plan for a call, with its places made; null where kernels of our own are to run.
Attention* prepared(Call& c, const AttentionShapes& z, const int* ends, bool backward, std::initializer_list<const void*> all) {
  if (!wanted() || z.tokens == 0 || z.sequences == 0) return nullptr;
  Plans& p = plans(c);
  if (!p.usable) return nullptr;
  for (const void* address : all)
    if (reinterpret_cast<uintptr_t>(address) % 16) return decline("rows do not begin at multiples of 16 bytes"), nullptr;
  if (z.d % 16 || z.d > 256) return decline("it takes head sizes up to 256 that are multiples of 16"), nullptr;
  Form form{z.heads, z.kv, z.d, z.window, power_of_two(z.sequences, 1), power_of_two(z.tokens, 64), z.scale, backward};
  if (z.tokens * z.heads * z.d >= MOST_NUMBERS || form.sequences > 1 << 20) return decline("offsets of so many tokens are more than 32 bits"), nullptr;
  Attention* attention = p.find(form);
  if (!attention || c.error[0]) return attention;
  Places to(c, form.sequences);
  launch(c, places_kernel, dim3(unsigned(parts(form.sequences + 1, 128))), 128, 0, reporter(c), ends, int(z.sequences), int(form.sequences), to,
         int(z.heads * z.d), int(z.kv * z.d), int(z.heads));
  return attention;
}

typedef std::vector<std::pair<int64_t, void*>> Addresses;

// Addresses that both passes have.
Addresses addresses(Call& c, const Attention& a, const bf16* q, const bf16* k, const bf16* v, const bf16* o, const float* lse) {
  Places at(c, a.form.sequences);
  auto in = [](const void* p) { return const_cast<void*>(p); };
  return {{a.query_length.id, at.lengths}, {a.key_length.id, at.lengths}, {a.of_q.id, at.wide}, {a.of_k.id, at.narrow}, {a.of_v.id, at.narrow},
          {a.of_o.id, at.wide}, {a.of_lse.id, at.rows}, {a.q.id, in(q)}, {a.k.id, in(k)}, {a.v.id, in(v)}, {a.o.id, in(o)}, {a.lse.id, in(lse)}};
}

void run(Call& c, Attention& a, const Addresses& all, char* workspace) {
  if (c.error[0]) return;
  Plans& p = plans(c);
  if (int status = p.cudnn->SetStream(p.handle, c.stream)) fail(c, "cuDNN gave status %d for a stream", status);
  else if (!a.graph.execute(p.handle, all, workspace)) fail(c, "%s", a.graph.error().c_str());
}

char* lent_memory(const Call& c) { return c.scratch + SCRATCH_BYTES + PRODUCT_BYTES + RECEIVE_BYTES; }

}  // namespace

uint64_t attention_bytes() { return wanted() && open_cudnn() ? ATTENTION_BYTES : 0; }

bool cudnn_attention(Call& c, const AttentionShapes& z, const bf16* q, const bf16* k, const bf16* v, const int* ends, bf16* o, float* lse) {
  Attention* a = prepared(c, z, ends, false, {q, k, v, o, lse});
  if (a) run(c, *a, addresses(c, *a, q, k, v, o, lse), lent_memory(c));
  return a != nullptr;
}

bool cudnn_attention_grad(Call& c, const AttentionShapes& z, const AttentionGradient<bf16>& x, const bf16* o, const int* ends, bf16* dq, bf16* dk,
                          bf16* dv) {
  Attention* a = prepared(c, z, ends, true, {x.dO, x.q, x.k, x.v, o, x.lse, dq, dk, dv});
  if (!a) return false;
  Places at(c, a->form.sequences);
  Addresses all = addresses(c, *a, x.q, x.k, x.v, o, x.lse);
  Lent lent(a->form);
  char* memory = lent_memory(c);
  auto take = [&](const Tensor& t, uint64_t bytes) {
    if (t.id) all.push_back({t.id, memory});
    memory += bytes;
  };
  take(a->delta, lent.delta), take(a->dq_sum, lent.dq_sum), take(a->dk_heads, lent.heads), take(a->dv_heads, lent.heads);
  all.insert(all.end(), {{a->of_dO.id, at.wide}, {a->of_dq.id, at.wide}, {a->of_dk.id, at.narrow}, {a->of_dv.id, at.narrow},
                         {a->dO.id, const_cast<bf16*>(x.dO)}, {a->dq.id, dq}, {a->dk.id, dk}, {a->dv.id, dv}});
  run(c, *a, all, memory);
  return true;
}

}  // namespace baton

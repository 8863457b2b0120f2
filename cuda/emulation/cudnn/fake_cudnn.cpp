// A host stand-in for libcudnn, for tests of the graphs that it is given: it keeps descriptors as cuDNN's graph API has them and computes a
// graph operation by operation, in fp32, for one element of the first axis (a sequence) after the other. What a caller could get wrong
// without seeing other numbers gives NaN or is refused: what lies past the end of a sequence reads as NaN and is never written, a
// product's live rows are those it is told, descriptors are used finalized and once written. BATON_FAKE_CUDNN=FILE gets a line for every
// run. FAKE_CUDNN=old is a version that is too old, FAKE_CUDNN=none has no engine.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../cuda_bf16.h"
#include "../cuda_runtime.h"

namespace {

constexpr int SUCCESS = 0, BAD = 2000, UNSUPPORTED = 3000;
constexpr int F32 = 0, I32 = 4, BF16 = 9;
constexpr int POINTWISE = 13, GRAPH = 15, PACK = 16, TENSOR = 17, MATMUL = 19, REDUCTION = 22, RESHAPE = 31, CONFIG = 3, SEARCH = 4, PLAN = 5;

struct Descriptor {
  int kind;
  bool final = false;
  std::map<int, std::vector<char>> has;
  template <class T>
  std::vector<T> all(int what) const {
    auto found = has.find(what);
    if (found == has.end()) return {};
    std::vector<T> out(found->second.size() / sizeof(T));
    return memcpy(out.data(), found->second.data(), found->second.size()), out;
  }
  template <class T>
  T one(int what, T otherwise) const {
    auto found = has.find(what);
    if (found != has.end() && found->second.size() >= sizeof(T)) memcpy(&otherwise, found->second.data(), sizeof(T));
    return otherwise;
  }
  Descriptor* at(int what) const { return one<Descriptor*>(what, nullptr); }
  int64_t id() const { return one<int64_t>(906, 0); }
};

std::string why;
int refuse(int status, const std::string& text) { return why = text, status; }

bool is_operation(const Descriptor* d) { return d->kind == POINTWISE || d->kind == MATMUL || d->kind == REDUCTION || d->kind == RESHAPE; }

// Which tensors an operation reads, and the one that it writes.
std::vector<Descriptor*> operands(const Descriptor& d) {
  std::vector<Descriptor*> all;
  auto add = [&](std::initializer_list<int> which) {
    for (int what : which)
      if (d.at(what)) all.push_back(d.at(what));
  };
  if (d.kind == POINTWISE) add({751, 752, 758, 753});
  if (d.kind == MATMUL) add({1520, 1521, 1525, 1526, 1527, 1522});
  if (d.kind == REDUCTION) add({1610, 1611});
  if (d.kind == RESHAPE) add({2200, 2201});
  return all;
}

// One sequence's part of a tensor: dense where it exists between operations only, else memory.
struct View {
  const Descriptor* d = nullptr;
  std::vector<int64_t> size, step;
  int type = F32, axis = -1;  // that of a sequence, where it is ragged
  int64_t live = 0;
  char* memory = nullptr;
  std::vector<float>* dense = nullptr;

  float get(int64_t x, int64_t y, int64_t z) const {
    int64_t at[3] = {size[1] == 1 ? 0 : x, size[2] == 1 ? 0 : y, size[3] == 1 ? 0 : z};
    if (dense) return (*dense)[size_t((at[0] * size[2] + at[1]) * size[3] + at[2])];
    if (axis >= 0 && at[axis - 1] >= live) return NAN;
    int64_t i = at[0] * step[1] + at[1] * step[2] + at[2] * step[3];
    if (type == BF16) return __bfloat162float(reinterpret_cast<__nv_bfloat16*>(memory)[i]);
    return type == I32 ? float(reinterpret_cast<int*>(memory)[i]) : reinterpret_cast<float*>(memory)[i];
  }
  void put(int64_t x, int64_t y, int64_t z, float v) const {
    __nv_bfloat16 half = __float2bfloat16_rn(v);
    if (dense) {
      (*dense)[size_t((x * size[2] + y) * size[3] + z)] = type == BF16 ? __bfloat162float(half) : v;
      return;
    }
    int64_t at[3] = {x, y, z};
    if (axis >= 0 && at[axis - 1] >= live) return;
    int64_t i = x * step[1] + y * step[2] + z * step[3];
    if (type == BF16) reinterpret_cast<__nv_bfloat16*>(memory)[i] = half;
    else reinterpret_cast<float*>(memory)[i] = v;
  }
};

struct Run {
  std::vector<Descriptor*> operations;
  std::map<int64_t, char*> memory;
  std::map<int64_t, float> scalars;
  std::map<int64_t, int64_t> token;  // by ragged offsets: the smallest step of a sequence's axis, which its offsets count
  std::map<int64_t, std::vector<float>> dense;

  static int sequence_axis(const Descriptor& d) {
    auto size = d.all<int64_t>(902), step = d.all<int64_t>(903);
    int best = 1;
    for (int a = 2; a < 4; a++)
      if (step[a] > step[best] || (step[a] == step[best] && size[a] > size[best])) best = a;
    return best;
  }

  View view(Descriptor* d, int64_t sequence) {
    View v;
    v.d = d, v.size = d->all<int64_t>(902), v.step = d->all<int64_t>(903), v.type = d->one<int>(901, F32);
    if (d->one<bool>(907, false)) {
      v.dense = &dense[d->id()];
      v.dense->resize(size_t(v.size[1] * v.size[2] * v.size[3]));
      return v;
    }
    if (d->one<bool>(908, false)) return v.memory = reinterpret_cast<char*>(&scalars[d->id()]), v;
    v.memory = memory.at(d->id());
    int64_t width = v.type == BF16 ? 2 : 4, from = v.size[0] == 1 ? 0 : sequence * v.step[0];
    if (Descriptor* ragged = d->at(913)) {
      const int* offsets = reinterpret_cast<int*>(memory.at(ragged->id()));
      v.axis = sequence_axis(*d);
      int64_t times = v.step[v.axis] / token.at(ragged->id());
      from = offsets[sequence] * times, v.live = (offsets[sequence + 1] - offsets[sequence]) * times / v.step[v.axis];
    }
    v.memory += from * width;
    return v;
  }

  static float apply(int mode, float x, float b, float t) {
    switch (mode) {
      case 0: return x + b;
      case 1: return x * b;
      case 6: return x / b;
      case 9: return x - b;
      case 13: return expf(x);
      case 15: return logf(x);
      case 21: return x;
      case 302: return x > b;
      case 303: return x >= b;
      case 304: return x < b;
      case 400: return x != 0 && b != 0;
      default: return t != 0 ? x : b;
    }
  }

  template <class F>
  static void each(const View& y, F f) {
    for (int64_t i = 0; i < y.size[1]; i++)
      for (int64_t j = 0; j < y.size[2]; j++)
        for (int64_t k = 0; k < y.size[3]; k++) y.put(i, j, k, f(i, j, k));
  }

  void pointwise(const Descriptor& d, int64_t sequence) {
    int mode = d.at(750)->one<int>(0, 0), axis = int(d.at(750)->one<int64_t>(9, -1));
    View x = view(d.at(751), sequence), y = view(d.at(753), sequence), b, t;
    if (d.at(752)) b = view(d.at(752), sequence);
    if (d.at(758)) t = view(d.at(758), sequence);
    each(y, [&](int64_t i, int64_t j, int64_t k) {
      if (mode == 501) return float(axis == 2 ? j : k);
      return apply(mode, x.get(i, j, k), b.d ? b.get(i, j, k) : 0, t.d ? t.get(i, j, k) : 0);
    });
  }

  void matmul(const Descriptor& d, int64_t sequence) {
    View a = view(d.at(1520), sequence), b = view(d.at(1521), sequence), y = view(d.at(1522), sequence);
    auto live = [&](int what, int64_t all) { return d.at(what) ? int64_t(view(d.at(what), sequence).get(0, 0, 0)) : all; };
    int64_t rows = live(1525, y.size[2]), columns = live(1526, y.size[3]), depth = live(1527, a.size[3]), group = y.size[1] / b.size[1];
    each(y, [&](int64_t h, int64_t i, int64_t j) {
      double sum = 0;
      if (i < rows && j < columns)
        for (int64_t k = 0; k < depth; k++) sum += double(a.get(h, i, k)) * double(b.get(h / group, k, j));
      return float(sum);
    });
  }

  // Over the axes that become shorter.
  void reduce(const Descriptor& d, int64_t sequence) {
    View x = view(d.at(1610), sequence), y = view(d.at(1611), sequence);
    bool most = d.at(1612)->one<int>(1600, 0) == 3;
    int64_t n[3];
    for (int a = 0; a < 3; a++) n[a] = x.size[size_t(a) + 1] / y.size[size_t(a) + 1];
    each(y, [&](int64_t i, int64_t j, int64_t k) {
      float out = most ? -INFINITY : 0;
      for (int64_t p = 0; p < n[0]; p++)
        for (int64_t q = 0; q < n[1]; q++)
          for (int64_t r = 0; r < n[2]; r++) {
            float v = x.get(i * n[0] + p, j * n[1] + q, k * n[2] + r);
            out = !most ? out + v : v > out ? v : out;
          }
      return out;
    });
  }

  // The views that are asked for exchange the last two axes.
  void reshape(const Descriptor& d, int64_t sequence) {
    View x = view(d.at(2200), sequence), y = view(d.at(2201), sequence);
    each(y, [&](int64_t i, int64_t j, int64_t k) { return x.get(i, k, j); });
  }

  void all() {
    int64_t sequences = 1;
    for (Descriptor* op : operations)
      for (Descriptor* t : operands(*op)) {
        Descriptor* ragged = t->at(913);
        sequences = std::max(sequences, t->all<int64_t>(902)[0]);
        if (!ragged || t->one<bool>(907, false)) continue;
        int64_t step = t->all<int64_t>(903)[size_t(sequence_axis(*t))];
        auto found = token.emplace(ragged->id(), step).first;
        found->second = std::min(found->second, step);
      }
    for (int64_t s = 0; s < sequences; s++)
      for (Descriptor* op : operations)
        switch (op->kind) {
          case POINTWISE: pointwise(*op, s); break;
          case MATMUL: matmul(*op, s); break;
          case REDUCTION: reduce(*op, s); break;
          default: reshape(*op, s);
        }
  }
};

int check_tensor(const Descriptor& d) {
  auto size = d.all<int64_t>(902), step = d.all<int64_t>(903);
  if (size.size() != 4 || step.size() != 4 || d.id() == 0 || !d.has.count(900) || !d.has.count(901)) return refuse(BAD, "a tensor lacks something");
  for (int a = 0; a < 4; a++)
    if (size[size_t(a)] < 1 || step[size_t(a)] < 1) return refuse(BAD, "sizes and strides are positive");
  return SUCCESS;
}

int check_operation(const Descriptor& d) {
  auto all = operands(d);
  for (Descriptor* t : all)
    if (t->kind != TENSOR || !t->final) return refuse(BAD, "an operand is no finalized tensor");
  if (d.kind == MATMUL) {
    auto a = d.at(1520)->all<int64_t>(902), b = d.at(1521)->all<int64_t>(902), y = d.at(1522)->all<int64_t>(902);
    if (a[3] != b[2] || a[2] != y[2] || b[3] != y[3] || a[1] != y[1] || y[1] % b[1]) return refuse(BAD, "sizes of a product do not agree");
    // Of what fused kernels multiply.
    if (d.at(1521)->one<int>(901, F32) != BF16) return refuse(UNSUPPORTED, "the second operand of a product is not bf16");
  }
  if (d.kind == POINTWISE) {
    auto y = d.at(753)->all<int64_t>(902);
    for (int what : {751, 752, 758})
      if (Descriptor* t = d.at(what)) {
        auto x = t->all<int64_t>(902);
        for (size_t a = 0; a < 4; a++)
          if (x[a] != 1 && x[a] != y[a]) return refuse(BAD, "sizes of a pointwise operation do not agree");
      }
  }
  return SUCCESS;
}

int64_t bytes_of(int type) { return type == 0 || type == 3 || type == 5 || type == 6 || type == 15 ? 8 : type == 2 ? 1 : 4; }

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int baton_stand_in = 1;

size_t cudnnGetVersion() {
  const char* kind = getenv("FAKE_CUDNN");
  return kind && !strcmp(kind, "old") ? 90300 : 92801;
}
void cudnnGetLastErrorString(char* text, size_t bytes) { snprintf(text, bytes, "%s", why.c_str()); }
int cudnnCreate(void** handle) { return *handle = new cudaStream_t(nullptr), SUCCESS; }
int cudnnSetStream(void* handle, cudaStream_t stream) { return *static_cast<cudaStream_t*>(handle) = stream, SUCCESS; }

int cudnnBackendCreateDescriptor(int kind, void** out) { return *out = new Descriptor{kind}, SUCCESS; }
int cudnnBackendDestroyDescriptor(void* p) { return delete static_cast<Descriptor*>(p), SUCCESS; }

int cudnnBackendSetAttribute(void* p, int what, int type, int64_t count, const void* value) {
  Descriptor& d = *static_cast<Descriptor*>(p);
  if (d.final) return refuse(BAD, "the descriptor is finalized");
  const char* from = static_cast<const char*>(value);
  d.has[what].assign(from, from + count * bytes_of(type));
  return SUCCESS;
}

int cudnnBackendGetAttribute(void* p, int what, int, int64_t asked, int64_t* count, void* out) {
  Descriptor& d = *static_cast<Descriptor*>(p);
  if (!d.final || asked < 1) return refuse(BAD, "the descriptor is not finalized");
  *count = 1;
  if (d.kind == PLAN && what == 402) return *static_cast<int64_t*>(out) = 4096, SUCCESS;
  if (d.kind != SEARCH || what != 202) return refuse(UNSUPPORTED, "the attribute is not there");
  const char* kind = getenv("FAKE_CUDNN");
  if (kind && !strcmp(kind, "none")) return *count = 0, SUCCESS;
  Descriptor& config = **static_cast<Descriptor**>(out);
  if (config.kind != CONFIG) return refuse(BAD, "there is no descriptor for an engine");
  return config.has = d.has, config.final = true, SUCCESS;
}

int cudnnBackendFinalize(void* p) {
  Descriptor& d = *static_cast<Descriptor*>(p);
  int status = d.kind == TENSOR ? check_tensor(d) : is_operation(&d) ? check_operation(d) : SUCCESS;
  if (d.kind == GRAPH)
    for (Descriptor* op : d.all<Descriptor*>(801))
      if (!op->final || !is_operation(op)) status = refuse(BAD, "the graph has an operation that is not finalized");
  if (d.kind == PLAN && (!d.at(401) || !d.at(401)->final)) status = refuse(BAD, "the plan has no engine");
  return d.final = status == SUCCESS, status;
}

int cudnnBackendExecute(void* handle, void* plan, void* pack) {
  Descriptor &p = *static_cast<Descriptor*>(pack), *graph = static_cast<Descriptor*>(plan)->at(401)->at(201);
  if (!p.final || !static_cast<Descriptor*>(plan)->final) return refuse(BAD, "the plan or its tensors are not finalized");
  auto run = std::make_shared<Run>();
  run->operations = graph->all<Descriptor*>(801);
  auto ids = p.all<int64_t>(1000);
  auto pointers = p.all<char*>(1001);
  std::map<int64_t, char*> given;
  for (size_t i = 0; i < ids.size(); i++) given[ids[i]] = pointers[i];
  for (Descriptor* op : run->operations)
    for (Descriptor* t : operands(*op))
      for (Descriptor* in : {t, t->at(913)}) {
        if (!in || in->one<bool>(907, false)) continue;
        if (!given.count(in->id()) || !given[in->id()]) return refuse(BAD, "a tensor has no address");
        if (reinterpret_cast<uintptr_t>(given[in->id()]) % uintptr_t(in->one<int64_t>(900, 1))) return refuse(BAD, "an address is less aligned than was promised");
        if (in->one<bool>(908, false)) run->scalars[in->id()] = *reinterpret_cast<float*>(given[in->id()]);
        else run->memory[in->id()] = given[in->id()];
      }
  memset(p.all<char*>(1003).at(0), 0xff, 4096);  // it is the library's
  if (const char* path = getenv("BATON_FAKE_CUDNN"))
    if (FILE* file = fopen(path, "a")) {
      fprintf(file, "%zu operations\n", run->operations.size());
      fclose(file);
    }
  cudaStream_t stream = *static_cast<cudaStream_t*>(handle);
  auto work = [run] { Run(*run).all(); };
  if (stream && stream->capture) stream->capture->work.push_back(work);
  else work();
  return SUCCESS;
}

}
#pragma GCC visibility pop

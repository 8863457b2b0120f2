#include "cudnn.h"

#include <dlfcn.h>

#include <algorithm>
#include <type_traits>
#include <utility>

#include "libraries.h"

#if !defined(BATON_EMULATION) && __has_include(<cudnn.h>)
#include <cudnn.h>
#define SAME(theirs, ours) static_assert(int(theirs) == int(baton::Cudnn::ours), "see cudnn_graph.h")
SAME(CUDNN_STATUS_SUCCESS, SUCCESS);
SAME(CUDNN_DATA_FLOAT, F32);
SAME(CUDNN_DATA_INT32, I32);
SAME(CUDNN_DATA_BFLOAT16, BF16);
SAME(CUDNN_DATA_BOOLEAN, TRUTH);
SAME(CUDNN_TYPE_HANDLE, HANDLE);
SAME(CUDNN_TYPE_DATA_TYPE, TYPE);
SAME(CUDNN_TYPE_BOOLEAN, FLAG);
SAME(CUDNN_TYPE_INT64, INT64);
SAME(CUDNN_TYPE_FLOAT, FLOAT);
SAME(CUDNN_TYPE_VOID_PTR, POINTER);
SAME(CUDNN_TYPE_HEUR_MODE, HEURISTIC);
SAME(CUDNN_TYPE_POINTWISE_MODE, POINTWISE);
SAME(CUDNN_TYPE_BACKEND_DESCRIPTOR, DESCRIPTOR);
SAME(CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, REDUCTION);
SAME(CUDNN_BACKEND_POINTWISE_DESCRIPTOR, A_POINTWISE);
SAME(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, AN_ENGINE_CONFIG);
SAME(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, AN_ENGINE_SEARCH);
SAME(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, A_PLAN);
SAME(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, A_POINTWISE_OPERATION);
SAME(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, A_GRAPH);
SAME(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, A_PACK);
SAME(CUDNN_BACKEND_TENSOR_DESCRIPTOR, A_TENSOR);
SAME(CUDNN_BACKEND_MATMUL_DESCRIPTOR, A_MATMUL);
SAME(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, A_MATMUL_OPERATION);
SAME(CUDNN_BACKEND_REDUCTION_DESCRIPTOR, A_REDUCTION);
SAME(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, A_REDUCTION_OPERATION);
SAME(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, A_RESHAPE_OPERATION);
SAME(CUDNN_POINTWISE_ADD, ADD);
SAME(CUDNN_POINTWISE_MUL, MUL);
SAME(CUDNN_POINTWISE_DIV, DIV);
SAME(CUDNN_POINTWISE_SUB, SUB);
SAME(CUDNN_POINTWISE_EXP, EXP);
SAME(CUDNN_POINTWISE_LOG, LOG);
SAME(CUDNN_POINTWISE_IDENTITY, IDENTITY);
SAME(CUDNN_POINTWISE_CMP_GT, GREATER);
SAME(CUDNN_POINTWISE_CMP_GE, NOT_LESS);
SAME(CUDNN_POINTWISE_CMP_LT, LESS);
SAME(CUDNN_POINTWISE_LOGICAL_AND, AND);
SAME(CUDNN_POINTWISE_GEN_INDEX, INDEX);
SAME(CUDNN_POINTWISE_BINARY_SELECT, SELECT);
SAME(CUDNN_REDUCE_TENSOR_ADD, SUM);
SAME(CUDNN_REDUCE_TENSOR_MAX, MOST);
SAME(CUDNN_HEUR_MODE_FALLBACK, FALLBACK);
SAME(CUDNN_HEUR_MODE_A, MODE_A);
SAME(CUDNN_ATTR_POINTWISE_MODE, POINTWISE_MODE);
SAME(CUDNN_ATTR_POINTWISE_MATH_PREC, POINTWISE_TYPE);
SAME(CUDNN_ATTR_POINTWISE_AXIS, POINTWISE_AXIS);
SAME(CUDNN_ATTR_ENGINEHEUR_MODE, SEARCH_MODE);
SAME(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, SEARCH_GRAPH);
SAME(CUDNN_ATTR_ENGINEHEUR_RESULTS, SEARCH_RESULTS);
SAME(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, PLAN_HANDLE);
SAME(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, PLAN_CONFIG);
SAME(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, PLAN_WORKSPACE);
SAME(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, POINTWISE_IS);
SAME(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, POINTWISE_X);
SAME(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, POINTWISE_B);
SAME(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, POINTWISE_Y);
SAME(CUDNN_ATTR_OPERATION_POINTWISE_ALPHA1, POINTWISE_ALPHA_1);
SAME(CUDNN_ATTR_OPERATION_POINTWISE_ALPHA2, POINTWISE_ALPHA_2);
SAME(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, POINTWISE_T);
SAME(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, GRAPH_HANDLE);
SAME(CUDNN_ATTR_OPERATIONGRAPH_OPS, GRAPH_OPERATIONS);
SAME(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, TENSOR_ALIGNMENT);
SAME(CUDNN_ATTR_TENSOR_DATA_TYPE, TENSOR_TYPE);
SAME(CUDNN_ATTR_TENSOR_DIMENSIONS, TENSOR_SIZES);
SAME(CUDNN_ATTR_TENSOR_STRIDES, TENSOR_STEPS);
SAME(CUDNN_ATTR_TENSOR_UNIQUE_ID, TENSOR_ID);
SAME(CUDNN_ATTR_TENSOR_IS_VIRTUAL, TENSOR_VIRTUAL);
SAME(CUDNN_ATTR_TENSOR_IS_BY_VALUE, TENSOR_BY_VALUE);
SAME(CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, TENSOR_RAGGED);
SAME(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, PACK_IDS);
SAME(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, PACK_POINTERS);
SAME(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, PACK_WORKSPACE);
SAME(CUDNN_ATTR_MATMUL_COMP_TYPE, MATMUL_TYPE);
SAME(CUDNN_ATTR_OPERATION_MATMUL_ADESC, MATMUL_A);
SAME(CUDNN_ATTR_OPERATION_MATMUL_BDESC, MATMUL_B);
SAME(CUDNN_ATTR_OPERATION_MATMUL_CDESC, MATMUL_C);
SAME(CUDNN_ATTR_OPERATION_MATMUL_DESC, MATMUL_IS);
SAME(CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, MATMUL_ROWS);
SAME(CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, MATMUL_COLUMNS);
SAME(CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, MATMUL_DEPTH);
SAME(CUDNN_ATTR_REDUCTION_OPERATOR, REDUCTION_OPERATOR);
SAME(CUDNN_ATTR_REDUCTION_COMP_TYPE, REDUCTION_TYPE);
SAME(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, REDUCTION_X);
SAME(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, REDUCTION_Y);
SAME(CUDNN_ATTR_OPERATION_REDUCTION_DESC, REDUCTION_IS);
SAME(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, RESHAPE_X);
SAME(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, RESHAPE_Y);
#undef SAME
#endif

namespace baton {
namespace {

struct Opened {
  Cudnn cudnn{};
  bool usable = false;
  std::string why;
};

// cuDNN opens cuBLASLt of its own CUDA by name, and ends the process where that fails: it is opened here first, where all are looked for.
bool open_blas_for(void* cudnn, std::string& why) {
  auto* runtime = reinterpret_cast<size_t (*)()>(dlsym(cudnn, "cudnnGetCudartVersion"));
  if (!runtime) return true;
  std::string name = "libcublasLt.so." + std::to_string(runtime() / 1000);
  open_library(Library::blas);
  if (dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return true;
  why = "cuDNN needs " + name + ", which is not there, install it or name its folder in BATON_CUDA_LIBRARIES";
  return false;
}

Opened open_once() {
  Opened o;
  void* handle = open_library(Library::cudnn, &o.why);
#ifdef BATON_EMULATION
  // The real one would be given memory of the host.
  if (handle && !dlsym(handle, "baton_stand_in")) handle = nullptr, o.why = "the emulation has no GPU for cuDNN";
#endif
  if (!handle || !open_blas_for(handle, o.why)) return o;
  o.usable = true;
  auto find = [&](auto& function, const char* name) {
    void* symbol = dlsym(handle, name);
    if (!symbol && o.usable) o.usable = false, o.why = std::string("cuDNN has no function ") + name;
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
  };
  Cudnn& c = o.cudnn;
  find(c.GetVersion, "cudnnGetVersion"), find(c.GetLastErrorString, "cudnnGetLastErrorString");
  find(c.Create, "cudnnCreate"), find(c.SetStream, "cudnnSetStream");
  find(c.BackendCreateDescriptor, "cudnnBackendCreateDescriptor"), find(c.BackendDestroyDescriptor, "cudnnBackendDestroyDescriptor");
  find(c.BackendSetAttribute, "cudnnBackendSetAttribute"), find(c.BackendGetAttribute, "cudnnBackendGetAttribute");
  find(c.BackendFinalize, "cudnnBackendFinalize"), find(c.BackendExecute, "cudnnBackendExecute");
  if (o.usable && c.GetVersion() < Cudnn::OLDEST) {
    o.usable = false;
    o.why = "cuDNN " + std::to_string(c.GetVersion()) + " is older than " + std::to_string(Cudnn::OLDEST) + ", install a newer one";
  }
  return o;
}

}  // namespace

const Cudnn* open_cudnn(std::string* why) {
  static const Opened& opened = *new Opened(open_once());
  if (why) *why = opened.why;
  return opened.usable ? &opened.cudnn : nullptr;
}

CudnnGraph::~CudnnGraph() {
  for (auto d = all_.rbegin(); d != all_.rend(); ++d) cudnn_.BackendDestroyDescriptor(*d);
}

bool CudnnGraph::check(int status, const char* what) {
  if (status == Cudnn::SUCCESS || !error_.empty()) return error_.empty();
  char text[512] = "";
  cudnn_.GetLastErrorString(text, sizeof text);
  std::string line = text;
  std::replace(line.begin(), line.end(), '\n', ' ');
  error_ = std::string("cuDNN gave status ") + std::to_string(status) + " for " + what + (line.empty() ? "" : ": " + line);
  return false;
}

Cudnn::Descriptor CudnnGraph::make(int kind) {
  Cudnn::Descriptor d = nullptr;
  if (error_.empty() && check(cudnn_.BackendCreateDescriptor(kind, &d), "a descriptor")) all_.push_back(d);
  return d;
}
void CudnnGraph::set(Cudnn::Descriptor d, int what, int type, int64_t count, const void* value) {
  if (error_.empty()) check(cudnn_.BackendSetAttribute(d, what, type, count, value), ("attribute " + std::to_string(what)).c_str());
}
bool CudnnGraph::finish(Cudnn::Descriptor d, const char* what) { return error_.empty() && check(cudnn_.BackendFinalize(d), what); }

CudnnGraph::Tensor CudnnGraph::tensor(int type, Four sizes, Four steps, const Tensor* ragged, Where where) {
  Tensor t{make(Cudnn::A_TENSOR), next_id_++, type, sizes, steps};
  int64_t alignment = where == IN_MEMORY || where == VIRTUAL ? 16 : 4;
  bool yes = true;
  set(t.descriptor, Cudnn::TENSOR_ID, Cudnn::INT64, 1, &t.id);
  set(t.descriptor, Cudnn::TENSOR_TYPE, Cudnn::TYPE, 1, &type);
  set(t.descriptor, Cudnn::TENSOR_SIZES, Cudnn::INT64, 4, sizes.data());
  set(t.descriptor, Cudnn::TENSOR_STEPS, Cudnn::INT64, 4, steps.data());
  set(t.descriptor, Cudnn::TENSOR_ALIGNMENT, Cudnn::INT64, 1, &alignment);
  if (where == VIRTUAL) set(t.descriptor, Cudnn::TENSOR_VIRTUAL, Cudnn::FLAG, 1, &yes);
  if (where == BY_VALUE) set(t.descriptor, Cudnn::TENSOR_BY_VALUE, Cudnn::FLAG, 1, &yes);
  if (ragged) set(t.descriptor, Cudnn::TENSOR_RAGGED, *ragged);
  finish(t.descriptor, "a tensor");
  return t;
}

CudnnGraph::Tensor CudnnGraph::scalar(float value) {
  Tensor t = tensor(Cudnn::F32, {1, 1, 1, 1}, {1, 1, 1, 1}, nullptr, BY_VALUE);
  scalars_.push_back({t.id, value});
  return t;
}

void CudnnGraph::element_by_element(int mode, int compute, const Tensor& x, const Tensor* b, const Tensor* t, const Tensor& y, int64_t axis) {
  float one = 1;
  Cudnn::Descriptor is = make(Cudnn::A_POINTWISE), operation = make(Cudnn::A_POINTWISE_OPERATION);
  set(is, Cudnn::POINTWISE_MODE, Cudnn::POINTWISE, 1, &mode);
  set(is, Cudnn::POINTWISE_TYPE, Cudnn::TYPE, 1, &compute);
  if (axis >= 0) set(is, Cudnn::POINTWISE_AXIS, Cudnn::INT64, 1, &axis);
  finish(is, "a pointwise operation");
  set(operation, Cudnn::POINTWISE_IS, Cudnn::DESCRIPTOR, 1, &is);
  set(operation, Cudnn::POINTWISE_X, x);
  if (b) set(operation, Cudnn::POINTWISE_B, *b);
  if (t) set(operation, Cudnn::POINTWISE_T, *t);
  set(operation, Cudnn::POINTWISE_Y, y);
  set(operation, Cudnn::POINTWISE_ALPHA_1, Cudnn::FLOAT, 1, &one);
  set(operation, Cudnn::POINTWISE_ALPHA_2, Cudnn::FLOAT, 1, &one);
  if (finish(operation, "a pointwise operation")) operations_.push_back(operation);
}

void CudnnGraph::reduce(int by, const Tensor& x, const Tensor& y) {
  int compute = Cudnn::F32;
  Cudnn::Descriptor is = make(Cudnn::A_REDUCTION), operation = make(Cudnn::A_REDUCTION_OPERATION);
  set(is, Cudnn::REDUCTION_TYPE, Cudnn::TYPE, 1, &compute);
  set(is, Cudnn::REDUCTION_OPERATOR, Cudnn::REDUCTION, 1, &by);
  finish(is, "a reduction");
  set(operation, Cudnn::REDUCTION_IS, Cudnn::DESCRIPTOR, 1, &is);
  set(operation, Cudnn::REDUCTION_X, x);
  set(operation, Cudnn::REDUCTION_Y, y);
  if (finish(operation, "a reduction")) operations_.push_back(operation);
}

void CudnnGraph::reshape(const Tensor& x, const Tensor& y) {
  Cudnn::Descriptor operation = make(Cudnn::A_RESHAPE_OPERATION);
  set(operation, Cudnn::RESHAPE_X, x);
  set(operation, Cudnn::RESHAPE_Y, y);
  if (finish(operation, "a view")) operations_.push_back(operation);
}

void CudnnGraph::matmul(const Tensor& a, const Tensor& b, const Tensor& y, const Tensor* rows, const Tensor* columns, const Tensor* depth) {
  int compute = Cudnn::F32;
  Cudnn::Descriptor is = make(Cudnn::A_MATMUL), operation = make(Cudnn::A_MATMUL_OPERATION);
  set(is, Cudnn::MATMUL_TYPE, Cudnn::TYPE, 1, &compute);
  finish(is, "a product");
  set(operation, Cudnn::MATMUL_A, a);
  set(operation, Cudnn::MATMUL_B, b);
  set(operation, Cudnn::MATMUL_C, y);
  set(operation, Cudnn::MATMUL_IS, Cudnn::DESCRIPTOR, 1, &is);
  if (rows) set(operation, Cudnn::MATMUL_ROWS, *rows);
  if (columns) set(operation, Cudnn::MATMUL_COLUMNS, *columns);
  if (depth) set(operation, Cudnn::MATMUL_DEPTH, *depth);
  if (finish(operation, "a product")) operations_.push_back(operation);
}

bool CudnnGraph::close(Cudnn::Handle handle) {
  graph_ = make(Cudnn::A_GRAPH);
  if (handle) set(graph_, Cudnn::GRAPH_HANDLE, Cudnn::HANDLE, 1, &handle);
  set(graph_, Cudnn::GRAPH_OPERATIONS, Cudnn::DESCRIPTOR, int64_t(operations_.size()), operations_.data());
  return finish(graph_, "the graph");
}

bool CudnnGraph::plan(Cudnn::Handle handle, int64_t most_workspace) {
  constexpr int MOST = 16;
  std::string refused;
  for (int mode : {Cudnn::MODE_A, Cudnn::FALLBACK}) {
    Cudnn::Descriptor search = make(Cudnn::AN_ENGINE_SEARCH), found[MOST] = {};
    set(search, Cudnn::SEARCH_GRAPH, Cudnn::DESCRIPTOR, 1, &graph_);
    set(search, Cudnn::SEARCH_MODE, Cudnn::HEURISTIC, 1, &mode);
    int64_t count = 0;
    for (auto& config : found) config = make(Cudnn::AN_ENGINE_CONFIG);
    if (finish(search, "a search for engines"))
      check(cudnn_.BackendGetAttribute(search, Cudnn::SEARCH_RESULTS, Cudnn::DESCRIPTOR, MOST, &count, found), "the engines that were found");
    if (!error_.empty()) refused = std::exchange(error_, ""), count = 0;
    for (int64_t i = 0; i < std::min<int64_t>(count, MOST); i++) {
      Cudnn::Descriptor plan = make(Cudnn::A_PLAN);
      int64_t got = 0, bytes = 0;
      if (handle) set(plan, Cudnn::PLAN_HANDLE, Cudnn::HANDLE, 1, &handle);
      set(plan, Cudnn::PLAN_CONFIG, Cudnn::DESCRIPTOR, 1, &found[i]);
      if (finish(plan, "a plan") && check(cudnn_.BackendGetAttribute(plan, Cudnn::PLAN_WORKSPACE, Cudnn::INT64, 1, &got, &bytes), "a plan's workspace")) {
        if (bytes <= most_workspace) return plan_ = plan, workspace_ = bytes, true;
        error_ = "a plan of cuDNN's needs " + std::to_string(bytes) + " bytes of workspace, and there are " + std::to_string(most_workspace);
      }
      refused = std::exchange(error_, "");
    }
  }
  error_ = refused.empty() ? "cuDNN has no engine for this graph" : refused;
  return false;
}

bool CudnnGraph::execute(Cudnn::Handle handle, const std::vector<std::pair<int64_t, void*>>& addresses, void* workspace) {
  std::vector<int64_t> ids;
  std::vector<void*> pointers;
  for (auto& [id, p] : addresses) ids.push_back(id), pointers.push_back(p);
  for (auto& [id, value] : scalars_) ids.push_back(id), pointers.push_back(&value);
  Cudnn::Descriptor pack = nullptr;
  auto ok = [&](int status) { return check(status, "a run"); };
  int64_t count = int64_t(ids.size());
  ok(cudnn_.BackendCreateDescriptor(Cudnn::A_PACK, &pack)) &&
      ok(cudnn_.BackendSetAttribute(pack, Cudnn::PACK_IDS, Cudnn::INT64, count, ids.data())) &&
      ok(cudnn_.BackendSetAttribute(pack, Cudnn::PACK_POINTERS, Cudnn::POINTER, count, pointers.data())) &&
      ok(cudnn_.BackendSetAttribute(pack, Cudnn::PACK_WORKSPACE, Cudnn::POINTER, 1, &workspace)) && ok(cudnn_.BackendFinalize(pack)) &&
      ok(cudnn_.BackendExecute(handle, plan_, pack));
  if (pack) cudnn_.BackendDestroyDescriptor(pack);
  return error_.empty();
}

}  // namespace baton

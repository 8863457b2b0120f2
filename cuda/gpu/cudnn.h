// The part of cuDNN that is used, opened when it is wanted: the functions of its graph API, with the types and numbers that they need
// written out, so that nothing has to be installed to compile this. cudnn.cu compares them with cudnn.h where there is one.
#pragma once
#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

#include <array>
#include <deque>
#include <string>
#include <vector>

namespace baton {

struct Cudnn {
  typedef void* Handle;
  typedef void* Descriptor;
  // 9.10.2: before it, gradients of packed sequences want other graphs, or come out wrong (9.10.0 and 9.10.1).
  static constexpr size_t OLDEST = 91002;
  static constexpr int SUCCESS = 0;
  enum Type { F32 = 0, I32 = 4, BF16 = 9, TRUTH = 11 };
  enum Value { HANDLE = 0, TYPE = 1, FLAG = 2, INT64 = 3, FLOAT = 4, POINTER = 6, HEURISTIC = 8,
               POINTWISE = 14, DESCRIPTOR = 15, REDUCTION = 18 };
  enum Kind {
    A_POINTWISE = 0, AN_ENGINE_SEARCH = 4, A_PLAN = 5, A_POINTWISE_OPERATION = 13, A_GRAPH = 15, A_PACK = 16, A_TENSOR = 17, A_MATMUL = 18,
    A_MATMUL_OPERATION = 19, A_REDUCTION = 21, A_REDUCTION_OPERATION = 22, A_RESHAPE_OPERATION = 31, AN_ENGINE_CONFIG = 3
  };
  enum Pointwise { ADD = 0, MUL = 1, DIV = 6, SUB = 9, EXP = 13, LOG = 15, IDENTITY = 21, GREATER = 302, NOT_LESS = 303, LESS = 304, AND = 400, INDEX = 501,
                   SELECT = 601 };
  enum Reduction { SUM = 0, MOST = 3 };
  enum Search { FALLBACK = 2, MODE_A = 3 };
  enum Attribute {
    POINTWISE_MODE = 0, POINTWISE_TYPE = 1, POINTWISE_AXIS = 9,
    SEARCH_MODE = 200, SEARCH_GRAPH = 201, SEARCH_RESULTS = 202,
    PLAN_HANDLE = 400, PLAN_CONFIG = 401, PLAN_WORKSPACE = 402,
    POINTWISE_IS = 750, POINTWISE_X = 751, POINTWISE_B = 752, POINTWISE_Y = 753, POINTWISE_ALPHA_1 = 754, POINTWISE_ALPHA_2 = 755, POINTWISE_T = 758,
    GRAPH_HANDLE = 800, GRAPH_OPERATIONS = 801,
    TENSOR_ALIGNMENT = 900, TENSOR_TYPE = 901, TENSOR_SIZES = 902, TENSOR_STEPS = 903, TENSOR_ID = 906, TENSOR_VIRTUAL = 907,
    TENSOR_BY_VALUE = 908, TENSOR_RAGGED = 913,
    PACK_IDS = 1000, PACK_POINTERS = 1001, PACK_WORKSPACE = 1003,
    MATMUL_TYPE = 1500, MATMUL_A = 1520, MATMUL_B = 1521, MATMUL_C = 1522, MATMUL_IS = 1523, MATMUL_ROWS = 1525, MATMUL_COLUMNS = 1526,
    MATMUL_DEPTH = 1527,
    REDUCTION_OPERATOR = 1600, REDUCTION_TYPE = 1601, REDUCTION_X = 1610, REDUCTION_Y = 1611, REDUCTION_IS = 1612,
    RESHAPE_X = 2200, RESHAPE_Y = 2201
  };

  size_t (*GetVersion)();
  void (*GetLastErrorString)(char* text, size_t bytes);
  int (*Create)(Handle*);
  int (*SetStream)(Handle, cudaStream_t);
  int (*BackendCreateDescriptor)(int kind, Descriptor*);
  int (*BackendDestroyDescriptor)(Descriptor);
  int (*BackendSetAttribute)(Descriptor, int what, int type, int64_t count, const void*);
  int (*BackendGetAttribute)(Descriptor, int what, int type, int64_t asked, int64_t* count, void*);
  int (*BackendFinalize)(Descriptor);
  int (*BackendExecute)(Handle, Descriptor plan, Descriptor pack);
};

// Null when cuDNN cannot be opened, lacks a function or is too old; `why` then says it in one line.
const Cudnn* open_cudnn(std::string* why = nullptr);

// A graph of operations on tensors of four axes, and the plan that cuDNN makes of it. Descriptors live as long as it. What fails is
// remembered; everything after it does nothing.
class CudnnGraph {
 public:
  typedef std::array<int64_t, 4> Four;
  struct Tensor {
    Cudnn::Descriptor descriptor = nullptr;
    int64_t id = 0;
    int type = 0;
    Four sizes{}, steps{};
  };

  explicit CudnnGraph(const Cudnn& library) : cudnn_(library) {}
  CudnnGraph(const CudnnGraph&) = delete;
  ~CudnnGraph();

  // In memory; of a ragged tensor the first axis begins at offsets (in elements) that another tensor has.
  Tensor stored(int type, Four sizes, Four steps, const Tensor* ragged = nullptr) { return tensor(type, sizes, steps, ragged, IN_MEMORY); }
  // Between operations; dense unless steps are given.
  Tensor between(int type, Four sizes) { return between(type, sizes, dense(sizes)); }
  Tensor between(int type, Four sizes, Four steps, const Tensor* ragged = nullptr) { return tensor(type, sizes, steps, ragged, VIRTUAL); }
  Tensor scalar(float value);
  static Four dense(Four sizes) { return {sizes[1] * sizes[2] * sizes[3], sizes[2] * sizes[3], sizes[3], 1}; }

  // Into a tensor of the sizes of x, computed in `compute`.
  void pointwise(int mode, const Tensor& x, const Tensor& y, int compute = Cudnn::F32) { element_by_element(mode, compute, x, nullptr, nullptr, y, -1); }
  void pointwise(int mode, const Tensor& x, const Tensor& b, const Tensor& y, int compute = Cudnn::F32) { element_by_element(mode, compute, x, &b, nullptr, y, -1); }
  void select(const Tensor& where, const Tensor& x, const Tensor& otherwise, const Tensor& y) {
    element_by_element(Cudnn::SELECT, Cudnn::F32, x, &otherwise, &where, y, -1);
  }
  void index(int axis, const Tensor& like, const Tensor& y, int compute) { element_by_element(Cudnn::INDEX, compute, like, nullptr, nullptr, y, axis); }
  void reduce(int by, const Tensor& x, const Tensor& y);
  void reshape(const Tensor& x, const Tensor& y);
  // y = a · b over the last two axes, with sizes that other tensors have for each element of the first axis; null for all of them.
  void matmul(const Tensor& a, const Tensor& b, const Tensor& y, const Tensor* rows, const Tensor* columns, const Tensor* depth);

  // Finalizes the graph of all operations; `handle` may be null where it is not to be run.
  bool close(Cudnn::Handle handle);
  // The first plan of cuDNN's that needs no more than so many bytes.
  bool plan(Cudnn::Handle handle, int64_t most_workspace);
  // Runs it on the stream of the handle. Scalars need no address.
  bool execute(Cudnn::Handle handle, const std::vector<std::pair<int64_t, void*>>& addresses, void* workspace);

  const std::string& error() const { return error_; }  // empty while nothing has failed
  size_t operations() const { return operations_.size(); }
  int64_t workspace() const { return workspace_; }

 private:
  enum Where { IN_MEMORY, VIRTUAL, BY_VALUE };
  Tensor tensor(int type, Four sizes, Four steps, const Tensor* ragged, Where where);
  Cudnn::Descriptor make(int kind);
  void set(Cudnn::Descriptor, int what, int type, int64_t count, const void* value);
  void set(Cudnn::Descriptor d, int what, const Tensor& t) { set(d, what, Cudnn::DESCRIPTOR, 1, &t.descriptor); }
  bool finish(Cudnn::Descriptor, const char* what);
  void element_by_element(int mode, int compute, const Tensor& x, const Tensor* b, const Tensor* t, const Tensor& y, int64_t axis);
  bool check(int status, const char* what);

  const Cudnn& cudnn_;
  std::vector<Cudnn::Descriptor> all_, operations_;
  Cudnn::Descriptor graph_ = nullptr, plan_ = nullptr;
  std::deque<std::pair<int64_t, float>> scalars_;  // at addresses that stay
  int64_t next_id_ = 1, workspace_ = 0;
  std::string error_;
};

}  // namespace baton

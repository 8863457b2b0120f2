#include "blas.h"

#include <dlfcn.h>

#include <type_traits>

#include "libraries.h"

#if !defined(BATON_EMULATION) && __has_include(<cublasLt.h>)
#include <cublasLt.h>
static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(baton::BlasAlgorithm), "see cublasLt.h");
static_assert(sizeof(cublasLtMatmulHeuristicResult_t) == sizeof(baton::BlasFound), "see cublasLt.h");
static_assert(offsetof(cublasLtMatmulHeuristicResult_t, state) == offsetof(baton::BlasFound, state), "see cublasLt.h");
static_assert(CUDA_R_32F == baton::Blas::F32 && CUDA_R_16BF == baton::Blas::BF16, "see cublasLt.h");
static_assert(CUBLAS_COMPUTE_32F == baton::Blas::COMPUTE_F32 && CUBLAS_OP_T == baton::Blas::TURNED, "see cublasLt.h");
static_assert(CUBLASLT_EPILOGUE_BIAS == baton::Blas::EPILOGUE_BIAS, "see cublasLt.h");
static_assert(int(CUBLASLT_MATMUL_DESC_TRANSA) == int(baton::Blas::TURN_A) && int(CUBLASLT_MATMUL_DESC_TRANSB) == int(baton::Blas::TURN_B), "see cublasLt.h");
static_assert(int(CUBLASLT_MATMUL_DESC_EPILOGUE) == int(baton::Blas::EPILOGUE), "see cublasLt.h");
static_assert(int(CUBLASLT_MATMUL_DESC_BIAS_POINTER) == int(baton::Blas::BIAS), "see cublasLt.h");
static_assert(int(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE) == int(baton::Blas::BIAS_TYPE), "see cublasLt.h");
static_assert(int(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) == int(baton::Blas::WORKSPACE), "see cublasLt.h");
static_assert(int(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES) == int(baton::Blas::ALIGNMENT_A), "see cublasLt.h");
static_assert(int(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES) == int(baton::Blas::ALIGNMENT_D), "see cublasLt.h");
#endif

namespace baton {
namespace {

struct Opened {
  Blas blas{};
  bool usable = false;
};

Opened open_once() {
  Opened o;
  void* handle = open_library(Library::blas);
#ifdef BATON_EMULATION
  // The real one would be given memory of the host.
  if (handle && !dlsym(handle, "baton_stand_in")) handle = nullptr;
#endif
  if (!handle) return o;
  o.usable = true;
  auto find = [&](auto& function, const char* name) {
    void* symbol = dlsym(handle, name);
    o.usable = o.usable && symbol;
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
  };
  Blas& b = o.blas;
  find(b.Create, "cublasLtCreate"), find(b.Matmul, "cublasLtMatmul");
  find(b.MatmulDescCreate, "cublasLtMatmulDescCreate"), find(b.MatmulDescDestroy, "cublasLtMatmulDescDestroy");
  find(b.MatmulDescSetAttribute, "cublasLtMatmulDescSetAttribute");
  find(b.MatrixLayoutCreate, "cublasLtMatrixLayoutCreate"), find(b.MatrixLayoutDestroy, "cublasLtMatrixLayoutDestroy");
  find(b.MatmulPreferenceCreate, "cublasLtMatmulPreferenceCreate");
  find(b.MatmulPreferenceSetAttribute, "cublasLtMatmulPreferenceSetAttribute");
  find(b.MatmulPreferenceDestroy, "cublasLtMatmulPreferenceDestroy");
  find(b.MatmulAlgoGetHeuristic, "cublasLtMatmulAlgoGetHeuristic");
  return o;
}

}  // namespace

const Blas* open_blas() {
  static const Opened& opened = *new Opened(open_once());
  return opened.usable ? &opened.blas : nullptr;
}

}  // namespace baton

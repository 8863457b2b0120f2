// The part of cuBLASLt that is used, opened when it is wanted: its functions, with the types that they need written out, so that
// nothing has to be installed to compile this. blas.cu compares them with cublasLt.h where there is one.
#pragma once
#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

namespace baton {

struct BlasAlgorithm {
  uint64_t data[8];
};
struct BlasFound {
  BlasAlgorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

struct Blas {
  static constexpr int SUCCESS = 0, F32 = 0, BF16 = 14, COMPUTE_F32 = 68, TURNED = 1, EPILOGUE_BIAS = 4;
  enum Product { TURN_A = 3, TURN_B = 4, EPILOGUE = 7, BIAS = 8, BIAS_TYPE = 26 };
  enum Preference { WORKSPACE = 1, ALIGNMENT_A = 5, ALIGNMENT_B = 6, ALIGNMENT_C = 7, ALIGNMENT_D = 8 };
  typedef void* Handle;

  int (*Create)(Handle*);
  int (*MatmulDescCreate)(Handle*, int compute, int scale);
  int (*MatmulDescSetAttribute)(Handle, int what, const void* value, size_t bytes);
  int (*MatmulDescDestroy)(Handle);
  int (*MatrixLayoutCreate)(Handle*, int type, uint64_t rows, uint64_t columns, int64_t ld);
  int (*MatrixLayoutDestroy)(Handle);
  int (*MatmulPreferenceCreate)(Handle*);
  int (*MatmulPreferenceSetAttribute)(Handle, int what, const void* value, size_t bytes);
  int (*MatmulPreferenceDestroy)(Handle);
  int (*MatmulAlgoGetHeuristic)(Handle, Handle product, Handle a, Handle b, Handle c, Handle d, Handle preference, int most,
                                BlasFound*, int* found);
  int (*Matmul)(Handle, Handle product, const void* alpha, const void* a, Handle, const void* b, Handle, const void* beta, const void* c,
                Handle, void* d, Handle, const BlasAlgorithm*, void* workspace, size_t bytes, cudaStream_t);
};

// Null when cuBLASLt cannot be opened, or lacks a function.
const Blas* open_blas();

}  // namespace baton

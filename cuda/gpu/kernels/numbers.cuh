// Numbers in memory: f32, or bf16 that is widened when it is read and rounded to nearest, ties to even, when it is written.
// Kernels are templates over what they read and write, and compute in f32.
#pragma once
#include <cuda_bf16.h>

#include "../kernels.h"

namespace baton {

typedef __nv_bfloat16 bf16;

__device__ inline float number(float v) { return v; }
__device__ inline float number(bf16 v) { return __bfloat162float(v); }
__device__ inline double number(double v) { return v; }
template <class T, class V>
__device__ inline T stored(V v) {
  if constexpr (sizeof(T) == 2) return __float2bfloat16_rn(v);
  else return v;
}

inline bool is_half(const Call& c, int operand) { return c.type[operand] == Type::bf16; }
template <class T>
inline T* at(const Call& c, int operand) { return static_cast<T*>(c.operand[operand]); }

// f(float()) or f(bf16()), by the type of an operand.
template <class F>
inline void by_type(const Call& c, int operand, F f) {
  if (is_half(c, operand)) f(bf16());
  else f(float());
}
template <class F>
inline void by_types(const Call& c, int first, int second, F f) {
  by_type(c, first, [&](auto a) { by_type(c, second, [&](auto b) { f(a, b); }); });
}

// Numbers whose type is known when the kernel runs.
struct Numbers {
  const void* p;
  bool half;
  __device__ float operator[](long i) const {
    return half ? number(static_cast<const bf16*>(p)[i]) : static_cast<const float*>(p)[i];
  }
  __host__ __device__ Numbers from(long i) const { return {static_cast<const char*>(p) + i * (half ? 2 : 4), half}; }
};
struct OutNumbers {
  void* p;
  bool half;
  __device__ void set(long i, float v) const {
    if (half) static_cast<bf16*>(p)[i] = stored<bf16>(v);
    else static_cast<float*>(p)[i] = v;
  }
  // What is read again where this is written.
  __device__ float rounded(float v) const { return half ? number(stored<bf16>(v)) : v; }
  // Numbers i and i + 1 at once; i is even, and so is what lies before p.
  __device__ void set_pair(long i, float first, float second) const {
    if (half) {
      bf16 v[2] = {stored<bf16>(first), stored<bf16>(second)};
      uint32_t word;
      memcpy(&word, v, sizeof word);
      *reinterpret_cast<uint32_t*>(static_cast<bf16*>(p) + i) = word;
    } else {
      float v[2] = {first, second};
      uint2 words;
      memcpy(&words, v, sizeof words);
      *reinterpret_cast<uint2*>(static_cast<float*>(p) + i) = words;
    }
  }
  OutNumbers from(long i) const { return {static_cast<char*>(p) + i * (half ? 2 : 4), half}; }
  Numbers numbers() const { return {p, half}; }
};
inline Numbers numbers(const Call& c, int operand) { return {c.operand[operand], is_half(c, operand)}; }
inline OutNumbers out_numbers(const Call& c, int operand) { return {c.operand[operand], is_half(c, operand)}; }
constexpr Numbers NO_NUMBERS{nullptr, false};

}  // namespace baton

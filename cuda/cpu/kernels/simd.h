// Sixteen virtual lanes of f32, whatever the machine has: sums that are split over lanes are split over these sixteen
// and folded by one tree (i + 8, + 4, + 2, + 1), so every instruction set gives the same bits.
//
//   zero() all(x)                     lanes of one value
//   load(p) load(p, n)                n < 16 reads n values, the other lanes are 0
//   store(p, a) store(p, a, n)
//   + - * /  fma(a, b, c)             IEEE; fma rounds once
//   least(a, b) most(a, b)            b when either is NaN or both are equal
//   less(a, b) at_least(a, b)         masks, false on NaN
//   lanes(from, to)  pick(m, a, b)    m ? a : b
//   rounded(a)                        to nearest, ties to even
//   times_power(a, n)                 a · 2ⁿ for whole n in [-150, 128]
//   split(a, mantissa, exponent)      of a positive normal number, mantissa in [1, 2)
//   first(a) sum(a) largest(a)
//   transpose(r)                      of a 16 × 16 block
#pragma once

#if !defined(BATON_ISA)
#error "kernels are compiled with -DBATON_ISA=generic|avx2|avx512"
#elif defined(__AVX512F__)
#include "simd_avx512.h"
#elif defined(__AVX2__)
#include "simd_avx2.h"
#else
#include "simd_generic.h"
#endif

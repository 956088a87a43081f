// Vectors of the instruction set a source is compiled for: as wide as it has them, and one pixel of four lanes.
// Everything here lives in the namespace of that instruction set, so that objects never share code.
#pragma once

#ifndef DDFAST_ISA
#error "compile kernels with -DDDFAST_ISA=<name> (setup.py does)"
#endif

#include <cstdint>
#include <cstring>

#ifdef DDFAST_X86
#include <immintrin.h>
#endif

namespace ddfast {
namespace DDFAST_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Wide __attribute__((vector_size(4 * kLanes)));
typedef float Pixel __attribute__((vector_size(16)));  // red, green, blue and a lane to ignore

template <class V>
inline V load(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof(V));
  return v;
}

template <class V>
inline void store(void* p, V v) {
  std::memcpy(p, &v, sizeof(V));
}

// kLanes bytes to floats; gcc 12 takes __builtin_convertvector apart lane by lane here, and warns of the undefined
// pass-through of the unmasked AVX-512 intrinsics.
inline Wide widen(const uint8_t* p) {
#if defined(__AVX512F__)
  const __m512i wide = _mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm512_maskz_cvtepi32_ps(0xffff, wide);
#elif defined(__AVX2__)
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  return Wide{static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]), static_cast<float>(p[3])};
#endif
}

}  // namespace DDFAST_ISA
}  // namespace ddfast

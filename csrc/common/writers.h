// Rows of resized pixels to normalised elements of the output's type and layout.
#pragma once

#include "common/dtype.h"
#include "common/planar.h"

namespace ddfast {
namespace DDFAST_ISA {

typedef uint32_t Bits __attribute__((vector_size(16)));

#ifdef __aarch64__
typedef __fp16 Half;  // gcc has _Float16 in C++ from version 13 only
#elif !defined(DDFAST_X86)
typedef _Float16 Half;
#endif

// Four values to four elements of type T.  Values are finite: bytes, weights, mean and std are.
inline void put4(float* p, Pixel v) { store(p, v); }

inline void put4(Bf16* p, Pixel v) {
  Bits u = load<Bits>(&v);
  u = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
#ifdef DDFAST_X86
  const __m128i wide = load<__m128i>(&u);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi32(wide, wide));
#else
  for (int i = 0; i < 4; ++i) p[i].bits = static_cast<uint16_t>(u[i]);
#endif
}

inline void put4(F16* p, Pixel v) {
#ifdef DDFAST_X86
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < 4; ++i) {
    const Half h = static_cast<Half>(v[i]);
    std::memcpy(p + i, &h, 2);
  }
#endif
}

#ifdef DDFAST_X86
inline void put8(float* p, __m256 v) { _mm256_storeu_ps(p, v); }

inline void put8(Bf16* p, __m256 v) {
  const __m256i u = _mm256_castps_si256(v), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i high = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
  const __m128i both = _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), both);
}

inline void put8(F16* p, __m256 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

// Pixels x and x + 4 of a row.
inline __m256 two_pixels(const float* row) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row)), _mm_loadu_ps(row + 16), 1);
}
#endif

template <class T>
inline T convert(float x) {
  T four[4];
  put4(four, x - Pixel{});
  return four[0];
}

// Grey levels to normalised values.
struct Affine {
  Pixel scale, shift;  // red, green, blue, ignored

  Affine(const float* mean, const float* std) : scale{}, shift{} {
    for (int c = 0; c < 3; ++c) {
      scale[c] = static_cast<float>(1.0 / (255.0 * std[c]));
      shift[c] = static_cast<float>(-static_cast<double>(mean[c]) / std[c]);
    }
  }
};

// Row of pixels (4 floats each) to three planes.
template <class T>
inline void write_planar(const float* row, int width, const Affine& affine, T* out, int64_t plane) {
  int x = 0;
#ifdef DDFAST_X86
  __m256 scale[3], shift[3];
  for (int c = 0; c < 3; ++c) scale[c] = _mm256_set1_ps(affine.scale[c]), shift[c] = _mm256_set1_ps(affine.shift[c]);
  for (; x + 8 <= width; x += 8) {
    const __m256 a = two_pixels(row + 4 * x), b = two_pixels(row + 4 * x + 4);
    const __m256 c = two_pixels(row + 4 * x + 8), d = two_pixels(row + 4 * x + 12);
    const __m256 rg0 = _mm256_unpacklo_ps(a, b), rg1 = _mm256_unpacklo_ps(c, d);
    const __m256 red = _mm256_shuffle_ps(rg0, rg1, 0x44), green = _mm256_shuffle_ps(rg0, rg1, 0xee);
    const __m256 blue = _mm256_shuffle_ps(_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d), 0x44);
    put8(out + x, _mm256_fmadd_ps(red, scale[0], shift[0]));
    put8(out + x + plane, _mm256_fmadd_ps(green, scale[1], shift[1]));
    put8(out + x + 2 * plane, _mm256_fmadd_ps(blue, scale[2], shift[2]));
  }
#endif
  for (; x + 4 <= width; x += 4) {
    const Pixel a = load<Pixel>(row + 4 * x), b = load<Pixel>(row + 4 * x + 4);
    const Pixel c = load<Pixel>(row + 4 * x + 8), d = load<Pixel>(row + 4 * x + 12);
    const Pixel rg0 = __builtin_shuffle(a, b, Bits{0, 4, 1, 5}), rg1 = __builtin_shuffle(c, d, Bits{0, 4, 1, 5});
    const Pixel b0 = __builtin_shuffle(a, b, Bits{2, 6, 3, 7}), b1 = __builtin_shuffle(c, d, Bits{2, 6, 3, 7});
    const Pixel red = __builtin_shuffle(rg0, rg1, Bits{0, 1, 4, 5});
    const Pixel green = __builtin_shuffle(rg0, rg1, Bits{2, 3, 6, 7});
    const Pixel blue = __builtin_shuffle(b0, b1, Bits{0, 1, 4, 5});
    put4(out + x, red * affine.scale[0] + affine.shift[0]);
    put4(out + x + plane, green * affine.scale[1] + affine.shift[1]);
    put4(out + x + 2 * plane, blue * affine.scale[2] + affine.shift[2]);
  }
  for (; x < width; ++x) {
    T four[4];
    put4(four, load<Pixel>(row + 4 * x) * affine.scale + affine.shift);
    for (int c = 0; c < 3; ++c) out[x + c * plane] = four[c];
  }
}

// Row of pixels to packed triples: each store spills one element into the next pixel, which the next store mends.
template <class T>
inline void write_packed(const float* row, int width, const Affine& affine, T* out) {
  int x = 0;
  for (; x + 1 < width; ++x) put4(out + 3 * x, load<Pixel>(row + 4 * x) * affine.scale + affine.shift);
  T four[4];
  put4(four, load<Pixel>(row + 4 * x) * affine.scale + affine.shift);
  std::memcpy(out + 3 * x, four, 3 * sizeof(T));
}

#ifdef __AVX512F__
inline void put16(float* p, __m512 v, __mmask16 keep) { _mm512_mask_storeu_ps(p, keep, v); }

inline void put16(Bf16* p, __m512 v, __mmask16 keep) {
  const __m512i u = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_epi32(_mm512_maskz_srli_epi32(0xffff, u, 16), _mm512_set1_epi32(1));
  const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
  _mm512_mask_cvtepi32_storeu_epi16(p, keep, _mm512_maskz_srli_epi32(0xffff, sum, 16));
}

inline void put16(F16* p, __m512 v, __mmask16 keep) {
  _mm256_mask_storeu_epi16(p, keep, _mm512_maskz_cvtps_ph(0xffff, v, _MM_FROUND_TO_NEAREST_INT));
}

inline __mmask16 first_lanes(int count) {
  return count >= 16 ? 0xffff : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}

// Planar row to three planes, one after the other: planes often lie whole pages apart, and loads then wait for stores.
template <class T>
inline void write_planes(const float* row, int64_t pitch, int width, const Affine& affine, T* out, int64_t plane) {
  for (int c = 0; c < 3; ++c, row += pitch, out += plane) {
    const __m512 scale = _mm512_set1_ps(affine.scale[c]), shift = _mm512_set1_ps(affine.shift[c]);
    for (int x = 0; x < width; x += 16)
      put16(out + x, _mm512_fmadd_ps(_mm512_loadu_ps(row + x), scale, shift), first_lanes(width - x));
  }
}

// Planar row to packed triples.
template <class T>
inline void write_triples(const float* row, int64_t pitch, int width, const Affine& affine, T* out) {
  __m512 scale[3], shift[3];
  for (int c = 0; c < 3; ++c) scale[c] = _mm512_set1_ps(affine.scale[c]), shift[c] = _mm512_set1_ps(affine.shift[c]);
  for (int x = 0; x < width; x += 16) {
    __m512 v[3];
    for (int c = 0; c < 3; ++c) {
      v[c] = _mm512_fmadd_ps(_mm512_loadu_ps(row + c * pitch + x), scale[c], shift[c]);
      v[c] = Weave::permute(Weave::multiples(11, -11 * c), v[c]);  // 11 * 3 is 1 modulo 16
    }
    for (int t = 0; t < 3; ++t)
      put16(out + 3 * x + 16 * t, Weave::gather(t, v[0], v[1], v[2]), first_lanes(3 * (width - x) - 16 * t));
  }
}
#endif

}  // namespace DDFAST_ISA
}  // namespace ddfast

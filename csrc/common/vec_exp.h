// exp for loops that the compiler vectorises: no branch, no table, no call into libm.
#pragma once

#include <cstdint>
#include <cstring>

// Kernel sources are compiled once per instruction set; the namespace keeps the linker from mixing the copies.
namespace ddfast {
namespace DDFAST_ISA {

// e^x within 1.5 ulp for -87 <= x <= 88; smaller x give e^-87, NaN stays NaN, larger x are not allowed.
__attribute__((always_inline)) static inline float vec_exp(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer, held in the low bits
  const float shifted = x * 1.44269504088896341f + magic;
  const float k = shifted - magic;
  float r = x - k * 0.693359375f;  // ln 2 in two parts; the first product is exact
  r = r - k * -2.12194440e-4f;
  float p = 1.9875691500e-4f;  // e^r on [-ln2/2, ln2/2], Cephes' minimax polynomial
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, 4);
  bits = (bits + 127u) << 23;  // the magic number's own low bits are zero
  float scale;
  std::memcpy(&scale, &bits, 4);
  return p * scale;
}

}  // namespace DDFAST_ISA
}  // namespace ddfast

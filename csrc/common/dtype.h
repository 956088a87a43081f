// Element types that cross the Python boundary as small integers (ddfast/_native.py holds the same table).
#pragma once

#include <cstdint>
#include <cstring>

namespace ddfast {

enum class DType : int { f32 = 0, f64 = 1, bf16 = 2, f16 = 3, u8 = 4 };

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

inline int64_t dtype_size(DType t) {
  return t == DType::f64 ? 8 : t == DType::f32 ? 4 : t == DType::u8 ? 1 : 2;
}

// Round to nearest even; NaN stays NaN.
inline uint16_t bf16_bits(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40u);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

// Round to nearest even, too large a number to infinity; NaN stays NaN.
inline uint16_t f16_bits(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  const uint32_t sign = (u >> 16) & 0x8000u;
  u &= 0x7fffffffu;
  const uint32_t normal = (u + 0xfffu + ((u >> 13) & 1u) - (112u << 23)) >> 13;  // exponent bias from 127 to 15
  float magnitude, half = 0.5f;  // the last bit of 1/2 is that of the smallest numbers
  std::memcpy(&magnitude, &u, 4);
  magnitude += half;
  uint32_t shifted, bits;
  std::memcpy(&shifted, &magnitude, 4);
  std::memcpy(&bits, &half, 4);
  uint32_t result = u < 0x38800000u ? shifted - bits : normal;
  result = u >= 0x47800000u ? (u > 0x7f800000u ? 0x7e00u : 0x7c00u) : result;
  return static_cast<uint16_t>(sign | result);
}

}  // namespace ddfast

// Element types that cross the Python boundary as small integers (ddfast/_native.py holds the same table).
#pragma once

#include <cstdint>
#include <cstring>

namespace ddfast {

enum class DType : int { f32 = 0, f64 = 1, bf16 = 2, f16 = 3, u8 = 4 };

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

}  // namespace ddfast

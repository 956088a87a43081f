// Rows of logits: widened to float32, their largest element and sums of exponentials.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "common/dtype.h"
#include "common/vec_exp.h"

namespace ddfast {
namespace DDFAST_ISA {
namespace {

// Reductions keep `Lanes` independent accumulators, since the compiler may not reorder float sums by itself: many for
// throughput in long rows, few for rows of CIFAR's length.
constexpr int kWide = 32, kNarrow = 8;

inline int64_t whole_lanes(int64_t classes, int lanes) { return (classes + lanes - 1) / lanes * lanes; }

inline float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline float widen(float x) { return x; }
inline float widen(Bf16 x) { return from_bits(uint32_t{x.bits} << 16); }
inline float widen(F16 x) {
  const uint32_t magnitude = uint32_t{x.bits} & 0x7fffu;
  const float scaled = from_bits(magnitude << 13) * 0x1p112f;  // moves the exponent bias from 15 to 127
  uint32_t bits;
  std::memcpy(&bits, &scaled, 4);
  bits |= magnitude >= 0x7c00u ? 0x7f800000u : 0u;  // inf and NaN
  return from_bits(bits | (uint32_t{x.bits} & 0x8000u) << 16);
}

// The row in float32, filled up with -inf to whole lanes, so that loops over it have no remainder.
template <class T>
void load_row(const T* __restrict z, int64_t classes, int64_t padded, float* __restrict row) {
  for (int64_t j = 0; j < classes; ++j) row[j] = widen(z[j]);
  for (int64_t j = classes; j < padded; ++j) row[j] = -std::numeric_limits<float>::infinity();
}

template <int Lanes>
float sum_lanes(float* sum) {
  for (int half = Lanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) sum[l] += sum[l + half];
  return sum[0];
}

// Largest element; NaN is passed over here and comes back through the sum.
template <int Lanes>
float row_max(const float* __restrict row, int64_t padded) {
  float top[Lanes];
  for (int l = 0; l < Lanes; ++l) top[l] = -std::numeric_limits<float>::infinity();
  for (int64_t j = 0; j < padded; j += Lanes)
    for (int l = 0; l < Lanes; ++l) top[l] = row[j + l] > top[l] ? row[j + l] : top[l];
  for (int half = Lanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) top[l] = top[l + half] > top[l] ? top[l + half] : top[l];
  return top[0];
}

template <int Lanes>
float row_sum_exp(const float* __restrict row, int64_t padded, float shift) {
  float sum[Lanes] = {};
  for (int64_t j = 0; j < padded; j += Lanes)
    for (int l = 0; l < Lanes; ++l) sum[l] += vec_exp(row[j + l] - shift);
  return sum_lanes<Lanes>(sum);
}

}  // namespace
}  // namespace DDFAST_ISA
}  // namespace ddfast

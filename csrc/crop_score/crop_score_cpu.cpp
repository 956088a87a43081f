#include "crop_score/crop_score.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "common/parallel.h"
#include "common/vec_exp.h"

namespace ddfast {
namespace DDFAST_ISA {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
// Reductions keep `Lanes` independent accumulators, since the compiler may not reorder float sums by itself: many for
// throughput in long rows, few for rows of CIFAR's length.
constexpr int kWide = 32, kNarrow = 8;

inline float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline float widen(float x) { return x; }

struct Bf16 {
  uint16_t bits;
};
inline float widen(Bf16 x) { return from_bits(uint32_t{x.bits} << 16); }

struct F16 {
  uint16_t bits;
};
inline float widen(F16 x) {
  const uint32_t magnitude = uint32_t{x.bits} & 0x7fffu;
  const float scaled = from_bits(magnitude << 13) * 0x1p112f;  // moves the exponent bias from 15 to 127
  uint32_t bits;
  std::memcpy(&bits, &scaled, 4);
  bits |= magnitude >= 0x7c00u ? 0x7f800000u : 0u;  // inf and NaN
  return from_bits(bits | (uint32_t{x.bits} & 0x8000u) << 16);
}

// The row in float32, filled up with -inf to whole lanes, so that the loops below have no remainder.
template <class T>
void load_row(const T* __restrict z, int64_t classes, int64_t padded, float* __restrict row) {
  for (int64_t j = 0; j < classes; ++j) row[j] = widen(z[j]);
  for (int64_t j = classes; j < padded; ++j) row[j] = -kInf;
}

// Largest element; NaN is passed over here and comes back through the sum.
template <int Lanes>
float row_max(const float* __restrict row, int64_t padded) {
  float top[Lanes];
  for (int l = 0; l < Lanes; ++l) top[l] = -kInf;
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
  for (int half = Lanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) sum[l] += sum[l + half];
  return sum[0];
}

bool row_has_nan(const float* row, int64_t padded) {
  return std::any_of(row, row + padded, [](float x) { return x != x; });
}

// log(1 + S e^d) with S = sum over rivals of e^(z - max) and d = max - z[y]; never forms logsumexp - z[y], whose rounding
// would be the relative error of a small loss.  `row` holds the rivals, -inf in the label's place.
template <int Lanes>
float exact_loss(const float* row, int64_t padded, float own) {
  const float top = row_max<Lanes>(row, padded);
  const float d = top - own;
  if (top == kInf) return row_has_nan(row, padded) ? kNan : d;  // NaN too if z[y] is +inf
  const float sum = row_sum_exp<Lanes>(row, padded, top == -kInf ? 0.0f : top);
  if (d > 0) return d + std::log(sum + std::exp(-d));
  return std::log1p(sum * std::exp(d));
}

// -log(softmax(z)[y]), each step rounded to float32.
template <int Lanes>
float literal_loss(const float* row, int64_t padded, float own) {
  const float top = row_max<Lanes>(row, padded);
  if (std::isinf(top)) return kNan;
  return -std::log(std::exp(own - top) / row_sum_exp<Lanes>(row, padded, top));
}

void first_smallest(const float* loss, int64_t m, float* best_loss, int64_t* best_index) {
  int64_t best = 0;
  for (int64_t k = 1; k < m; ++k)
    if (loss[k] < loss[best] || (std::isnan(loss[best]) && !std::isnan(loss[k]))) best = k;
  *best_loss = loss[best];
  *best_index = best;
}

template <class T, int Lanes>
void score_images(const CropScoreArgs& a, int64_t begin, int64_t end) {
  const int64_t padded = (a.classes + Lanes - 1) / Lanes * Lanes;
  const std::unique_ptr<float[]> buffer(new float[padded]);
  float* row = buffer.get();
  for (int64_t i = begin; i < end; ++i) {
    const int64_t y = a.labels[i];
    for (int64_t k = 0; k < a.m; ++k) {
      load_row(static_cast<const T*>(a.logits) + i * a.stride_n + k * a.stride_m, a.classes, padded, row);
      const float own = row[y];
      if (!a.literal) row[y] = -kInf;
      a.loss[i * a.m + k] = a.literal ? literal_loss<Lanes>(row, padded, own) : exact_loss<Lanes>(row, padded, own);
    }
    first_smallest(a.loss + i * a.m, a.m, a.best_loss + i, a.best_index + i);
  }
}

}  // namespace

int64_t crop_score(const CropScoreArgs& a, int threads) {
  for (int64_t i = 0; i < a.n; ++i)
    if (a.labels[i] < 0 || a.labels[i] >= a.classes) return i;
  const int64_t grain = (int64_t{1} << 20) / (a.m * a.classes + 1) + 1;  // about a millisecond per thread
  parallel_for(a.n, grain, threads, [&](int64_t begin, int64_t end) {
    if (a.dtype == DType::bf16) return score_images<Bf16, kWide>(a, begin, end);
    if (a.dtype == DType::f16) return score_images<F16, kWide>(a, begin, end);
    if (a.classes <= 4 * kNarrow) return score_images<float, kNarrow>(a, begin, end);
    score_images<float, kWide>(a, begin, end);
  });
  return -1;
}

}  // namespace DDFAST_ISA
}  // namespace ddfast

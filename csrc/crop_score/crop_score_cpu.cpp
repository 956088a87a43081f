#include "crop_score/crop_score.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "common/parallel.h"
#include "common/row.h"

namespace ddfast {
namespace DDFAST_ISA {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

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
  const int64_t padded = whole_lanes(a.classes, Lanes);
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

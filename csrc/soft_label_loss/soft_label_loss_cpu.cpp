#include "soft_label_loss/soft_label_loss.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "common/parallel.h"
#include "common/row.h"

namespace ddfast {
namespace DDFAST_ISA {
namespace {

// Row i of a matrix, in float32 and filled up with -inf.
void load(const void* matrix, DType dtype, int64_t begin, int64_t count, int64_t padded, float* row) {
  if (dtype == DType::bf16) return load_row(static_cast<const Bf16*>(matrix) + begin, count, padded, row);
  if (dtype == DType::f16) return load_row(static_cast<const F16*>(matrix) + begin, count, padded, row);
  load_row(static_cast<const float*>(matrix) + begin, count, padded, row);
}

void store(const float* row, int64_t count, DType dtype, void* matrix, int64_t begin) {
  if (dtype == DType::f32) return void(std::copy(row, row + count, static_cast<float*>(matrix) + begin));
  uint16_t* out = static_cast<uint16_t*>(matrix) + begin;
  if (dtype == DType::bf16)
    for (int64_t j = 0; j < count; ++j) out[j] = bf16_bits(row[j]);
  else
    for (int64_t j = 0; j < count; ++j) out[j] = f16_bits(row[j]);
}

// out = e^(scale (row - top)), 0 where that is below e^-87, and its sum.
template <int Lanes>
float exp_row(const float* __restrict row, int64_t padded, float top, float scale, float* __restrict out) {
  float sum[Lanes] = {};
  for (int64_t j = 0; j < padded; j += Lanes)
    for (int l = 0; l < Lanes; ++l) {
      const float x = (row[j + l] - top) * scale;
      const float e = x < -87.0f ? 0.0f : vec_exp(x);
      out[j + l] = e;
      sum[l] += e;
    }
  return sum_lanes<Lanes>(sum);
}

struct Scratch {
  float *student, *teacher, *q, *p, *slope;
};

// sum p (log p - log q), or -sum p log q; adds its gradient to the slope.
template <int Lanes>
float soft_term(const SoftLabelLoss& a, int64_t padded, const Scratch& s) {
  const float scale = 1.0f / a.temperature;
  const float top_z = row_max<Lanes>(s.student, padded), top_t = row_max<Lanes>(s.teacher, padded);
  const float sum_z = exp_row<Lanes>(s.student, padded, top_z, scale, s.q);
  const float sum_t = exp_row<Lanes>(s.teacher, padded, top_t, scale, s.p);
  const float log_z = std::log(sum_z), log_t = std::log(sum_t);
  const float by_z = 1.0f / sum_z, by_t = 1.0f / sum_t, weight = a.soft_weight * scale;
  const float entropy = a.entropy ? 1.0f : 0.0f;
  const float *__restrict student = s.student, *__restrict teacher = s.teacher, *__restrict q = s.q, *__restrict p = s.p;
  float* __restrict slope = s.slope;
  float sum[Lanes] = {};
  for (int64_t j = 0; j < padded; j += Lanes)
    for (int l = 0; l < Lanes; ++l) {
      const float mass = p[j + l] * by_t;
      const float log_q = (student[j + l] - top_z) * scale - log_z, log_p = (teacher[j + l] - top_t) * scale - log_t;
      const float term = mass * (entropy * log_p - log_q);
      sum[l] += mass == 0.0f ? 0.0f : term;  // a class without mass costs nothing
      slope[j + l] += weight * (q[j + l] * by_z - mass);
    }
  return sum_lanes<Lanes>(sum);
}

template <int Lanes>
float square_term(const SoftLabelLoss& a, const Scratch& s) {
  const float weight = 2.0f * a.mse_weight / static_cast<float>(a.classes);
  const float *__restrict student = s.student, *__restrict teacher = s.teacher;
  float* __restrict slope = s.slope;
  float sum[Lanes] = {};
  int64_t j = 0;
  for (; j + Lanes <= a.classes; j += Lanes)
    for (int l = 0; l < Lanes; ++l) {
      const float apart = student[j + l] - teacher[j + l];
      sum[l] += apart * apart;
      slope[j + l] += weight * apart;
    }
  float rest = 0.0f;
  for (; j < a.classes; ++j) {
    const float apart = student[j] - teacher[j];
    rest += apart * apart;
    slope[j] += weight * apart;
  }
  return (sum_lanes<Lanes>(sum) + rest) / static_cast<float>(a.classes);
}

template <int Lanes>
float hard_term(const SoftLabelLoss& a, int64_t padded, int64_t label, const Scratch& s) {
  const float top = row_max<Lanes>(s.student, padded);
  const float sum = exp_row<Lanes>(s.student, padded, top, 1.0f, s.q);
  const float weight = a.gt_weight / sum;
  for (int64_t j = 0; j < padded; ++j) s.slope[j] += weight * s.q[j];
  s.slope[label] -= a.gt_weight;
  return std::log(sum) - (s.student[label] - top);
}

template <int Lanes>
void loss_rows(const SoftLabelLoss& a, int64_t begin, int64_t end) {
  const int64_t padded = whole_lanes(a.classes, Lanes);
  const std::unique_ptr<float[]> buffer(new float[5 * padded]);
  float* b = buffer.get();
  const Scratch s{b, b + padded, b + 2 * padded, b + 3 * padded, b + 4 * padded};
  for (int64_t i = begin; i < end; ++i) {
    load(a.logits, a.dtype, i * a.stride, a.classes, padded, s.student);
    if (a.indices) {
      load(a.values, a.values_dtype, i * a.values_stride, a.k, a.k, s.p);
      std::fill(s.teacher, s.teacher + a.classes, a.tail[i]);
      std::fill(s.teacher + a.classes, s.teacher + padded, -std::numeric_limits<float>::infinity());
      for (int64_t j = 0; j < a.k; ++j) s.teacher[a.indices[i * a.k + j]] = s.p[j];
    } else {
      load(a.values, a.values_dtype, i * a.values_stride, a.classes, padded, s.teacher);
    }
    std::fill(s.slope, s.slope + padded, 0.0f);
    float loss = 0.0f;
    if (a.soft_weight != 0.0f) loss += a.soft_weight * soft_term<Lanes>(a, padded, s);
    if (a.mse_weight != 0.0f) loss += a.mse_weight * square_term<Lanes>(a, s);
    if (a.gt_weight != 0.0f && a.labels) loss += a.gt_weight * hard_term<Lanes>(a, padded, a.labels[i], s);
    a.rows[i] = loss;
    if (a.grad) store(s.slope, a.classes, a.dtype, a.grad, i * a.classes);
  }
}

int64_t first_outside(const int64_t* classes, int64_t n, int64_t a_row, int64_t limit) {
  for (int64_t i = 0; i < n * a_row; ++i)
    if (classes[i] < 0 || classes[i] >= limit) return i / a_row;
  return -1;
}

}  // namespace

int64_t soft_label_loss(const SoftLabelLoss& a, int threads) {
  if (a.indices)
    if (const int64_t row = first_outside(a.indices, a.n, a.k, a.classes); row >= 0) return row;
  if (a.labels)
    if (const int64_t row = first_outside(a.labels, a.n, 1, a.classes); row >= 0) return row;
  const int64_t grain = (int64_t{1} << 18) / (a.classes + 1) + 1;  // a fraction of a millisecond per thread
  parallel_for(a.n, grain, threads, [&](int64_t begin, int64_t end) {
    if (a.classes <= 4 * kNarrow) return loss_rows<kNarrow>(a, begin, end);
    loss_rows<kWide>(a, begin, end);
  });
  return -1;
}

}  // namespace DDFAST_ISA
}  // namespace ddfast

// Loss of every row of logits against a teacher's, with its gradient.  See ddfast/ops/soft_label_loss/__init__.py.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace ddfast {

// logits and values: n rows, strides in elements, elements of a row adjacent; everything else contiguous.
struct SoftLabelLoss {
  const void* logits;
  DType dtype;  // of logits and grad: f32, bf16 or f16
  int64_t n, classes, stride;
  const void* values;  // n x classes, or n x k with indices and tail
  DType values_dtype;  // f32, bf16 or f16
  int64_t values_stride, k;
  const int64_t* indices;  // null: values are whole rows
  const float* tail;
  const int64_t* labels;  // null: no hard term
  float temperature, soft_weight;
  bool entropy;  // the soft term is the divergence, not the cross-entropy
  float mse_weight, gt_weight;
  float* rows;
  void* grad;  // n x classes, or null
};

// Returns the first row with a label or index out of range (then nothing is written), or -1.
DDFAST_DECLARE(int64_t soft_label_loss(const SoftLabelLoss& args, int threads))

}  // namespace ddfast

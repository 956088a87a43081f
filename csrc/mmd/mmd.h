// Maximum mean discrepancy per class and its gradient; see ddfast/ops/mmd/__init__.py for the formula.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace ddfast {

// Points of every class; the features of a point are next to each other. Strides in elements.
template <class T>
struct MmdPoints {
  T* data;
  int64_t count, of_class, of_point;
};

struct Mmd {
  int64_t classes, features;
  MmdPoints<const float> x, y;
  const float* sigmas;  // [classes, bandwidths]
  int64_t bandwidths;
  bool unbiased, real_term;
  int64_t rows;  // of the matrices: 0, x.count or x.count + y.count
  float* value;  // [classes]
  float* weights;  // [classes, rows, x.count + y.count]
};

struct MmdGradient {
  int64_t classes, features;
  MmdPoints<const float> x, y;
  const float* upstream;  // [classes]
  const float* weights;  // [classes, grad_x.count + grad_y.count, x.count + y.count]
  MmdPoints<float> grad_x, grad_y;
};

DDFAST_DECLARE(void mmd(const Mmd& in, int threads))
DDFAST_DECLARE(void mmd_backward(const MmdGradient& in, int threads))

}  // namespace ddfast

// Instance norm, affine, ReLU and 2x2 average pool over feature planes: value, gradient, tangent and the tangent of the
// gradient.  See ddfast/ops/plane_block/__init__.py for the formulas.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace ddfast {

// Planes are [n, h, w, c] with channels adjacent, pooled planes [n, h/2, w/2, c] (or [n, h, w, c] without pooling).
// Parameters are float32 [n / per_model, c]; statistics and sums float32 [n, c].
struct PlaneBlock {
  int64_t n, h, w, c, per_model;
  bool pool;
  DType dtype;   // of a and p: f32 or bf16
  DType change;  // of all derivatives: dtype, or bf16
  float eps;
  const float *gamma, *beta;    // affine
  const float *dgamma, *dbeta;  // its direction
  const void *a, *da;           // planes and their direction
  const void *gp, *dgp;         // gradient of the pooled planes and its direction; dgp may be null (zero)
  float *mean, *rstd;           // of the planes: written by value, read by the others
  float *dmean, *cov;           // mean of da and mean of ahat * da: written by tangent, read by tangent_backward
  void *p, *dp;                 // pooled planes and their tangent
  void *ga, *dga;               // gradient of the planes and its tangent
  float *ggamma, *gbeta;        // gradient (or its tangent) of the affine, one row an image, to be summed by the caller
};

DDFAST_DECLARE(void plane_value(const PlaneBlock& in, int threads))
DDFAST_DECLARE(void plane_backward(const PlaneBlock& in, int threads))
DDFAST_DECLARE(void plane_tangent(const PlaneBlock& in, int threads))
DDFAST_DECLARE(void plane_tangent_backward(const PlaneBlock& in, int threads))

}  // namespace ddfast

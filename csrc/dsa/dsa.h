// Siamese augmentation of pictures and its transpose; see ddfast/ops/dsa/__init__.py for the formula.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace ddfast {

constexpr int kDsaParameters = 13;

struct DsaTensor {
  void* data;
  int64_t n, c, h, w;  // strides in elements
};

struct Dsa {
  int64_t n, c, h, w;
  DType dtype;  // f32 or f64, of both tensors
  DsaTensor in, out;
  const double* params;  // rows of kDsaParameters
  int64_t params_stride;  // 0 for the same row for all
  bool addend;
};

DDFAST_DECLARE(void dsa(const Dsa& in, int threads))
DDFAST_DECLARE(void dsa_adjoint(const Dsa& in, int threads))

}  // namespace ddfast

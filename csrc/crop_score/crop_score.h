// Loss of every crop against its image's label, and the best crop per image.  See ddfast/ops/crop_score/__init__.py.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace ddfast {

// logits: n images x m crops x classes, strides in elements, classes adjacent; loss n x m contiguous.
struct CropScoreArgs {
  const void* logits;
  DType dtype;  // f32, bf16 or f16
  int64_t n, m, classes, stride_n, stride_m;
  const int64_t* labels;
  bool literal;
  float* loss;
  float* best_loss;
  int64_t* best_index;
};

// Returns the first image whose label is out of range (nothing of that image is read or written), or -1.
DDFAST_DECLARE(int64_t crop_score(const CropScoreArgs& args, int threads))

}  // namespace ddfast

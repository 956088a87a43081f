// Cuts, resizes, normalises and places many crops; see ddfast/ops/multi_crop for the definition.
#pragma once

#include "common/dtype.h"
#include "common/isa.h"
#include "common/ragged.h"

namespace ddfast {

struct CropTarget {
  int height, width;                // of the resized crop
  int canvas_height, canvas_width;  // of one output picture; the crop sits in its middle
  float mean[3], std[3];            // of pixels in [0, 1]
  double canvas_value;
  void* out;
  int64_t batch_stride;  // elements between output pictures
  bool channels_last;    // each picture is [H][W][3] instead of [3][H][W]
  DType dtype;           // f32, bf16 or f16
};

// The boxes must have been checked.
DDFAST_DECLARE(void multi_crop(const RaggedBoxes& in, const CropTarget& target, int threads))

}  // namespace ddfast

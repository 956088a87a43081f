// Views of a batch for training: shift, strip shuffle, crop, resize, flip, mix, normalise; see ddfast/ops/augment_batch.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace ddfast {

struct AugmentBatch {
  const uint8_t* images;  // [count][height][width][3]
  int64_t count;
  int height, width, factor;
  int64_t samples;
  const int64_t* index;    // [samples]
  const int32_t* columns;  // [samples][factor]
  const int32_t* rows;     // [samples][factor]
  const int32_t* boxes;    // [samples][4] top, left, height, width
  const bool* flip;        // [samples]
  const int32_t* shift;    // [samples][2] down, right
  const int64_t* partner;  // [samples]
  const int64_t* user;     // [samples] the first sample whose partner this one is, or -1
  const int64_t* next;     // [samples] the next sample with the same partner, or -1
  const int64_t* order;    // [samples] each sample once, followed by its partner where that is still free
  int mix_box[4];          // top, left, height, width in the output
  float share, rest;       // of the own view and of the partner's, for mixup
  bool mixup;
};

struct AugmentTarget {
  int height, width;
  float mean[3], std[3];  // of pixels in [0, 1]
  void* out;              // [samples] pictures one after the other
  bool channels_last;     // each picture is [H][W][3] instead of [3][H][W]
  DType dtype;            // f32, bf16 or f16
};

// Everything must have been checked: indices in range, boxes inside their picture, the mix box inside the output.
DDFAST_DECLARE(void augment_batch(const AugmentBatch& in, const AugmentTarget& target, int threads))

}  // namespace ddfast

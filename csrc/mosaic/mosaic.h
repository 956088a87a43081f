// Cuts, resizes and tiles patches into uint8 pictures; see ddfast/ops/mosaic for the definition.
#pragma once

#include "common/isa.h"
#include "common/ragged.h"

namespace ddfast {

struct MosaicTarget {
  int size, factor;
  bool truncate;                      // RDED's stored bytes instead of rounding to nearest
  float mean[3], std[3], inverse[3];  // inverse = float(1 / std), taken in double
  uint8_t* out;                       // [count / factor^2][size][size][3]
};

// The boxes must have been checked; their number is a multiple of factor^2.
DDFAST_DECLARE(void mosaic(const RaggedBoxes& in, const MosaicTarget& target, int threads))

}  // namespace ddfast

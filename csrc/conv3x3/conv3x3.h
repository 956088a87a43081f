// Transforms of Winograd's 3x3 convolution, F(2x2, 3x3): a tile of 2x2 outputs takes 16 products a channel, not 36. The
// products themselves are matrix products over channels, one for each of the 16 positions, which the caller makes.
// See ddfast/ops/conv3x3/__init__.py for the formulas.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace ddfast {

// Planes are float32 [n, h, w, c] with channels adjacent, h and w even, c a multiple of the lanes; tiles are
// [16, n * h/2 * w/2, c] with `stride` floats from position to position.
struct Conv3x3Tiles {
  int64_t n, h, w, c, stride;
  float *planes, *tiles;
};

DDFAST_DECLARE(void conv3x3_split_input(const Conv3x3Tiles& in, int threads))     // tiles = B' d B of padded 4x4 squares d
DDFAST_DECLARE(void conv3x3_split_gradient(const Conv3x3Tiles& in, int threads))  // tiles = A g A' of 2x2 squares g
DDFAST_DECLARE(void conv3x3_join(const Conv3x3Tiles& in, int threads))            // planes = A' m A of tiles m

}  // namespace ddfast

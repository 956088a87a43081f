// Boxes cut out of a packed batch of RGB pictures (ddfast._types.RaggedImages on the Python side).
#pragma once

#include <cstdint>

namespace ddfast {

struct RaggedBoxes {
  const uint8_t* pixels;       // pictures one after the other, each height x width x 3
  int64_t total;               // bytes in pixels
  const int64_t* offsets;      // [images] first byte
  const int32_t* sizes;        // [images][2] height, width
  int64_t images;
  const int32_t* boxes;        // [count][4] top, left, height, width
  const int32_t* image_index;  // [count]
  int64_t count;
};

struct Crop {
  const uint8_t* data;  // first pixel
  int64_t row_stride;   // bytes
  int height, width;    // pixels
};

}  // namespace ddfast

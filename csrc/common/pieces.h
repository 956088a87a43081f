// Rows of bytes to rows of floats, out of one place or put together out of several.
#pragma once

#include <algorithm>

#include "common/lanes.h"

namespace ddfast {
namespace DDFAST_ISA {

// Writes whole vectors, zeros after the last byte.
inline void to_float(const uint8_t* src, int64_t bytes, float* dst) {
  int64_t c = 0;
  for (; c + kLanes <= bytes; c += kLanes) store(dst + c, widen(src + c));
  if (c == bytes) return;
  uint8_t rest[kLanes] = {};  // never read past the crop: it may be the last of the buffer
  std::memcpy(rest, src + c, static_cast<size_t>(bytes - c));
  store(dst + c, widen(rest));
}

// Writes `bytes` floats and no more, since what comes next may be there already.
inline void to_float_only(const uint8_t* src, int64_t bytes, float* dst) {
  if (bytes < kLanes) {
    for (int64_t c = 0; c < bytes; ++c) dst[c] = static_cast<float>(src[c]);
    return;
  }
  for (int64_t c = 0; c + kLanes <= bytes; c += kLanes) store(dst + c, widen(src + c));
  store(dst + bytes - kLanes, widen(src + bytes - kLanes));
}

// A crop that is not one rectangle of its picture: which source row each of its rows is, and which runs of bytes of that
// row follow each other.  -1 stands for zeros.
struct Pieces {
  struct Run {
    int64_t from, to, bytes;  // bytes within the source row, elements within the crop's row
  };

  const uint8_t* data;  // first byte of the picture
  int64_t row_stride;   // bytes
  const int64_t* row;   // [height of the crop]
  const Run* runs;
  int count;

  void row_to_float(int64_t y, float* dst) const {
    for (const Run* run = runs; run < runs + count; ++run) {
      if (row[y] < 0 || run->from < 0) std::fill(dst + run->to, dst + run->to + run->bytes, 0.0f);
      else to_float_only(data + row[y] * row_stride + run->from, run->bytes, dst + run->to);
    }
  }
};

}  // namespace DDFAST_ISA
}  // namespace ddfast

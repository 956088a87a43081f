// CUDA launcher of crop_score; arguments as in crop_score.h, all pointers on the device.
#pragma once

#include "crop_score/crop_score.h"

namespace ddfast {

// Queues the kernel on `stream` (a cudaStream_t) and returns cudaGetLastError().  A label out of range gives NaN losses.
int crop_score_cuda(const CropScoreArgs& args, void* stream);

}  // namespace ddfast

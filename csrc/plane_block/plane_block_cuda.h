// CUDA launchers of the plane_block family; arguments as in plane_block.h, all pointers on the device.
#pragma once

#include "plane_block/plane_block.h"

namespace ddfast {

enum class PlaneMethod : int { value = 0, backward = 1, tangent = 2, tangent_backward = 3 };

// Queues the kernel on `stream` (a cudaStream_t) and returns cudaGetLastError().  Channels must be a multiple of 4.
int plane_block_cuda(const PlaneBlock& in, PlaneMethod method, void* stream);

}  // namespace ddfast

// Python entry of the 3x3 convolution's transforms.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "conv3x3/conv3x3.h"

namespace ddfast {

namespace py = pybind11;

// method: 0 split of inputs, 1 split of gradients, 2 join; shape: n, h, w, c, stride.
inline void py_conv3x3_tiles(int method, std::array<int64_t, 5> shape, uintptr_t planes, uintptr_t tiles, int threads) {
  const Conv3x3Tiles in{shape[0], shape[1], shape[2], shape[3], shape[4], reinterpret_cast<float*>(planes),
                        reinterpret_cast<float*>(tiles)};
  const py::gil_scoped_release release;
  switch (method) {
    case 0: DDFAST_DISPATCH(conv3x3_split_input(in, threads)); break;
    case 1: DDFAST_DISPATCH(conv3x3_split_gradient(in, threads)); break;
    default: DDFAST_DISPATCH(conv3x3_join(in, threads));
  }
}

inline void bind_conv(py::module_& m) { m.def("conv3x3_tiles", &py_conv3x3_tiles); }

}  // namespace ddfast

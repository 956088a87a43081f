// Python entry of the plane_block family on the CPU.
#pragma once

#include "bindings/plane_args.h"

namespace ddfast {

namespace py = pybind11;

// method: 0 value, 1 backward, 2 tangent, 3 tangent of backward; the rest as in plane_args.
inline void py_plane_block(int method, std::array<int64_t, 5> shape, bool pool, std::array<int, 2> dtypes, float eps,
                           const std::map<std::string, uintptr_t>& addresses, int threads) {
  const PlaneBlock in = plane_args(shape, pool, dtypes, eps, addresses);
  const py::gil_scoped_release release;
  switch (method) {
    case 0: DDFAST_DISPATCH(plane_value(in, threads)); break;
    case 1: DDFAST_DISPATCH(plane_backward(in, threads)); break;
    case 2: DDFAST_DISPATCH(plane_tangent(in, threads)); break;
    default: DDFAST_DISPATCH(plane_tangent_backward(in, threads));
  }
}

inline void bind_plane(py::module_& m) { m.def("plane_block", &py_plane_block); }

}  // namespace ddfast

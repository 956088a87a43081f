// Python entries of mmd and its gradient.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "mmd/mmd.h"

namespace ddfast {

namespace py = pybind11;

// Address, points of a class, strides of classes and points.
using MmdAddress = std::array<uintptr_t, 4>;

template <class T>
MmdPoints<T> mmd_points(const MmdAddress& p) {
  return {reinterpret_cast<T*>(p[0]), static_cast<int64_t>(p[1]), static_cast<int64_t>(p[2]), static_cast<int64_t>(p[3])};
}

inline void py_mmd(int64_t classes, int64_t features, MmdAddress x, MmdAddress y, uintptr_t sigmas, int64_t bandwidths,
                   bool unbiased, bool real_term, int64_t rows, uintptr_t value, uintptr_t weights, int threads) {
  const Mmd args{classes, features, mmd_points<const float>(x), mmd_points<const float>(y),
                 reinterpret_cast<const float*>(sigmas), bandwidths, unbiased, real_term, rows,
                 reinterpret_cast<float*>(value), reinterpret_cast<float*>(weights)};
  const py::gil_scoped_release release;
  DDFAST_DISPATCH(mmd(args, threads));
}

inline void py_mmd_backward(int64_t classes, int64_t features, MmdAddress x, MmdAddress y, uintptr_t upstream,
                            uintptr_t weights, MmdAddress grad_x, MmdAddress grad_y, int threads) {
  const MmdGradient args{classes, features, mmd_points<const float>(x), mmd_points<const float>(y),
                         reinterpret_cast<const float*>(upstream), reinterpret_cast<const float*>(weights),
                         mmd_points<float>(grad_x), mmd_points<float>(grad_y)};
  const py::gil_scoped_release release;
  DDFAST_DISPATCH(mmd_backward(args, threads));
}

inline void bind_mmd(py::module_& m) {
  m.def("mmd", &py_mmd);
  m.def("mmd_backward", &py_mmd_backward);
}

}  // namespace ddfast

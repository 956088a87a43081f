// Python entry of dsa and dsa_adjoint.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "dsa/dsa.h"

namespace ddfast {

namespace py = pybind11;

// Strides in elements; rows: of params, 1 for the same on every picture.
inline void py_dsa(bool adjoint, std::array<int64_t, 4> shape, int dtype, uintptr_t in, std::array<int64_t, 4> in_strides,
                   uintptr_t out, std::array<int64_t, 4> out_strides, uintptr_t params, int64_t rows, bool addend,
                   int threads) {
  const auto tensor = [](uintptr_t address, const std::array<int64_t, 4>& s) {
    return DsaTensor{reinterpret_cast<void*>(address), s[0], s[1], s[2], s[3]};
  };
  const Dsa args{shape[0], shape[1], shape[2], shape[3], static_cast<DType>(dtype), tensor(in, in_strides),
                 tensor(out, out_strides), reinterpret_cast<const double*>(params), rows == 1 ? 0 : kDsaParameters,
                 addend};
  const py::gil_scoped_release release;
  if (adjoint) DDFAST_DISPATCH(dsa_adjoint(args, threads));
  else DDFAST_DISPATCH(dsa(args, threads));
}

inline void bind_dsa(py::module_& m) { m.def("dsa", &py_dsa); }

}  // namespace ddfast

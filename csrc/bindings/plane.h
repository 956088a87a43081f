// Python entry of the plane_block family.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <map>
#include <string>

#include "plane_block/plane_block.h"

namespace ddfast {

namespace py = pybind11;

// method: 0 value, 1 backward, 2 tangent, 3 tangent of backward; shape: n, h, w, c, images a model; addresses by the
// names of PlaneBlock's members, those not given are null.
inline void py_plane_block(int method, std::array<int64_t, 5> shape, bool pool, int dtype, float eps,
                           const std::map<std::string, uintptr_t>& addresses, int threads) {
  const auto at = [&](const char* name) {
    const auto found = addresses.find(name);
    return found == addresses.end() ? nullptr : reinterpret_cast<void*>(found->second);
  };
  const auto row = [&](const char* name) { return static_cast<float*>(at(name)); };
  const PlaneBlock in{shape[0], shape[1], shape[2], shape[3], shape[4], pool, static_cast<DType>(dtype), eps,
                      row("gamma"), row("beta"), row("dgamma"), row("dbeta"), at("a"), at("da"), at("gp"), at("dgp"),
                      row("mean"), row("rstd"), row("dmean"), row("cov"), at("p"), at("dp"), at("ga"), at("dga"),
                      row("ggamma"), row("gbeta")};
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

// Python's arguments of the plane_block family, for the CPU and the CUDA module.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <map>
#include <string>

#include "plane_block/plane_block.h"

namespace ddfast {

// shape: n, h, w, c, images a model; dtypes: of planes and derivatives; addresses by the names of PlaneBlock's members, those not given are null.
inline PlaneBlock plane_args(std::array<int64_t, 5> shape, bool pool, std::array<int, 2> dtypes, float eps,
                             const std::map<std::string, uintptr_t>& addresses) {
  const auto at = [&](const char* name) {
    const auto found = addresses.find(name);
    return found == addresses.end() ? nullptr : reinterpret_cast<void*>(found->second);
  };
  const auto row = [&](const char* name) { return static_cast<float*>(at(name)); };
  return {shape[0], shape[1], shape[2], shape[3], shape[4], pool, static_cast<DType>(dtypes[0]), static_cast<DType>(dtypes[1]), eps,
          row("gamma"), row("beta"), row("dgamma"), row("dbeta"), at("a"), at("da"), at("gp"), at("dgp"),
          row("mean"), row("rstd"), row("dmean"), row("cov"), at("p"), at("dp"), at("ga"), at("dga"),
          row("ggamma"), row("gbeta")};
}

}  // namespace ddfast

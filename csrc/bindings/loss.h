// Python entry of soft_label_loss.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "soft_label_loss/soft_label_loss.h"

namespace ddfast {

namespace py = pybind11;

// shape: rows, classes, k; strides in elements; 0 for an address that is not there; weights: soft, mean square, hard.
inline int64_t py_soft_label_loss(std::array<int64_t, 3> shape, uintptr_t logits, int dtype, int64_t stride, uintptr_t values,
                                  int values_dtype, int64_t values_stride, uintptr_t indices, uintptr_t tail,
                                  uintptr_t labels, float temperature, std::array<float, 3> weights, bool entropy,
                                  uintptr_t rows, uintptr_t grad, int threads) {
  SoftLabelLoss args;
  args.logits = reinterpret_cast<const void*>(logits);
  args.dtype = static_cast<DType>(dtype);
  args.n = shape[0], args.classes = shape[1], args.k = shape[2];
  args.stride = stride;
  args.values = reinterpret_cast<const void*>(values);
  args.values_dtype = static_cast<DType>(values_dtype);
  args.values_stride = values_stride;
  args.indices = reinterpret_cast<const int64_t*>(indices);
  args.tail = reinterpret_cast<const float*>(tail);
  args.labels = reinterpret_cast<const int64_t*>(labels);
  args.temperature = temperature;
  args.soft_weight = weights[0], args.mse_weight = weights[1], args.gt_weight = weights[2];
  args.entropy = entropy;
  args.rows = reinterpret_cast<float*>(rows);
  args.grad = reinterpret_cast<void*>(grad);
  const py::gil_scoped_release release;
  return DDFAST_DISPATCH(soft_label_loss(args, threads));
}

inline void bind_loss(py::module_& m) { m.def("soft_label_loss", &py_soft_label_loss); }

}  // namespace ddfast

// Python entries of the kernels that cut boxes out of packed pictures.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "mosaic/mosaic.h"
#include "multi_crop/multi_crop.h"

namespace ddfast {

namespace py = pybind11;

// First row whose box does not lie in its picture, or whose picture does not lie in the pixels; -1 when there is none.
inline int64_t first_bad_box(const RaggedBoxes& in) {
  for (int64_t i = 0; i < in.count; ++i) {
    const int64_t image = in.image_index[i];
    if (image < 0 || image >= in.images) return i;
    const int64_t height = in.sizes[2 * image], width = in.sizes[2 * image + 1], start = in.offsets[image];
    const int64_t top = in.boxes[4 * i], left = in.boxes[4 * i + 1], h = in.boxes[4 * i + 2], w = in.boxes[4 * i + 3];
    if (top < 0 || left < 0 || h < 1 || w < 1 || top + h > height || left + w > width) return i;
    if (start < 0 || start > in.total || 3 * height * width > in.total - start) return i;
  }
  return -1;
}

// (pixels, total, offsets, sizes, images, boxes, image_index, count): addresses and lengths.
using RaggedTuple = std::tuple<uintptr_t, int64_t, uintptr_t, uintptr_t, int64_t, uintptr_t, uintptr_t, int64_t>;

inline RaggedBoxes ragged_boxes(const RaggedTuple& t) {
  const RaggedBoxes in{reinterpret_cast<const uint8_t*>(std::get<0>(t)), std::get<1>(t),
                       reinterpret_cast<const int64_t*>(std::get<2>(t)), reinterpret_cast<const int32_t*>(std::get<3>(t)),
                       std::get<4>(t), reinterpret_cast<const int32_t*>(std::get<5>(t)),
                       reinterpret_cast<const int32_t*>(std::get<6>(t)), std::get<7>(t)};
  const int64_t bad = first_bad_box(in);
  if (bad >= 0)
    throw py::value_error("boxes: row " + std::to_string(bad) + " does not lie inside its picture (image_index " +
                          std::to_string(in.image_index[bad]) + "), or that picture does not lie inside pixels");
  return in;
}

inline void py_multi_crop(const RaggedTuple& ragged, std::array<int, 2> size, std::array<int, 2> canvas,
                          std::array<float, 3> mean, std::array<float, 3> std, double canvas_value, uintptr_t out,
                          int64_t batch_stride, bool channels_last, int dtype, int threads) {
  const RaggedBoxes in = ragged_boxes(ragged);
  const CropTarget target{size[0], size[1], canvas[0], canvas[1], {mean[0], mean[1], mean[2]}, {std[0], std[1], std[2]},
                          canvas_value, reinterpret_cast<void*>(out), batch_stride, channels_last,
                          static_cast<DType>(dtype)};
  py::gil_scoped_release release;
  DDFAST_DISPATCH(multi_crop(in, target, threads));
}

inline void py_mosaic(const RaggedTuple& ragged, int size, int factor, bool truncate, std::array<double, 3> mean,
                      std::array<double, 3> std, uintptr_t out, int threads) {
  const RaggedBoxes in = ragged_boxes(ragged);
  MosaicTarget target{size, factor, truncate, {}, {}, {}, reinterpret_cast<uint8_t*>(out)};
  for (int c = 0; c < 3; ++c) {
    target.mean[c] = static_cast<float>(mean[c]);
    target.std[c] = static_cast<float>(std[c]);
    target.inverse[c] = static_cast<float>(1.0 / std[c]);
  }
  py::gil_scoped_release release;
  DDFAST_DISPATCH(mosaic(in, target, threads));
}

inline void bind_crops(py::module_& m) {
  m.def("multi_crop", &py_multi_crop);
  m.def("mosaic", &py_mosaic);
}

}  // namespace ddfast

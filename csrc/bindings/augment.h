// Python entry of augment_batch: checks the draws and turns the partners around.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>
#include <vector>

#include "augment_batch/augment_batch.h"

namespace ddfast {

namespace py = pybind11;

// What is wrong with sample i's draws; null when nothing is.
inline const char* wrong_draw(const AugmentBatch& in, int64_t i) {
  if (in.index[i] < 0 || in.index[i] >= in.count) return "index: out of range";
  if (in.partner[i] < 0 || in.partner[i] >= in.samples) return "partner: out of range";
  const int32_t* box = in.boxes + 4 * i;
  if (box[0] < 0 || box[1] < 0 || box[2] < 1 || box[3] < 1 || box[2] > in.height - box[0] || box[3] > in.width - box[1])
    return "boxes: not inside the picture";
  for (int k = 0; k < in.factor; ++k) {
    const int32_t column = in.columns[i * in.factor + k], row = in.rows[i * in.factor + k];
    if (column < 0 || column >= in.factor) return "columns: out of range";
    if (row < 0 || row >= in.factor) return "rows: out of range";
  }
  return nullptr;
}

// Who uses each sample as a partner, and an order that follows partners.
struct Turned {
  std::vector<int64_t> user, next, order;

  Turned(const int64_t* partner, int64_t n) : user(n, -1), next(n, -1) {
    for (int64_t i = n - 1; i >= 0; --i) {
      next[i] = user[partner[i]];
      user[partner[i]] = i;
    }
    std::vector<bool> taken(n);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t k = i; !taken[k]; k = partner[k]) {
        taken[k] = true;
        order.push_back(k);
      }
  }
};

// images: (address, count, height, width); draws: (samples, factor, index, columns, rows, boxes, flip, shift, partner).
using ImagesTuple = std::tuple<uintptr_t, int64_t, int, int>;
using DrawsTuple = std::tuple<int64_t, int, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t>;

inline void py_augment_batch(const ImagesTuple& images, const DrawsTuple& draws, std::array<int, 4> mix_box, double share,
                             bool mixup, std::array<int, 2> size, std::array<float, 3> mean, std::array<float, 3> std,
                             uintptr_t out, bool channels_last, int dtype, int threads) {
  const auto [pixels, count, height, width] = images;
  const auto [samples, factor, index, columns, rows, boxes, flip, shift, partner] = draws;
  AugmentBatch in{};
  in.images = reinterpret_cast<const uint8_t*>(pixels);
  in.count = count, in.height = height, in.width = width, in.factor = factor, in.samples = samples;
  in.index = reinterpret_cast<const int64_t*>(index);
  in.columns = reinterpret_cast<const int32_t*>(columns);
  in.rows = reinterpret_cast<const int32_t*>(rows);
  in.boxes = reinterpret_cast<const int32_t*>(boxes);
  in.flip = reinterpret_cast<const bool*>(flip);
  in.shift = reinterpret_cast<const int32_t*>(shift);
  in.partner = reinterpret_cast<const int64_t*>(partner);
  for (int64_t i = 0; i < samples; ++i)
    if (const char* wrong = wrong_draw(in, i)) throw py::value_error(wrong + (" at sample " + std::to_string(i)));
  const bool inside = mix_box[0] >= 0 && mix_box[1] >= 0 && mix_box[2] >= 0 && mix_box[3] >= 0 &&
                      mix_box[2] <= size[0] - mix_box[0] && mix_box[3] <= size[1] - mix_box[1];
  if (!inside) throw py::value_error("mix_box: not inside the view");
  const Turned turned(in.partner, samples);
  in.user = turned.user.data(), in.next = turned.next.data(), in.order = turned.order.data();
  for (int k = 0; k < 4; ++k) in.mix_box[k] = mix_box[k];
  in.share = static_cast<float>(share), in.rest = static_cast<float>(1.0 - share), in.mixup = mixup;
  const AugmentTarget target{size[0], size[1], {mean[0], mean[1], mean[2]}, {std[0], std[1], std[2]},
                             reinterpret_cast<void*>(out), channels_last, static_cast<DType>(dtype)};
  py::gil_scoped_release release;
  DDFAST_DISPATCH(augment_batch(in, target, threads));
}

inline void bind_augment(py::module_& m) { m.def("augment_batch", &py_augment_batch); }

}  // namespace ddfast

#include "multi_crop/multi_crop.h"

#include "common/antialias.h"
#include "common/parallel.h"
#include "common/writers.h"

namespace ddfast {
namespace DDFAST_ISA {
namespace {

// Everything but the crop: `rows` x `cols` elements of one plane (or of packed triples, counted in elements).
template <class T>
void write_frame(T* out, int64_t rows, int64_t cols, int64_t top, int64_t left, int64_t height, int64_t width, T value) {
  std::fill(out, out + top * cols + (height ? left : 0), value);
  for (int64_t y = top; y + 1 < top + height; ++y)
    std::fill(out + y * cols + left + width, out + (y + 1) * cols + left, value);
  std::fill(out + (top + height - 1) * cols + left + width, out + rows * cols, value);
}

template <class T>
void crop_one(const RaggedBoxes& in, const CropTarget& t, const Affine& affine, int64_t i, Resizer& resizer) {
  const int64_t rows = t.canvas_height, cols = t.canvas_width, plane = rows * cols;
  const int64_t top = (rows - t.height) / 2, left = (cols - t.width) / 2;
  T* out = static_cast<T*>(t.out) + i * t.batch_stride;
  resizer.prepare(crop_of(in, i), t.height, t.width);
  const T frame = convert<T>(static_cast<float>(t.canvas_value));
  if (t.channels_last) {
    if (rows != t.height || cols != t.width)
      write_frame(out, rows, 3 * cols, top, 3 * left, t.height, 3 * t.width, frame);
#ifdef __AVX512F__
    if (resizer.run_planar([&](int y, const float* row, int64_t pitch) {
          write_triples(row, pitch, t.width, affine, out + 3 * ((top + y) * cols + left));
        }))
      return;
#endif
    resizer.run([&](int y, const float* row) {
      write_packed(row, t.width, affine, out + 3 * ((top + y) * cols + left));
    });
    return;
  }
  if (rows != t.height || cols != t.width)
    for (int c = 0; c < 3; ++c) write_frame(out + c * plane, rows, cols, top, left, t.height, t.width, frame);
#ifdef __AVX512F__
  if (resizer.run_planar([&](int y, const float* row, int64_t pitch) {
        write_planes(row, pitch, t.width, affine, out + (top + y) * cols + left, plane);
      }))
    return;
#endif
  resizer.run([&](int y, const float* row) {
    write_planar(row, t.width, affine, out + (top + y) * cols + left, plane);
  });
}

template <class T>
void crop_all(const RaggedBoxes& in, const CropTarget& target, int threads) {
  const Affine affine(target.mean, target.std);
  parallel_for(in.count, 1, threads, [&](int64_t begin, int64_t end) {
    static thread_local Resizer own;
    Resizer& resizer = hidden(own);
    for (int64_t i = begin; i < end; ++i) crop_one<T>(in, target, affine, i, resizer);
  });
}

}  // namespace

void multi_crop(const RaggedBoxes& in, const CropTarget& target, int threads) {
  if (target.dtype == DType::bf16) return crop_all<Bf16>(in, target, threads);
  if (target.dtype == DType::f16) return crop_all<F16>(in, target, threads);
  crop_all<float>(in, target, threads);
}

}  // namespace DDFAST_ISA
}  // namespace ddfast

// Antialiased bilinear resize of a uint8 RGB crop with float weights, as torch's interpolate(antialias=True) defines it.
//
// The vertical pass comes first: it reads whole rows, so its vectors are full whatever the number of channels, and each
// source row is turned into floats once.  The horizontal pass then works on short rows with one 4-lane vector per pixel
// (red, green, blue and a lane to ignore) for four rows at a time.
// Everything here lives in the namespace of the instruction set it is compiled for, so that objects never share code.
#pragma once

#ifndef DDFAST_ISA
#error "compile kernels with -DDDFAST_ISA=<name> (setup.py does)"
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#ifdef DDFAST_X86
#include <immintrin.h>
#endif

#include "common/ragged.h"

namespace ddfast {
namespace DDFAST_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Wide __attribute__((vector_size(4 * kLanes)));
typedef float Pixel __attribute__((vector_size(16)));

constexpr int kStrip = 8;  // output rows between the two passes; the strip stays in the first-level cache

template <class V>
inline V load(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof(V));
  return v;
}

template <class V>
inline void store(void* p, V v) {
  std::memcpy(p, &v, sizeof(V));
}

// Grow-only scratch memory, zero when new: page faults of fresh blocks cost more than the work on them.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }

  template <class T>
  T* get(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 127) / 64 * 64;
    if (bytes > size_) {
      std::free(data_);
      size_ = 0;
      data_ = std::aligned_alloc(64, bytes);
      if (!data_) throw std::bad_alloc();
      std::memset(data_, 0, bytes);
      size_ = bytes;
    }
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

inline Crop crop_of(const RaggedBoxes& in, int64_t i) {
  const int32_t* box = in.boxes + 4 * i;
  const int64_t image = in.image_index[i];
  const int64_t row_stride = int64_t{3} * in.sizes[2 * image + 1];
  return {in.pixels + in.offsets[image] + box[0] * row_stride + int64_t{3} * box[1], row_stride, box[2], box[3]};
}

// Filter of one axis: output i is sum over k < count[i] of weight[i * taps + k] * input[first[i] + k].
// Weights beyond count[i] are 0, so that loops may run over all taps.
struct Axis {
  int in = 0, out = 0, taps = 0;
  int32_t* first = nullptr;
  int32_t* count = nullptr;
  float* weight = nullptr;
  // Weights by source row r instead: pairs[2 * r] in the output whose segment holds r, pairs[2 * r + 1] in the next one.
  // Segment i is [end(i - 1), end(i)).  Null unless no row reaches a third output, which holds when shrinking.
  float* pairs = nullptr;

  int end(int i) const { return i < 0 ? 0 : first[i] + count[i]; }

  // The mixture of float and double below is torch's: other roundings move the centres of large crops by more than 1e-5.
  void prepare(int in_size, int out_size) {
    if (in == in_size && out == out_size) return;
    in = in_size;
    out = out_size;
    const float scale = static_cast<float>(in) / static_cast<float>(out);
    const float support = scale >= 1.0f ? scale : 1.0f;
    const float inverse = scale >= 1.0f ? static_cast<float>(1.0 / scale) : 1.0f;
    const int most = static_cast<int>(std::ceil(support)) * 2 + 1;
    first = ranges_.get<int32_t>(int64_t{2} * out);
    count = first + out;
    taps = 1;
    for (int i = 0; i < out; ++i) {
      const float centre = static_cast<float>(scale * (i + 0.5));
      const auto low = static_cast<int64_t>((centre - support) + 0.5);
      const auto high = static_cast<int64_t>((centre + support) + 0.5);
      first[i] = static_cast<int32_t>(std::max<int64_t>(low, 0));
      count[i] = std::clamp(static_cast<int>(std::min<int64_t>(high, in)) - first[i], 0, most);
      taps = std::max(taps, count[i]);
    }
    weight = weights_.get<float>(int64_t{out} * taps + kLanes);
    for (int i = 0; i < out; ++i) fill(i, static_cast<float>(scale * (i + 0.5)), inverse);
    pairs = nullptr;
  }

  void pair_up() {
    if (pairs || in < out) return;
    float* by_row = pairs_.get<float>(int64_t{2} * in);
    std::fill(by_row, by_row + int64_t{2} * in, 0.0f);
    for (int i = 0; i < out; ++i) {
      if (i > 1 && first[i] < end(i - 2)) return;
      for (int k = 0; k < count[i]; ++k)
        by_row[2 * (first[i] + k) + (first[i] + k < end(i - 1))] = weight[int64_t{i} * taps + k];
    }
    pairs = by_row;
  }

 private:
  void fill(int i, float centre, float inverse) {
    float* w = weight + int64_t{i} * taps;
    float total = 0.0f;
    for (int k = 0; k < taps; ++k) {
      const auto x = static_cast<float>(((static_cast<float>(first[i] + k) - centre) + 0.5) * inverse);
      const float height = 1.0f - std::fabs(x);
      w[k] = k < count[i] && height > 0.0f ? height : 0.0f;
    }
    for (int k = 0; k < taps; ++k) total += w[k];
    if (total == 0.0f) return;
    for (int k = 0; k < taps; ++k) w[k] /= total;
  }

  Scratch ranges_, weights_, pairs_;
};

// Output i of an axis with the roundings of torch's AVX2 and AVX-512 builds (seen bit by bit in 2.15): the first term,
// then groups of four products rounded before they are added, then fused multiply-adds.
template <class Input>
inline float torch_sum(const Axis& axis, int i, const Input& input) {
  const float* w = axis.weight + int64_t{i} * axis.taps;
  const int count = axis.count[i], grouped = 1 + (count - 1) / 4 * 4;
  float sum = input(0) * w[0];
  for (int k = 1; k < grouped; ++k) {
    float product = input(k) * w[k];
#ifdef DDFAST_X86
    asm("" : "+x"(product));  // keeps the compiler from fusing the addition
#else
    asm("" : "+m"(product));
#endif
    sum += product;
  }
  for (int k = std::max(grouped, 1); k < count; ++k) sum = std::fma(input(k), w[k], sum);
  return sum;
}

// dst[c] = sum over k < count of weight[k] * rows[k][c] for c < span, a multiple of kLanes.
inline void weighted_rows(const float* const* rows, const float* weight, int count, int64_t span, float* dst) {
  int64_t c = 0;
  for (; c + 4 * kLanes <= span; c += 4 * kLanes) {
    Wide a{}, b{}, d{}, e{};
    for (int k = 0; k < count; ++k) {
      const float* p = rows[k] + c;
      const Wide w = weight[k] - Wide{};
      a += w * load<Wide>(p);
      b += w * load<Wide>(p + kLanes);
      d += w * load<Wide>(p + 2 * kLanes);
      e += w * load<Wide>(p + 3 * kLanes);
    }
    store(dst + c, a);
    store(dst + c + kLanes, b);
    store(dst + c + 2 * kLanes, d);
    store(dst + c + 3 * kLanes, e);
  }
  for (; c < span; c += kLanes) {
    Wide a{};
    for (int k = 0; k < count; ++k) a += (weight[k] - Wide{}) * load<Wide>(rows[k] + c);
    store(dst + c, a);
  }
}

// Four rows at once: dst[r][4 * x + lane] = sum over k < taps of weight * rows[r][3 * (first + k) + lane].
template <int kTaps>
inline void weighted_pixels(const float* rows, int64_t stride, const Axis& axis, float* dst, int64_t dst_stride) {
  const int taps = kTaps ? kTaps : axis.taps;
  for (int x = 0; x < axis.out; ++x, dst += 4) {
    const float* w = axis.weight + int64_t{x} * taps;
    const float *p = rows + int64_t{3} * axis.first[x], *q = p + stride, *r = q + stride, *s = r + stride;
    const Pixel w0 = w[0] - Pixel{};
    Pixel a = w0 * load<Pixel>(p), b = w0 * load<Pixel>(q), c = w0 * load<Pixel>(r), d = w0 * load<Pixel>(s);
    for (int k = 1; k < taps; ++k) {
      const Pixel wk = w[k] - Pixel{};
      a += wk * load<Pixel>(p + 3 * k);
      b += wk * load<Pixel>(q + 3 * k);
      c += wk * load<Pixel>(r + 3 * k);
      d += wk * load<Pixel>(s + 3 * k);
    }
    store(dst, a);
    store(dst + dst_stride, b);
    store(dst + 2 * dst_stride, c);
    store(dst + 3 * dst_stride, d);
  }
}

inline void weighted_pixels_any(const float* rows, int64_t stride, const Axis& axis, float* dst, int64_t dst_stride) {
  switch (axis.taps) {
    case 2: return weighted_pixels<2>(rows, stride, axis, dst, dst_stride);
    case 3: return weighted_pixels<3>(rows, stride, axis, dst, dst_stride);
    case 4: return weighted_pixels<4>(rows, stride, axis, dst, dst_stride);
    case 5: return weighted_pixels<5>(rows, stride, axis, dst, dst_stride);
    case 6: return weighted_pixels<6>(rows, stride, axis, dst, dst_stride);
    case 7: return weighted_pixels<7>(rows, stride, axis, dst, dst_stride);
    case 8: return weighted_pixels<8>(rows, stride, axis, dst, dst_stride);
    default: return weighted_pixels<0>(rows, stride, axis, dst, dst_stride);
  }
}

// kLanes bytes to floats; gcc 12 takes __builtin_convertvector apart lane by lane here, and warns of the undefined
// pass-through of the unmasked AVX-512 intrinsics.
inline Wide widen(const uint8_t* p) {
#if defined(__AVX512F__)
  const __m512i wide = _mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm512_maskz_cvtepi32_ps(0xffff, wide);
#elif defined(__AVX2__)
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  return Wide{static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]), static_cast<float>(p[3])};
#endif
}

inline void to_float(const uint8_t* src, int64_t bytes, float* dst) {
  int64_t c = 0;
  for (; c + kLanes <= bytes; c += kLanes) store(dst + c, widen(src + c));
  if (c == bytes) return;
  uint8_t rest[kLanes] = {};  // never read past the crop: it may be the last of the buffer
  std::memcpy(rest, src + c, static_cast<size_t>(bytes - c));
  store(dst + c, widen(rest));
}

// Rows [begin, end) of the vertical pass for kBlock columns of bytes: each byte is turned into a float once and added to
// the two outputs it belongs to.  Same sums in the same order as weighted_rows.
constexpr int kBlock = 4 * kLanes;

inline void paired_rows(const uint8_t* src, int64_t src_stride, const Axis& axis, int begin, int end, float* dst,
                        int64_t dst_stride) {
  int row = axis.first[begin];
  src += row * src_stride;
  Wide a{}, b{}, c{}, d{};
  const float* head = axis.weight + int64_t{begin} * axis.taps;
  // The hardware does not foresee a walk down one column block, which costs up to half of the time on a picture that has
  // left the second-level cache; so fetch the next strip's rows meanwhile (a prefetch may leave the picture).
  const int64_t ahead = (axis.end(end - 1) - row) * src_stride;
  for (; row < axis.end(begin - 1); ++row, ++head, src += src_stride) {
    a += *head * widen(src);
    b += *head * widen(src + kLanes);
    c += *head * widen(src + 2 * kLanes);
    d += *head * widen(src + 3 * kLanes);
  }
  for (int y = begin; y < end; ++y, dst += dst_stride) {
    Wide e{}, f{}, g{}, h{};
    for (const int stop = axis.end(y); row < stop; ++row, src += src_stride) {
      __builtin_prefetch(src + ahead);
      const Wide now = axis.pairs[2 * row] - Wide{}, next = axis.pairs[2 * row + 1] - Wide{};
      Wide x = widen(src);
      a += now * x, e += next * x;
      x = widen(src + kLanes);
      b += now * x, f += next * x;
      x = widen(src + 2 * kLanes);
      c += now * x, g += next * x;
      x = widen(src + 3 * kLanes);
      d += now * x, h += next * x;
    }
    store(dst, a);
    store(dst + kLanes, b);
    store(dst + 2 * kLanes, c);
    store(dst + 3 * kLanes, d);
    a = e, b = f, c = g, d = h;
  }
}

// Resizes one crop after another; keeps its scratch and the filters of the last size.
class Resizer {
 public:
  void prepare(const Crop& crop, int out_height, int out_width) {
    crop_ = crop;
    rows_.prepare(crop.height, out_height);
    rows_.pair_up();
    square_ = crop.height == crop.width && out_height == out_width;
    if (!square_) cols_.prepare(crop.width, out_width);
  }

  // sink(y, row) with row[4 * x + channel] in grey levels (0 to 255, not rounded), y ascending.
  template <class Sink>
  void run(const Sink& sink) {
    const Axis& cols = columns();
    const int64_t bytes = int64_t{3} * crop_.width;
    const int64_t span = (bytes + kLanes - 1) / kLanes * kLanes;
    // Pixels under zero weights are read, so they must exist; rows start on cache lines.
    const int64_t stride = (span + 3 * cols.taps + 1 + 15) / 16 * 16;
    const bool paired = rows_.pairs && bytes >= kBlock;
    float* ring = paired ? nullptr : ring_.get<float>(stride * rows_.taps);
    float* strip = strip_.get<float>(stride * kStrip);
    const int64_t out_stride = int64_t{4} * cols.out;
    float* done = done_.get<float>(out_stride * 4);
    for (int y = 0, next = 0; y < rows_.out; y += kStrip) {
      const int end = std::min(y + kStrip, rows_.out);
      if (paired) {
        for (int64_t c = 0; c < bytes; c += kBlock) {
          const int64_t from = std::min(c, bytes - kBlock);  // the last block overlaps: never read past the crop
          paired_rows(crop_.data + from, crop_.row_stride, rows_, y, end, strip + from, stride);
        }
      } else {
        next = ring_rows(y, end, next, bytes, ring, strip, stride);
      }
      for (int r = 0; r < end - y; ++r) {
        if (r % 4 == 0) weighted_pixels_any(strip + r * stride, stride, cols, done, out_stride);
        sink(y + r, done + r % 4 * out_stride);
      }
    }
  }

  int taps() const { return rows_.taps + columns().taps; }

  // One value in [0, 1] with torch's own order of operations: horizontal pass first, pixels divided by 255 before it.
  float exact(int y, int x, int channel) const {
    const Axis& cols = columns();
    const uint8_t* p = crop_.data + rows_.first[y] * crop_.row_stride + int64_t{3} * cols.first[x] + channel;
    const auto across = [&](int j) {
      const uint8_t* q = p + j * crop_.row_stride;
      return torch_sum(cols, x, [q](int k) { return static_cast<float>(q[3 * k]) / 255.0f; });
    };
    return torch_sum(rows_, y, across);
  }

 private:
  // The general vertical pass: source rows become floats in a ring of as many rows as an output needs.
  int ring_rows(int begin, int end, int next, int64_t bytes, float* ring, float* strip, int64_t stride) {
    const float** taps = pointers_.get<const float*>(rows_.taps);
    const int64_t span = (bytes + kLanes - 1) / kLanes * kLanes;
    for (int y = begin; y < end; ++y, strip += stride) {
      const int first = rows_.first[y], count = rows_.count[y];
      for (next = std::max(next, first); next < first + count; ++next)
        to_float(crop_.data + next * crop_.row_stride, bytes, ring + next % rows_.taps * stride);
      for (int k = 0; k < count; ++k) taps[k] = ring + (first + k) % rows_.taps * stride;
      weighted_rows(taps, rows_.weight + int64_t{y} * rows_.taps, count, span, strip);
    }
    return next;
  }

  const Axis& columns() const { return square_ ? rows_ : cols_; }

  Crop crop_{};
  Axis rows_, cols_;
  bool square_ = false;
  Scratch ring_, strip_, done_, pointers_;
};

}  // namespace DDFAST_ISA
}  // namespace ddfast

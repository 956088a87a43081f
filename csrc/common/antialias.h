// Antialiased bilinear resize of a uint8 RGB crop with float weights, as torch's interpolate(antialias=True) has it.
//
// The vertical pass comes first: it reads whole rows, so its vectors are full whatever the number of channels, and each
// source row is turned into floats once.  The horizontal pass then works on short rows with one 4-lane vector per pixel
// (red, green, blue and a lane to ignore) for four rows at a time; with AVX-512 there is a faster one (planar.h) for
// crops that shrink less than about 3.5 times.
// Everything here lives in the namespace of the instruction set it is compiled for, so that objects never share code.
#pragma once

#include "common/axis.h"
#include "common/pieces.h"
#include "common/planar.h"
#include "common/ragged.h"

namespace ddfast {
namespace DDFAST_ISA {

constexpr int kStrip = 8;  // output rows between the two passes; the strip stays in the first-level cache

inline Crop crop_of(const RaggedBoxes& in, int64_t i) {
  const int32_t* box = in.boxes + 4 * i;
  const int64_t image = in.image_index[i];
  const int64_t row_stride = int64_t{3} * in.sizes[2 * image + 1];
  return {in.pixels + in.offsets[image] + box[0] * row_stride + int64_t{3} * box[1], row_stride, box[2], box[3]};
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
    Pixel a{}, b{}, c{}, d{};  // from zero, so that the compiler has one order of fused additions to choose
    for (int k = 0; k < taps; ++k) {
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

// Rows [begin, end) of the vertical pass for kVectors vectors of columns: each byte is turned into a float once and
// added to the two outputs it belongs to.  Same sums in the same order as weighted_rows.  Wide blocks spread the cost
// of the varying row counts, which the processor foresees badly; two sums a vector must fit the registers.
constexpr int kBlock = (kLanes == 16 ? 8 : 4) * kLanes;

template <int kVectors>
inline void paired_rows(const uint8_t* src, int64_t src_stride, const Axis& axis, int begin, int end, float* dst,
                        int64_t dst_stride) {
  int row = axis.first[begin];
  src += row * src_stride;
  Wide now[kVectors] = {}, next[kVectors];
  const float* head = axis.weight + int64_t{begin} * axis.taps;
  // The hardware does not foresee a walk down one column block, which costs up to half of the time on a picture that
  // has left the second-level cache; so fetch the next strip's rows meanwhile (a prefetch may leave the picture).
  const int64_t ahead = (axis.end(end - 1) - row) * src_stride;
  for (; row < axis.end(begin - 1); ++row, ++head, src += src_stride)
    for (int i = 0; i < kVectors; ++i) now[i] += *head * widen(src + i * kLanes);
  for (int y = begin; y < end; ++y, dst += dst_stride) {
    for (int i = 0; i < kVectors; ++i) next[i] = Wide{};
    for (const int stop = axis.end(y); row < stop; ++row, src += src_stride) {
      for (int i = 0; i < kVectors * kLanes; i += 64) __builtin_prefetch(src + i + ahead);
      const Wide w = axis.pairs[2 * row] - Wide{}, v = axis.pairs[2 * row + 1] - Wide{};
      for (int i = 0; i < kVectors; ++i) {
        const Wide x = widen(src + i * kLanes);
        now[i] += w * x;
        next[i] += v * x;
      }
    }
    for (int i = 0; i < kVectors; ++i) {
      store(dst + i * kLanes, now[i]);
      now[i] = next[i];
    }
  }
}

// Resizes one crop after another; keeps its scratch and the filters of the last size.
class Resizer {
 public:
  // With pieces, only the crop's height and width are read.
  void prepare(const Crop& crop, int out_height, int out_width, const Pieces* pieces = nullptr) {
    crop_ = crop;
    pieces_ = pieces;
    rows_.prepare(crop.height, out_height);
    rows_.pair_up();
    square_ = crop.height == crop.width && out_height == out_width;
    if (!square_) cols_.prepare(crop.width, out_width);
  }

  // sink(y, row) with row[4 * x + channel] in grey levels (0 to 255, not rounded), y ascending.
  template <class Sink>
  void run(const Sink& sink) {
    const Axis& cols = columns();
    const int64_t out_stride = int64_t{4} * cols.out;
    float* done = done_.get<float>(out_stride * 4);
    vertical([&](int y, int count, const float* strip, int64_t stride) {
      for (int r = 0; r < count; ++r) {
        if (r % 4 == 0) weighted_pixels_any(strip + r * stride, stride, cols, done, out_stride);
        sink(y + r, done + r % 4 * out_stride);
      }
    });
  }

#ifdef __AVX512F__
  // sink(y, row, pitch) with row[pitch * channel + x]; false when the crop shrinks too much for that.
  template <class Sink>
  bool run_planar(const Sink& sink) {
    fan_.prepare(columns());
    if (!fan_.step) return false;
    const int width = crop_.width, step = fan_.step;
    const int64_t length = (width + 31) / 32 * 32 / step + 32;  // two registers are read from any element
    const int64_t pitch = int64_t{16} * fan_.groups;
    float* planes = planes_.get<float>(3 * step * length);
    float* done = done_.get<float>(3 * pitch);
    vertical([&](int y, int count, const float* strip, int64_t stride) {
      for (int r = 0; r < count; ++r, strip += stride) {
        if (step == 1) split_colours<1>(strip, width, planes, length);
        else split_colours<2>(strip, width, planes, length);
        weighted_planes_any(planes, length, fan_, done, pitch);
        sink(y + r, done, pitch);
      }
    });
    return true;
  }
#endif

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
  // take(y, count, strip, stride): rows y to y + count - 1, at most kStrip, of 3 floats a pixel.
  template <class Take>
  void vertical(const Take& take) {
    const int64_t bytes = int64_t{3} * crop_.width;
    const int64_t span = (bytes + kLanes - 1) / kLanes * kLanes;
    // Pixels under zero weights and the rest of blocks of 32 pixels are read, so they must exist; rows start on cache
    // lines.
    const int64_t stride = std::max((span + 3 * columns().taps + 1 + 15) / 16 * 16, (bytes + 95) / 96 * 96);
    const int64_t block = bytes < kBlock ? kBlock / 2 : kBlock;
    const bool paired = rows_.pairs && bytes >= block && !pieces_;
    float* ring = paired ? nullptr : ring_.get<float>(stride * rows_.taps);
    float* strip = strip_.get<float>(stride * kStrip);
    for (int y = 0, next = 0; y < rows_.out; y += kStrip) {
      const int end = std::min(y + kStrip, rows_.out);
      if (paired) {
        for (int64_t c = 0; c < bytes; c += block) {
          const int64_t from = std::min(c, bytes - block);  // the last block overlaps: never read past the crop
          const uint8_t* src = crop_.data + from;
          if (block == kBlock) paired_rows<kBlock / kLanes>(src, crop_.row_stride, rows_, y, end, strip + from, stride);
          else paired_rows<kBlock / kLanes / 2>(src, crop_.row_stride, rows_, y, end, strip + from, stride);
        }
      } else {
        next = ring_rows(y, end, next, bytes, ring, strip, stride);
      }
      take(y, end - y, strip, stride);
    }
  }

  // The general vertical pass: source rows become floats in a ring of as many rows as an output needs.
  int ring_rows(int begin, int end, int next, int64_t bytes, float* ring, float* strip, int64_t stride) {
    const float** taps = pointers_.get<const float*>(rows_.taps);
    const int64_t span = (bytes + kLanes - 1) / kLanes * kLanes;
    for (int y = begin; y < end; ++y, strip += stride) {
      const int first = rows_.first[y], count = rows_.count[y];
      for (next = std::max(next, first); next < first + count; ++next) {
        float* to = ring + next % rows_.taps * stride;
        if (pieces_) pieces_->row_to_float(next, to);
        else to_float(crop_.data + next * crop_.row_stride, bytes, to);
      }
      for (int k = 0; k < count; ++k) taps[k] = ring + (first + k) % rows_.taps * stride;
      weighted_rows(taps, rows_.weight + int64_t{y} * rows_.taps, count, span, strip);
    }
    return next;
  }

  const Axis& columns() const { return square_ ? rows_ : cols_; }

  Crop crop_{};
  const Pieces* pieces_ = nullptr;
  Axis rows_, cols_;
  bool square_ = false;
  Scratch ring_, strip_, done_, pointers_;
#ifdef __AVX512F__
  Fan fan_;
  Scratch planes_;
#endif
};

// A thread's own object by an address that the compiler cannot trace: it would otherwise look the thread-local address
// up again inside the loops, a call that costs them their vector registers.
template <class T>
inline T& hidden(T& object) {
  T* address = &object;
  asm("" : "+r"(address));
  return *address;
}

}  // namespace DDFAST_ISA
}  // namespace ddfast

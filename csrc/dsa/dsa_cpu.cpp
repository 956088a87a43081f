#include "dsa/dsa.h"

#include <cstring>

#include "common/axis.h"
#include "common/parallel.h"

namespace ddfast {
namespace DDFAST_ISA {
namespace {

// Pictures to be sampled are copied with a border of zeros, pixels in bundles of this many channels: one load a tap.
constexpr int kBundle = 4;
template <class T>
struct BundleOf {
  typedef T type __attribute__((vector_size(kBundle * sizeof(T))));
};
template <class T>
using Bundle = typename BundleOf<T>::type;

// Rows of a picture, pixels `pixel` apart; channels in bundles (of one in the tensors).
template <class T>
struct Rows {
  T* base;
  int64_t bundle, outer, inner, row, pixel;
  T* at(int64_t c, int64_t y) const { return base + c / bundle * outer + c % bundle * inner + y * row; }
};

template <class T>
Rows<T> rows_of(const DsaTensor& t, int64_t picture) {
  return {static_cast<T*>(t.data) + picture * t.n, 1, t.c, 0, t.h, t.w};
}

// Rounded up, to 0 .. side; NaN gives 0.
inline int64_t bounded(double value, int64_t side) {
  if (!(value > 0)) return 0;
  return value >= static_cast<double>(side) ? side : static_cast<int64_t>(std::ceil(value));
}

inline bool whole(double value) { return value == std::floor(value) && value > -1e9 && value < 1e9; }

struct Draw {
  double brightness, saturation, contrast, map[6];
  int64_t top, bottom, left, right;
  bool shift;         // the map moves by whole pixels, mirrored or not
  int64_t down, across, turn;  // then: row y + down, column turn * x + across

  Draw(const Dsa& in, int64_t picture) {
    const double* p = in.params + picture * in.params_stride;
    brightness = in.addend ? p[0] : 0, saturation = p[1], contrast = p[2];
    std::memcpy(map, p + 3, sizeof(map));
    top = bounded(p[9], in.h), bottom = bounded(p[10], in.h), left = bounded(p[11], in.w), right = bounded(p[12], in.w);
    if (top >= bottom || left >= right) top = bottom = left = right = 0;
    const bool straight = map[0] == 1 && map[1] == 0 && map[3] == 0 && (map[4] == 1 || map[4] == -1);
    shift = straight && whole(map[2]) && whole(map[5]);
    down = shift ? static_cast<int64_t>(map[2]) : 0, across = shift ? static_cast<int64_t>(map[5]) : 0;
    turn = map[4] < 0 ? -1 : 1;
  }

  // Neither map nor cutout.
  bool still() const { return shift && turn > 0 && !down && !across && bottom == 0; }
  bool plain_colour() const { return saturation == 1 && contrast == 1 && brightness == 0; }

  // Columns of the result whose source lies in the picture.
  int64_t first(int64_t w) const { return clip(turn > 0 ? -across : across - w + 1, w); }
  int64_t last(int64_t w) const { return std::max(clip(turn > 0 ? w - across : across + 1, w), first(w)); }

  // f(begin, end) for the parts of [begin, end) of row y that the cutout leaves.
  template <class F>
  void visible(int64_t y, int64_t begin, int64_t end, const F& f) const {
    if (y < top || y >= bottom) {
      if (begin < end) f(begin, end);
      return;
    }
    if (begin < std::min(left, end)) f(begin, std::min(left, end));
    if (std::max(right, begin) < end) f(std::max(right, begin), end);
  }

 private:
  static int64_t clip(int64_t x, int64_t w) { return std::min(std::max<int64_t>(x, 0), w); }
};

template <int64_t N>
struct Step {
  constexpr operator int64_t() const { return N; }
};

// What colour makes of a pixel: own * pixel + rest, the rest one number or one a pixel.
template <class T>
struct Tint {
  bool plain;  // nothing
  T own, constant;
  const T* rest;  // null for the constant

  Tint from(int64_t x) const { return {plain, own, constant, rest ? rest + x : nullptr}; }
};

template <class T, class A, class B>
inline void run_line(const T* __restrict in, A a, T* __restrict out, B b, int64_t count, const Tint<T>& tint) {
  const T own = tint.own, constant = tint.constant;
  const T* __restrict rest = tint.rest;
  if (tint.plain)
    for (int64_t x = 0; x < count; ++x) out[x * b] = in[x * a];
  else if (!rest)
    for (int64_t x = 0; x < count; ++x) out[x * b] = own * in[x * a] + constant;
  else
    for (int64_t x = 0; x < count; ++x) out[x * b] = own * in[x * a] + rest[x];
}

// `count` pixels, a and b apart, tinted; with the usual strides known to the compiler.
template <class T>
void line(const T* in, int64_t a, T* out, int64_t b, int64_t count, const Tint<T>& tint) {
  if (a == 1 && b == 1) return run_line(in, Step<1>{}, out, Step<1>{}, count, tint);
  if (a == -1 && b == 1) return run_line(in, Step<-1>{}, out, Step<1>{}, count, tint);
  if (a == 1 && b == kBundle) return run_line(in, Step<1>{}, out, Step<kBundle>{}, count, tint);
  if (a == kBundle && b == 1) return run_line(in, Step<kBundle>{}, out, Step<1>{}, count, tint);
  run_line(in, a, out, b, count, tint);
}

template <class T>
void line(const T* in, int64_t a, T* out, int64_t b, int64_t count) {
  line(in, a, out, b, count, Tint<T>{true, 1, 0, nullptr});
}

template <class T, class A>
inline void run_add(const T* __restrict in, A a, T* __restrict total, int64_t count) {
  for (int64_t x = 0; x < count; ++x) total[x] += in[x * a];
}

template <class T>
void add(const T* in, int64_t a, T* total, int64_t count) {
  if (a == 1) return run_add(in, Step<1>{}, total, count);
  run_add(in, a, total, count);
}

template <class T>
void zero(T* out, int64_t step, int64_t count) {
  if (step == 1) {
    if (count > 0) std::memset(out, 0, sizeof(T) * count);
    return;
  }
  for (int64_t x = 0; x < count; ++x) out[x * step] = 0;
}

// In parts, each by several sums at once, so that the loop is wide and its rounding small.
template <class T, class A>
inline double run_sum(const T* in, A step, int64_t count) {
  constexpr int64_t kSums = 32, kPart = 2048;
  double total = 0;
  while (count > 0) {
    const int64_t size = std::min(count, kPart), wide = size / kSums * kSums;
    T part[kSums] = {};
    for (int64_t x = 0; x < wide; x += kSums)
      for (int64_t k = 0; k < kSums; ++k) part[k] += in[(x + k) * step];
    for (int64_t k = 0; k < kSums; ++k) total += part[k];
    for (int64_t x = wide; x < size; ++x) total += in[x * step];
    in += size * step, count -= size;
  }
  return total;
}

template <class T>
double sum(const T* in, int64_t step, int64_t count) {
  return step == 1 ? run_sum(in, Step<1>{}, count) : run_sum(in, step, count);
}

struct Workspace {
  Scratch bordered, rest, place, down, across, pixels;
};

template <class T>
class Painter {
 public:
  Painter(const Dsa& in, Workspace& work)
      : in_(in), work_(work), pitch_(in.w + 3), bundles_((in.c + kBundle - 1) / kBundle),
        rest_(work.rest.get<T>(in.h * in.w)) {}

  void forward(int64_t picture) {
    const Draw draw(in_, picture);
    const Rows<T> from = rows_of<T>(in_.in, picture), to = rows_of<T>(in_.out, picture);
    choose(draw, from);
    if (draw.still()) return recolour(from, to);
    if (draw.shift) return moved(draw, from, to);
    const Rows<T> bordered = emptied();
    recolour(from, bordered);
    sampled(draw, to);
  }

  void adjoint(int64_t picture) {
    const Draw draw(in_, picture);
    const Rows<T> from = rows_of<T>(in_.in, picture), to = rows_of<T>(in_.out, picture);
    if (draw.shift && draw.plain_colour()) return moved_back(draw, from, to);
    if (draw.still()) {
      choose(draw, from);
      return recolour(from, to);
    }
    const Rows<T> bordered = emptied();
    if (draw.shift) moved_back(draw, from, bordered);
    else scattered(draw, from);
    choose(draw, bordered);
    recolour(bordered, to);
  }

 private:
  // Rows that follow one another without a gap count as one.
  bool joined(const Rows<T>& rows) const { return rows.row == rows.pixel * in_.w; }

  // Coefficients of the change of colour; `means` holds the picture whose mean the contrast keeps.
  void choose(const Draw& draw, const Rows<T>& means) {
    double constant = draw.brightness;
    if (draw.contrast != 1) {
      const bool one = joined(means);
      double total = 0;
      for (int64_t c = 0; c < in_.c; ++c)
        for (int64_t y = 0; y < (one ? 1 : in_.h); ++y)
          total += sum(means.at(c, y), means.pixel, one ? in_.h * in_.w : in_.w);
      constant += (1 - draw.contrast) * total / static_cast<double>(in_.c * in_.h * in_.w);
    }
    grey_ = static_cast<T>(draw.contrast * (1 - draw.saturation) / static_cast<double>(in_.c));
    colour_ = {draw.plain_colour(), static_cast<T>(draw.contrast * draw.saturation), static_cast<T>(constant), nullptr};
  }

  // For pixels start, start + step, .. of row y, whose greys differ.
  Tint<T> tint(const Rows<T>& from, int64_t y, int64_t start, int64_t step, int64_t count) {
    if (colour_.plain || grey_ == 0) return colour_;
    zero(rest_, 1, count);
    for (int64_t c = 0; c < in_.c; ++c) add(from.at(c, y) + start, step, rest_, count);
    for (int64_t x = 0; x < count; ++x) rest_[x] = grey_ * rest_[x] + colour_.constant;
    return {false, colour_.own, colour_.constant, rest_};
  }

  void recolour(const Rows<T>& from, const Rows<T>& to) {
    const bool one = joined(from) && joined(to);
    const int64_t count = one ? in_.h * in_.w : in_.w;
    for (int64_t y = 0; y < (one ? 1 : in_.h); ++y) {
      const Tint<T> own = tint(from, y, 0, from.pixel, count);
      for (int64_t c = 0; c < in_.c; ++c) line(from.at(c, y), from.pixel, to.at(c, y), to.pixel, count, own);
    }
  }

  // Whole pixels: coloured parts of rows, and zeros.
  void moved(const Draw& draw, const Rows<T>& from, const Rows<T>& to) {
    const int64_t begin = draw.first(in_.w), end = draw.last(in_.w), step = draw.turn * from.pixel;
    for (int64_t y = 0; y < in_.h; ++y) {
      const int64_t source = y + draw.down;
      if (source < 0 || source >= in_.h) {
        for (int64_t c = 0; c < in_.c; ++c) zero(to.at(c, y), to.pixel, in_.w);
        continue;
      }
      const int64_t start = (draw.turn * begin + draw.across) * from.pixel;
      const Tint<T> own = tint(from, source, start, step, std::max<int64_t>(end - begin, 0));
      for (int64_t c = 0; c < in_.c; ++c) {
        T* row = to.at(c, y);
        int64_t done = 0;
        draw.visible(y, begin, end, [&](int64_t x, int64_t stop) {
          zero(row + done * to.pixel, to.pixel, x - done);
          const T* first = from.at(c, source) + start + (x - begin) * step;
          line(first, step, row + x * to.pixel, to.pixel, stop - x, own.from(x - begin));
          done = stop;
        });
        zero(row + done * to.pixel, to.pixel, in_.w - done);
      }
    }
  }

  // The transpose of `moved` without colour.
  void moved_back(const Draw& draw, const Rows<T>& from, const Rows<T>& to) {
    const int64_t begin = draw.first(in_.w), end = draw.last(in_.w), step = draw.turn * to.pixel;
    for (int64_t row = 0; row < in_.h; ++row)
      for (int64_t c = 0; c < in_.c; ++c) {
        T* out = to.at(c, row);
        const int64_t y = row - draw.down;
        zero(out, to.pixel, in_.w);
        if (y < 0 || y >= in_.h) continue;
        draw.visible(y, begin, end, [&](int64_t x, int64_t stop) {
          const T* source = from.at(c, y) + x * from.pixel;
          line(source, from.pixel, out + (draw.turn * x + draw.across) * to.pixel, step, stop - x);
        });
      }
  }

  // The picture with a border, all zeros.
  Rows<T> emptied() {
    const int64_t size = kBundle * pitch_ * (in_.h + 3);
    bordered_ = work_.bordered.get<T>(size * bundles_);
    std::memset(bordered_, 0, sizeof(T) * size * bundles_);
    return {bordered_ + kBundle * (pitch_ + 1), kBundle, size, 1, kBundle * pitch_, kBundle};
  }

  // Where each pixel of row y comes from: its upper left neighbour in the bordered picture, and the shares of the
  // lower and the right one. Sources are drawn to the border, which is zero.
  void trace(const Draw& draw, int64_t y) {
    place_ = work_.place.get<int32_t>(in_.w), down_ = work_.down.get<T>(in_.w), across_ = work_.across.get<T>(in_.w);
    const double* m = draw.map;
    const double row = m[0] * static_cast<double>(y) + m[2], column = m[3] * static_cast<double>(y) + m[5];
    const double height = static_cast<double>(in_.h), width = static_cast<double>(in_.w);
    const int32_t pitch = static_cast<int32_t>(pitch_);
    for (int32_t x = 0; x < static_cast<int32_t>(in_.w); ++x) {
      double v = m[1] * x + row, u = m[4] * x + column;
      v = v > -1 ? v : -1, u = u > -1 ? u : -1;
      v = v < height ? v : height, u = u < width ? u : width;
      const double top = std::floor(v), left = std::floor(u);
      place_[x] = kBundle * ((static_cast<int32_t>(top) + 1) * pitch + static_cast<int32_t>(left) + 1);
      down_[x] = static_cast<T>(v - top), across_[x] = static_cast<T>(u - left);
    }
  }

  void sampled(const Draw& draw, const Rows<T>& to) {
    T* pixels = work_.pixels.get<T>(kBundle * in_.w);
    for (int64_t y = 0; y < in_.h; ++y) {
      trace(draw, y);
      for (int64_t bundle = 0; bundle < bundles_; ++bundle) {
        const T* plane = bordered_ + bundle * kBundle * pitch_ * (in_.h + 3);
        for (int64_t x = 0; x < in_.w; ++x) {
          const T *upper = plane + place_[x], *lower = upper + kBundle * pitch_;
          const Bundle<T> a = load<Bundle<T>>(upper), b = load<Bundle<T>>(lower);
          const Bundle<T> left = a + (b - a) * down_[x];
          const Bundle<T> c = load<Bundle<T>>(upper + kBundle), d = load<Bundle<T>>(lower + kBundle);
          const Bundle<T> right = c + (d - c) * down_[x];
          store(pixels + kBundle * x, left + (right - left) * across_[x]);
        }
        for (int64_t c = bundle * kBundle; c < std::min(in_.c, (bundle + 1) * kBundle); ++c) {
          T* row = to.at(c, y);
          line(pixels + c % kBundle, kBundle, row, to.pixel, in_.w);
          if (y >= draw.top && y < draw.bottom) zero(row + draw.left * to.pixel, to.pixel, draw.right - draw.left);
        }
      }
    }
  }

  void scattered(const Draw& draw, const Rows<T>& from) {
    T* pixels = work_.pixels.get<T>(kBundle * in_.w);
    for (int64_t y = 0; y < in_.h; ++y) {
      trace(draw, y);
      for (int64_t bundle = 0; bundle < bundles_; ++bundle) {
        T* plane = bordered_ + bundle * kBundle * pitch_ * (in_.h + 3);
        zero(pixels, 1, kBundle * in_.w);
        for (int64_t c = bundle * kBundle; c < std::min(in_.c, (bundle + 1) * kBundle); ++c)
          line(from.at(c, y), from.pixel, pixels + c % kBundle, kBundle, in_.w);
        draw.visible(y, 0, in_.w, [&](int64_t begin, int64_t end) {
          for (int64_t x = begin; x < end; ++x) {
            const Bundle<T> g = load<Bundle<T>>(pixels + kBundle * x);
            const Bundle<T> right = g * across_[x], left = g - right;
            T *upper = plane + place_[x], *lower = upper + kBundle * pitch_;
            const Bundle<T> under = left * down_[x], beside = right * down_[x];
            store(upper, load<Bundle<T>>(upper) + (left - under));
            store(upper + kBundle, load<Bundle<T>>(upper + kBundle) + (right - beside));
            store(lower, load<Bundle<T>>(lower) + under);
            store(lower + kBundle, load<Bundle<T>>(lower + kBundle) + beside);
          }
        });
      }
    }
  }

  const Dsa& in_;
  Workspace& work_;
  const int64_t pitch_, bundles_;
  T *rest_, *bordered_ = nullptr, *down_ = nullptr, *across_ = nullptr;
  int32_t* place_ = nullptr;
  Tint<T> colour_{true, 1, 0, nullptr};
  T grey_ = 0;  // times the sum of a pixel's channels
};

template <class T>
void run(const Dsa& in, bool adjoint, int threads) {
  const int64_t size = in.c * in.h * in.w;
  if (size == 0) return;
  // a thread costs some 20 us to start, as much as a few thousand pixels
  parallel_for(in.n, std::max<int64_t>(1, 65536 / size), threads, [&](int64_t begin, int64_t end) {
    static thread_local Workspace work;
    Painter<T> painter(in, work);
    for (int64_t picture = begin; picture < end; ++picture)
      if (adjoint) painter.adjoint(picture);
      else painter.forward(picture);
  });
}

}  // namespace

void dsa(const Dsa& in, int threads) {
  if (in.dtype == DType::f64) return run<double>(in, false, threads);
  run<float>(in, false, threads);
}

void dsa_adjoint(const Dsa& in, int threads) {
  if (in.dtype == DType::f64) return run<double>(in, true, threads);
  run<float>(in, true, threads);
}

}  // namespace DDFAST_ISA
}  // namespace ddfast

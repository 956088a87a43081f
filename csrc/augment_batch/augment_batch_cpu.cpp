#include "augment_batch/augment_batch.h"

#include "common/antialias.h"
#include "common/parallel.h"
#include "common/writers.h"

namespace ddfast {
namespace DDFAST_ISA {
namespace {

// One axis of a shifted picture cut into strips: place x of the result is pixel order[x / strip] * strip + x % strip of
// the shifted picture, which is that pixel minus offset of the picture itself.
struct Strips {
  const int32_t* order;
  int factor;
  int64_t side, offset;

  bool plain() const {
    for (int k = 0; k < factor; ++k)
      if (order[k] != k) return false;
    return offset == 0;
  }

  // take(place, source, count) for runs that together cover places [begin, end); source is -1 outside the picture.
  template <class Take>
  void runs(int64_t begin, int64_t end, const Take& take) const {
    const int64_t strip = side / factor;
    for (int64_t x = begin; x < end;) {
      const int64_t stop = std::min((x / strip + 1) * strip, end);
      const int64_t source = order[x / strip] * strip + x % strip - offset;
      const int64_t first = x + std::clamp<int64_t>(-source, 0, stop - x);  // inside the picture from here
      const int64_t last = std::clamp<int64_t>(x + side - source, first, stop);
      if (first > x) take(x, int64_t{-1}, first - x);
      if (last > first) take(first, source + first - x, last - first);
      if (stop > last) take(last, int64_t{-1}, stop - last);
      x = stop;
    }
  }
};

// One sample's view, row by row; keeps scratch memory and the filters of the last size.
class Viewer {
 public:
  // Row y of the view goes to sink.planar(y, row, pitch), with row[pitch * channel + x], or to sink.pixels(y, row), with
  // row[4 * x + channel]; in grey levels.
  template <class Sink>
  void view(const AugmentBatch& in, int64_t i, int height, int width, Sink& sink) {
    const uint8_t* picture = in.images + in.index[i] * in.height * in.width * 3;
    const int64_t row_stride = int64_t{3} * in.width;
    const int32_t* box = in.boxes + 4 * i;
    const Strips rows{in.rows + i * in.factor, in.factor, in.height, in.shift[2 * i]};
    const Strips cols{in.columns + i * in.factor, in.factor, in.width, in.shift[2 * i + 1]};
    const Crop crop{picture + box[0] * row_stride + int64_t{3} * box[1], row_stride, box[2], box[3]};
    const bool plain = rows.plain() && cols.plain();
    if (!plain) cut(picture, row_stride, rows, cols, box);
    if (box[2] == height && box[3] == width) return copy(crop, plain, sink);
    resizer_.prepare(crop, height, width, plain ? nullptr : &pieces_);
#ifdef __AVX512F__
    if (resizer_.run_planar([&](int y, const float* row, int64_t pitch) { sink.planar(y, row, pitch); })) return;
#endif
    resizer_.run([&](int y, const float* row) { sink.pixels(y, row); });
  }

 private:
  void cut(const uint8_t* picture, int64_t row_stride, const Strips& rows, const Strips& cols, const int32_t* box) {
    int64_t* row = rows_.get<int64_t>(box[2]);
    rows.runs(box[0], box[0] + box[2], [&](int64_t y, int64_t source, int64_t count) {
      for (int64_t k = 0; k < count; ++k) row[y - box[0] + k] = source < 0 ? -1 : source + k;
    });
    Pieces::Run* runs = runs_.get<Pieces::Run>(int64_t{3} * cols.factor);
    int count = 0;
    cols.runs(box[1], box[1] + box[3], [&](int64_t x, int64_t source, int64_t length) {
      runs[count++] = {source < 0 ? -1 : 3 * source, 3 * (x - box[1]), 3 * length};
    });
    pieces_ = {picture, row_stride, row, runs, count};
  }

  // A crop as large as the view: no filter.
  template <class Sink>
  void copy(const Crop& crop, bool plain, Sink& sink) {
    const int64_t bytes = int64_t{3} * crop.width, pitch = (crop.width + 15) / 16 * 16;
    float* line = line_.get<float>(3 * pitch + kLanes);
    float* row = row_.get<float>(4 * pitch);
    for (int y = 0; y < crop.height; ++y) {
      if (plain) to_float(crop.data + y * crop.row_stride, bytes, line);
      else pieces_.row_to_float(y, line);
#ifdef __AVX512F__
      split_colours<1>(line, crop.width, row, pitch);
      sink.planar(y, row, pitch);
#else
      for (int x = 0; x < crop.width; ++x) store(row + 4 * x, load<Pixel>(line + 3 * x));
      sink.pixels(y, row);
#endif
    }
  }

  Resizer resizer_;
  Pieces pieces_{};
  Scratch rows_, runs_, line_, row_;
};

// Writes parts of rows of grey levels into pictures, mirrored where asked.
template <class T>
class Writer {
 public:
  Writer(const AugmentTarget& t, const Affine& affine, Scratch& scratch)
      : height_(t.height), width_(t.width), packed_(t.channels_last), affine_(affine), scratch_(scratch) {}

  // Columns [begin, end) of row y.
  void pixels(const float* row, int y, int begin, int end, T* picture) const {
    if (begin >= end) return;
    const int64_t at = int64_t{y} * width_ + begin;
    if (packed_) write_packed(row + 4 * begin, end - begin, affine_, picture + 3 * at);
    else write_planar(row + 4 * begin, end - begin, affine_, picture + at, int64_t{height_} * width_);
  }

  const float* mirrored(const float* row) const {
    float* to = scratch_.get<float>(int64_t{4} * width_);
    for (int x = 0; x < width_; ++x) store(to + 4 * (width_ - 1 - x), load<Pixel>(row + 4 * x));
    return to;
  }

#ifdef __AVX512F__
  void planar(const float* row, int64_t pitch, int y, int begin, int end, T* picture) const {
    if (begin >= end) return;
    const int64_t at = int64_t{y} * width_ + begin;
    if (packed_) write_triples(row + begin, pitch, end - begin, affine_, picture + 3 * at);
    else write_planes(row + begin, pitch, end - begin, affine_, picture + at, int64_t{height_} * width_);
  }

  // The pitch grows by 16: the last vector of a plane lands before its begin.
  const float* mirrored(const float* row, int64_t pitch) const {
    float* to = scratch_.get<float>(3 * (pitch + 16) + 32) + 16;
    const __m512i back = _mm512_setr_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (int c = 0; c < 3; ++c)
      for (int x = 0; x < width_; x += 16)
        _mm512_storeu_ps(to + c * (pitch + 16) + width_ - 16 - x,
                         Weave::permute(back, _mm512_loadu_ps(row + c * pitch + x)));
    return to;
  }
#endif

 private:
  int height_, width_;
  bool packed_;
  const Affine& affine_;
  Scratch& scratch_;
};

// Rows of view i go into picture i; columns inside the mixing box go to the pictures whose partner i is instead.  So
// each view is computed once, whatever is mixed.
template <class T>
struct Paste {
  const AugmentBatch& in;
  const AugmentTarget& t;
  const Writer<T>& writer;
  int64_t i;

  T* picture(int64_t k) const { return static_cast<T*>(t.out) + k * t.height * t.width * 3; }

  // write(begin, end, picture)
  template <class Write>
  void row(int y, const Write& write) const {
    const int* box = in.mix_box;
    if (in.mixup || box[3] == 0 || y < box[0] || y >= box[0] + box[2]) return write(0, t.width, picture(i));
    write(0, box[1], picture(i));
    write(box[1] + box[3], t.width, picture(i));
    for (int64_t k = in.user[i]; k >= 0; k = in.next[k]) write(box[1], box[1] + box[3], picture(k));
  }

  void pixels(int y, const float* levels) const {
    const float* from = in.flip[i] ? writer.mirrored(levels) : levels;
    row(y, [&](int begin, int end, T* to) { writer.pixels(from, y, begin, end, to); });
  }

#ifdef __AVX512F__
  void planar(int y, const float* levels, int64_t pitch) const {
    const float* from = in.flip[i] ? writer.mirrored(levels, pitch) : levels;
    if (in.flip[i]) pitch += 16;
    row(y, [&](int begin, int end, T* to) { writer.planar(from, pitch, y, begin, end, to); });
  }
#endif
};

// Mixup: both views as float pictures in the output's layout, which are then added.
struct Keep {
  const AugmentBatch& in;
  const AugmentTarget& t;
  const Writer<float>& writer;
  int64_t i;
  float* picture;

  void pixels(int y, const float* levels) const {
    writer.pixels(in.flip[i] ? writer.mirrored(levels) : levels, y, 0, t.width, picture);
  }

#ifdef __AVX512F__
  void planar(int y, const float* levels, int64_t pitch) const {
    if (in.flip[i]) writer.planar(writer.mirrored(levels, pitch), pitch + 16, y, 0, t.width, picture);
    else writer.planar(levels, pitch, y, 0, t.width, picture);
  }
#endif
};

struct Workspace {
  Viewer viewer;
  Scratch mirror, pictures[2];
};

template <class T>
void add_up(const float* own, const float* other, float share, float rest, int64_t count, T* out) {
  constexpr int kBatch = 64;
  for (int64_t at = 0; at < count; at += kBatch) {
    float sum[kBatch] = {};
    const int part = static_cast<int>(std::min<int64_t>(kBatch, count - at));
    // one fused operation, named, so that all instruction sets round alike
    for (int k = 0; k < part; ++k) sum[k] = __builtin_fmaf(own[at + k], share, other[at + k] * rest);
    T rounded[kBatch];
    for (int k = 0; k < kBatch; k += 4) put4(rounded + k, load<Pixel>(sum + k));
    std::memcpy(out + at, rounded, sizeof(T) * part);
  }
}

// Samples in an order where each is often the partner of the one before, so that most views are computed once.
template <class T>
void mix_up(const AugmentBatch& in, const AugmentTarget& t, const Affine& affine, int64_t begin, int64_t end,
            Workspace& work) {
  const int64_t values = int64_t{3} * t.height * t.width;
  const Writer<float> writer(t, affine, work.mirror);
  float *own = work.pictures[0].get<float>(values), *other = work.pictures[1].get<float>(values);
  const auto view = [&](int64_t i, float* picture) {
    Keep sink{in, t, writer, i, picture};
    work.viewer.view(in, i, t.height, t.width, sink);
  };
  int64_t held = -1;
  for (const int64_t* i = in.order + begin; i < in.order + end; ++i) {
    if (*i != held) view(*i, own);
    held = in.partner[*i];
    view(held, other);
    add_up(own, other, in.share, in.rest, values, static_cast<T*>(t.out) + *i * values);
    std::swap(own, other);
  }
}

template <class T>
void augment_all(const AugmentBatch& in, const AugmentTarget& t, int threads) {
  const Affine affine(t.mean, t.std);
  // a thread costs some 20 us to start, as much as a few thousand pixels
  int64_t grain = std::max<int64_t>(1, 65536 / (int64_t{t.height} * t.width));
  if (in.mixup) grain = std::max(grain, (in.samples + threads - 1) / threads);  // long runs share more views
  parallel_for(in.samples, grain, threads, [&](int64_t begin, int64_t end) {
    static thread_local Workspace own;
    Workspace& work = hidden(own);
    if (in.mixup) return mix_up<T>(in, t, affine, begin, end, work);
    const Writer<T> writer(t, affine, work.mirror);
    for (int64_t i = begin; i < end; ++i) {
      Paste<T> sink{in, t, writer, i};
      work.viewer.view(in, i, t.height, t.width, sink);
    }
  });
}

}  // namespace

void augment_batch(const AugmentBatch& in, const AugmentTarget& target, int threads) {
  if (target.dtype == DType::bf16) return augment_all<Bf16>(in, target, threads);
  if (target.dtype == DType::f16) return augment_all<F16>(in, target, threads);
  augment_all<float>(in, target, threads);
}

}  // namespace DDFAST_ISA
}  // namespace ddfast

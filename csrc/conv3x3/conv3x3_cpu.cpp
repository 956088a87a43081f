#include "conv3x3/conv3x3.h"

#include "common/lanes.h"
#include "common/parallel.h"

namespace ddfast {
namespace DDFAST_ISA {
namespace {

// Calls f(first pixel of the 2x2 square, row, column, offset of the tile) for every tile, rows of tiles in parallel.
template <class F>
void for_tiles(const Conv3x3Tiles& in, int threads, const F& f) {
  const int64_t rows = in.h / 2, columns = in.w / 2, all = in.n * rows;
  parallel_for(all, (all + threads - 1) / threads, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t y = 2 * (i % rows), image = i / rows * in.h * in.w * in.c;
      for (int64_t x = 0; x < columns; ++x)
        f(image + (y * in.w + 2 * x) * in.c, y, 2 * x, (i * columns + x) * in.c);
    }
  });
}

// One side of B' d B, of A g A' and of A' m A.
inline void input_side(const Wide (&d)[4], Wide (&out)[4]) {
  out[0] = d[0] - d[2];
  out[1] = d[1] + d[2];
  out[2] = d[2] - d[1];
  out[3] = d[1] - d[3];
}
inline void gradient_side(Wide a, Wide b, Wide (&out)[4]) {
  out[0] = a;
  out[1] = a + b;
  out[2] = a - b;
  out[3] = -b;
}
inline void output_side(const Wide (&m)[4], Wide& a, Wide& b) {
  a = m[0] + m[1] + m[2];
  b = m[1] - m[2] - m[3];
}

}  // namespace

void conv3x3_split_input(const Conv3x3Tiles& in, int threads) {
  for_tiles(in, threads, [&](int64_t first, int64_t y, int64_t x, int64_t tile) {
    const int64_t row = in.w * in.c;
    const bool inside[2][4] = {{y > 0, true, true, y + 2 < in.h}, {x > 0, true, true, x + 2 < in.w}};
    for (int64_t c = 0; c < in.c; c += kLanes) {
      Wide half[4][4];  // columns of the square, each transformed
      for (int j = 0; j < 4; ++j) {
        Wide d[4];
        for (int i = 0; i < 4; ++i)
          d[i] = inside[0][i] && inside[1][j] ? load<Wide>(in.planes + first + (i - 1) * row + (j - 1) * in.c + c) : Wide{};
        input_side(d, half[j]);
      }
      for (int i = 0; i < 4; ++i) {
        const Wide line[4] = {half[0][i], half[1][i], half[2][i], half[3][i]};
        Wide out[4];
        input_side(line, out);
        for (int j = 0; j < 4; ++j) store(in.tiles + (4 * i + j) * in.stride + tile + c, out[j]);
      }
    }
  });
}

void conv3x3_split_gradient(const Conv3x3Tiles& in, int threads) {
  for_tiles(in, threads, [&](int64_t first, int64_t, int64_t, int64_t tile) {
    const float* g = in.planes + first;
    const int64_t row = in.w * in.c;
    for (int64_t c = 0; c < in.c; c += kLanes) {
      Wide half[2][4];
      for (int j = 0; j < 2; ++j) gradient_side(load<Wide>(g + j * in.c + c), load<Wide>(g + row + j * in.c + c), half[j]);
      for (int i = 0; i < 4; ++i) {
        Wide out[4];
        gradient_side(half[0][i], half[1][i], out);
        for (int j = 0; j < 4; ++j) store(in.tiles + (4 * i + j) * in.stride + tile + c, out[j]);
      }
    }
  });
}

void conv3x3_join(const Conv3x3Tiles& in, int threads) {
  for_tiles(in, threads, [&](int64_t first, int64_t, int64_t, int64_t tile) {
    float* p = in.planes + first;
    const int64_t row = in.w * in.c;
    for (int64_t c = 0; c < in.c; c += kLanes) {
      Wide half[2][4];  // rows of the result, position by position
      for (int j = 0; j < 4; ++j) {
        Wide m[4];
        for (int i = 0; i < 4; ++i) m[i] = load<Wide>(in.tiles + (4 * i + j) * in.stride + tile + c);
        output_side(m, half[0][j], half[1][j]);
      }
      for (int i = 0; i < 2; ++i) {
        Wide a, b;
        output_side(half[i], a, b);
        store(p + i * row + c, a);
        store(p + i * row + in.c + c, b);
      }
    }
  });
}

}  // namespace DDFAST_ISA
}  // namespace ddfast

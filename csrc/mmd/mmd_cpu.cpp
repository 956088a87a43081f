#include "mmd/mmd.h"

#include "common/axis.h"
#include "common/lanes.h"
#include "common/parallel.h"
#include "common/vec_exp.h"

namespace ddfast {
namespace DDFAST_ISA {
namespace {

// Pairs of points in tiles of kTile x kTileWide sums of squares, held in registers.
constexpr int kTile = 4;
constexpr int kTileWide = kLanes == 16 ? 4 : 2;
// Features summed at a time, so that the points of a class stay in the second cache.
constexpr int64_t kRun = 4096;

inline float sum(Wide v) {
  float total = 0;
  for (int k = 0; k < kLanes; ++k) total += v[k];
  return total;
}

// Squared distances of kTile to kTileWide points, `features` of them, added to out (rows `stride` apart).
// Differences are taken before products: no cancellation.
inline void add_squares(const float* const* a, const float* const* b, int64_t features, float* const* out) {
  Wide acc[kTile][kTileWide] = {};
  int64_t f = 0;
  for (; f + kLanes <= features; f += kLanes) {
    Wide left[kTile];
#pragma GCC unroll 8
    for (int i = 0; i < kTile; ++i) left[i] = load<Wide>(a[i] + f);
#pragma GCC unroll 8
    for (int j = 0; j < kTileWide; ++j) {
      const Wide right = load<Wide>(b[j] + f);
#pragma GCC unroll 8
      for (int i = 0; i < kTile; ++i) {
        const Wide apart = left[i] - right;
        acc[i][j] += apart * apart;
      }
    }
  }
  for (int i = 0; i < kTile; ++i)
    for (int j = 0; j < kTileWide; ++j) {
      float total = sum(acc[i][j]);
      for (int64_t rest = f; rest < features; ++rest) total += (a[i][rest] - b[j][rest]) * (a[i][rest] - b[j][rest]);
      out[i][j] += total;
    }
}

// One class at a time: what its steps share.
struct Class {
  const Mmd& in;
  int64_t number, n, points, padded;
  float* squares;  // [points, padded]
  const float* point(int64_t k) const {
    return k < n ? in.x.data + number * in.x.of_class + k * in.x.of_point
                 : in.y.data + number * in.y.of_class + (k - n) * in.y.of_point;
  }

  // squares[i][j] for i < j; without the real term not those of two points of y.
  void distances() const {
    const int64_t rows = in.real_term ? points : n;
    for (int64_t k = 0; k < rows * padded; ++k) squares[k] = 0;
    for (int64_t start = 0; start < in.features; start += kRun) {
      const int64_t run = std::min(kRun, in.features - start);
      for (int64_t i = 0; i < rows; i += kTile)
        for (int64_t j = i / kTileWide * kTileWide; j < points; j += kTileWide) tile(i, j, rows, start, run);
    }
  }

  void tile(int64_t i, int64_t j, int64_t rows, int64_t start, int64_t run) const {
    const float *a[kTile], *b[kTileWide];
    float spare[kTileWide], *out[kTile];
    for (int k = 0; k < kTile; ++k) {  // past the end the last one again, its sums to be forgotten
      a[k] = point(std::min(i + k, rows - 1)) + start;
      out[k] = i + k < rows ? squares + (i + k) * padded + j : spare;
    }
    for (int k = 0; k < kTileWide; ++k) b[k] = point(std::min(j + k, points - 1)) + start, spare[k] = 0;
    add_squares(a, b, run, out);
  }

  // Kernel sums and their derivatives of the pairs (i, j > i).
  void kernels(int64_t i, float* kernel, float* slope) const {
    const float* row = squares + i * padded;
    const float* sigmas = in.sigmas + number * in.bandwidths;
    for (int64_t j = i + 1; j < points; ++j) kernel[j] = slope[j] = 0;
    for (int64_t s = 0; s < in.bandwidths; ++s) {
      const float rate = -0.5f / (sigmas[s] * sigmas[s]);
      for (int64_t j = i + 1; j < points; ++j) {
        const float power = rate * row[j];
        const float term = power < -87.0f ? 0.0f : vec_exp(power);
        kernel[j] += term;
        slope[j] += rate * term;
      }
    }
  }

  // Weight of a pair of x, of x and y, of y.
  void pair_weights(double (&weight)[3]) const {
    const double counts[] = {static_cast<double>(n), static_cast<double>(points - n)};
    for (int k = 0; k < 2; ++k) {
      const double pairs = counts[k] * (in.unbiased ? counts[k] - 1 : counts[k]);
      weight[2 * k] = pairs > 0 ? 1 / pairs : 0;
    }
    weight[1] = -1 / (counts[0] * counts[1]);
    if (!in.real_term) weight[2] = 0;
  }

  // The arguments are room for a value of each point.
  void run(float* kernel, float* slope, double* degree) const {
    double weight[3], total = 0;
    pair_weights(weight);
    distances();
    float* matrix = in.weights + number * in.rows * points;
    for (int64_t i = 0; i < points; ++i) degree[i] = 0;
    for (int64_t i = 0; i < (in.real_term ? points : n); ++i) {
      kernels(i, kernel, slope);
      for (int64_t j = i + 1; j < points; ++j) total += 2 * weight[(i >= n) + (j >= n)] * static_cast<double>(kernel[j]);
      if (i >= in.rows) continue;
      for (int64_t j = i + 1; j < points; ++j) {
        const double edge = 4 * weight[(i >= n) + (j >= n)] * static_cast<double>(slope[j]);
        degree[i] += edge, degree[j] += edge;
        matrix[i * points + j] = static_cast<float>(-edge);
        if (j < in.rows) matrix[j * points + i] = static_cast<float>(-edge);
      }
    }
    if (!in.real_term)
      for (int64_t i = n; i < in.rows; ++i)
        for (int64_t j = n; j < points; ++j) matrix[i * points + j] = 0;
    for (int64_t i = 0; i < in.rows; ++i) matrix[i * points + i] = static_cast<float>(degree[i]);
    if (!in.unbiased) {  // points and themselves
      const double own = 1.0 / static_cast<double>(n) + (in.real_term ? 1.0 / static_cast<double>(points - n) : 0.0);
      total += own * static_cast<double>(in.bandwidths);
    }
    in.value[number] = static_cast<float>(total);
  }
};

// Features of all points of a class in a block, less their mean over y, and the block of the gradient.
constexpr int kWide = kLanes == 16 ? 4 : 2;  // vectors
constexpr int kRows = 6;
constexpr int kBlock = kWide * kLanes;

struct Block {
  const MmdGradient& in;
  int64_t number, first, features;  // the class; the block's features, at most kBlock
  float* packed;                    // [points, kBlock], zeros after the last feature

  void pack() const {
    float mean[kBlock] = {};
    const int64_t n = in.x.count, m = in.y.count;
    copy(in.x, packed);
    copy(in.y, packed + n * kBlock);
    for (int64_t k = n; k < n + m; ++k)
      for (int f = 0; f < kBlock; ++f) mean[f] += packed[k * kBlock + f];
    for (float& value : mean) value /= static_cast<float>(m);
    for (int64_t k = 0; k < n + m; ++k)
      for (int f = 0; f < kBlock; ++f) packed[k * kBlock + f] -= mean[f];
  }

  void copy(const MmdPoints<const float>& points, float* to) const {
    for (int64_t k = 0; k < points.count; ++k, to += kBlock) {
      const float* from = points.data + number * points.of_class + k * points.of_point + first;
      if (features == kBlock) std::memcpy(to, from, kBlock * sizeof(float));
      else for (int64_t f = 0; f < kBlock; ++f) to[f] = f < features ? from[f] : 0;
    }
  }

  // Rows of the matrix of a class times the points.
  void multiply(const float* const* matrix, int64_t points, Wide (&acc)[kRows][kWide]) const {
    for (auto& line : acc)
      for (Wide& v : line) v = Wide{};
    for (int64_t j = 0; j < points; ++j) {
      Wide z[kWide];
#pragma GCC unroll 8
      for (int k = 0; k < kWide; ++k) z[k] = load<Wide>(packed + j * kBlock + k * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const float factor = matrix[i][j];
#pragma GCC unroll 8
        for (int k = 0; k < kWide; ++k) acc[i][k] += factor * z[k];
      }
    }
  }

  void run() const {
    pack();
    const int64_t points = in.x.count + in.y.count, rows = in.grad_x.count + in.grad_y.count;
    const float* matrix = in.weights + number * rows * points;
    for (int64_t row = 0; row < rows; row += kRows) {
      const float* lines[kRows];
      for (int i = 0; i < kRows; ++i) lines[i] = matrix + std::min(row + i, rows - 1) * points;
      Wide acc[kRows][kWide];
      multiply(lines, points, acc);
      for (int i = 0; i < kRows && row + i < rows; ++i) write(row + i, acc[i]);
    }
  }

  void write(int64_t row, const Wide (&line)[kWide]) const {
    const bool own = row < in.grad_x.count;
    const MmdPoints<float>& grad = own ? in.grad_x : in.grad_y;
    float* to = grad.data + number * grad.of_class + (own ? row : row - in.grad_x.count) * grad.of_point + first;
    float values[kBlock];
    float* place = features == kBlock ? to : values;
    for (int k = 0; k < kWide; ++k) store(place + k * kLanes, in.upstream[number] * line[k]);
    if (features < kBlock) std::memcpy(to, values, static_cast<size_t>(features) * sizeof(float));
  }
};

}  // namespace

void mmd(const Mmd& in, int threads) {
  const int64_t points = in.x.count + in.y.count, padded = (points + kTileWide - 1) / kTileWide * kTileWide;
  parallel_for(in.classes, (in.classes + threads - 1) / threads, threads, [&](int64_t begin, int64_t end) {
    Scratch floats, doubles;
    float* squares = floats.get<float>((points + 2) * padded);
    double* degree = doubles.get<double>(points);
    for (int64_t k = begin; k < end; ++k)
      Class{in, k, in.x.count, points, padded, squares}.run(squares + points * padded, squares + (points + 1) * padded, degree);
  });
}

void mmd_backward(const MmdGradient& in, int threads) {
  const int64_t points = in.x.count + in.y.count, blocks = (in.features + kBlock - 1) / kBlock;
  const int64_t all = in.classes * blocks;
  parallel_for(all, (all + threads - 1) / threads, threads, [&](int64_t begin, int64_t end) {
    Scratch floats;
    float* packed = floats.get<float>(points * kBlock);
    for (int64_t k = begin; k < end; ++k) {
      const int64_t first = k % blocks * kBlock, rest = in.features - first;
      Block{in, k / blocks, first, std::min<int64_t>(rest, kBlock), packed}.run();
    }
  });
}

}  // namespace DDFAST_ISA
}  // namespace ddfast

#include "mosaic/mosaic.h"

#include "common/antialias.h"
#include "common/parallel.h"

namespace ddfast {
namespace DDFAST_ISA {
namespace {

// The fast resize differs from torch's order of operations by about 1e-4 grey levels, more with hundreds of taps; values
// closer than this to a rounding boundary are computed again in torch's order, so that the bytes are the same.
inline float doubt(const Resizer& resizer) { return 1e-3f + 1e-5f * static_cast<float>(resizer.taps()); }

// Nearest-neighbour source of each cell pixel, with torch's float scale.
void nearest_map(int side, int cell, int32_t* map) {
  const float scale = static_cast<float>(side) / static_cast<float>(cell);
  for (int i = 0; i < cell; ++i) map[i] = std::min(static_cast<int>(std::floor(i * scale)), side - 1);
}

inline uint8_t clamp_byte(float level) { return static_cast<uint8_t>(std::min(std::max(level, 0.0f), 255.0f)); }

// float32 value in [0, 1] -> the grey level that RDED's code truncates: normalise, denormalise in two steps, times 255.
inline float restored(const MosaicTarget& t, float value, int channel) {
  const float normalised = (value - t.mean[channel]) / t.std[channel];
  const float back = normalised / t.inverse[channel] + t.mean[channel];
  return back * 255.0f;
}

template <bool kTruncate>
inline uint8_t to_byte(const MosaicTarget& t, const Resizer& resizer, float level, float doubtful, int y, int x,
                       int channel) {
  if (kTruncate) {
    float grey = restored(t, level * (1.0f / 255.0f), channel);
    if (std::fabs(grey - std::nearbyint(grey)) < doubtful) grey = restored(t, resizer.exact(y, x, channel), channel);
    return clamp_byte(grey);
  }
  if (std::fabs(level - std::floor(level) - 0.5f) < doubtful) level = resizer.exact(y, x, channel) * 255.0f;
  return clamp_byte(std::nearbyint(level));
}

struct Cell {
  int top, left, height, width;
};

Cell cell_of(const MosaicTarget& t, int row, int col) {
  const int side = t.size / t.factor, rest = t.size % t.factor;
  return {row * side + std::min(row, rest), col * side + std::min(col, rest), side + (row < rest), side + (col < rest)};
}

struct Workspace {
  Resizer resizer;
  Scratch maps, line;
};

template <bool kTruncate>
void patch_one(const RaggedBoxes& in, const MosaicTarget& t, int64_t i, Workspace& work) {
  const int64_t cells = int64_t{t.factor} * t.factor;
  const int index = static_cast<int>(i % cells), side = t.size / t.factor;
  const Cell cell = cell_of(t, index / t.factor, index % t.factor);
  int32_t* rows = work.maps.get<int32_t>(cell.height + cell.width);
  int32_t* cols = rows + cell.height;
  nearest_map(side, cell.height, rows);
  nearest_map(side, cell.width, cols);
  uint8_t* line = work.line.get<uint8_t>(int64_t{3} * side);
  uint8_t* out = t.out + ((i / cells * t.size + cell.top) * t.size + cell.left) * 3;
  work.resizer.prepare(crop_of(in, i), side, side);
  const float doubtful = doubt(work.resizer);
  int next = 0;  // first row of the cell not yet written; rows of the patch arrive in order
  work.resizer.run([&](int y, const float* row) {
    for (int x = 0; x < side; ++x)
      for (int c = 0; c < 3; ++c)
        line[3 * x + c] = to_byte<kTruncate>(t, work.resizer, row[4 * x + c], doubtful, y, x, c);
    for (; next < cell.height && rows[next] == y; ++next) {
      uint8_t* to = out + int64_t{3} * next * t.size;
      for (int x = 0; x < cell.width; ++x) std::memcpy(to + 3 * x, line + 3 * cols[x], 3);
    }
  });
}

}  // namespace

void mosaic(const RaggedBoxes& in, const MosaicTarget& target, int threads) {
  parallel_for(in.count, 1, threads, [&](int64_t begin, int64_t end) {
    static thread_local Workspace own;
    Workspace& work = hidden(own);
    for (int64_t i = begin; i < end; ++i) {
      if (target.truncate) patch_one<true>(in, target, i, work);
      else patch_one<false>(in, target, i, work);
    }
  });
}

}  // namespace DDFAST_ISA
}  // namespace ddfast

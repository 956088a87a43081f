// Filters of the antialiased bilinear resize, with the roundings of torch's interpolate(antialias=True).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "common/lanes.h"

namespace ddfast {
namespace DDFAST_ISA {

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
    fill(scale, inverse);
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
  // Tap by tap for all outputs, which the compiler turns into vectors; the order of each sum is that of the taps.
  void fill(float scale, float inverse) {
    float* total = heights_.get<float>(int64_t{out} * (taps + 2));
    float* centre = total + out;
    for (int i = 0; i < out; ++i) total[i] = 0.0f, centre[i] = static_cast<float>(scale * (i + 0.5));
    float* height = centre + out;
    for (int k = 0; k < taps; ++k, height += out) {
      for (int i = 0; i < out; ++i) {
        const auto x = static_cast<float>(((static_cast<float>(first[i] + k) - centre[i]) + 0.5) * inverse);
        const float h = 1.0f - std::fabs(x);
        height[i] = (k < count[i]) & (h > 0.0f) ? h : 0.0f;
        total[i] += height[i];
      }
    }
    for (int i = 0; i < out; ++i) total[i] = total[i] == 0.0f ? 1.0f : total[i];
    height = centre + out;
    for (int k = 0; k < taps; ++k, height += out) {
      for (int i = 0; i < out; ++i) height[i] /= total[i];
      for (int i = 0; i < out; ++i) weight[int64_t{i} * taps + k] = height[i];
    }
  }

  Scratch ranges_, weights_, heights_, pairs_;
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

}  // namespace DDFAST_ISA
}  // namespace ddfast

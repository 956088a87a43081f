// Horizontal pass of the resize for AVX-512: sixteen outputs of one colour at once, whose inputs are picked out of two
// registers by a permutation.  Every output is the same sum in the same order as in the general pass.
#pragma once

#include "common/axis.h"

#ifdef __AVX512F__

namespace ddfast {
namespace DDFAST_ISA {

// The filters of sixteen outputs side by side.  Tap k of output i reads input start(i) + k, where start(i) is first[i]
// rounded down to a multiple of `step` (the weights that this adds are 0).  Inputs lie in `step` planes by their
// residue, so that tap k of all sixteen reads plane k % step, and 32 * step inputs fit two registers.
struct Fan {
  int step = 0;  // 1 or 2; 0 when the inputs of some sixteen outputs do not fit
  int taps = 0;  // a multiple of step
  int groups = 0;
  int32_t* base = nullptr;   // [groups] first element read of each plane
  int32_t* index = nullptr;  // [groups][16] element of tap 0 after that
  float* weight = nullptr;   // [groups][taps][16]

  void prepare(const Axis& axis) {
    if (axis.in == in_ && axis.out == out_) return;
    in_ = axis.in;
    out_ = axis.out;
    groups = (axis.out + 15) / 16;
    base = ranges_.get<int32_t>(int64_t{17} * groups);
    index = base + groups;
    step = fits(axis, 1) ? 1 : fits(axis, 2) ? 2 : 0;
    if (step) spread(axis);
  }

 private:
  bool fits(const Axis& axis, int by) {
    taps = 1;
    for (int i = 0; i < axis.out; ++i) taps = std::max(taps, axis.first[i] % by + axis.count[i]);
    taps = (taps + by - 1) / by * by;
    for (int g = 0; g < groups; ++g) {
      const int last = std::min(16 * g + 15, axis.out - 1);
      if (axis.first[last] / by - axis.first[16 * g] / by + taps / by > 32) return false;
    }
    return true;
  }

  void spread(const Axis& axis) {
    const int64_t count = int64_t{16} * groups * taps;
    weight = weights_.get<float>(count);
    std::memset(weight, 0, sizeof(float) * count);
    for (int i = 0; i < 16 * groups; ++i) {
      const int g = i / 16, at = std::min(i, axis.out - 1);
      if (i % 16 == 0) base[g] = axis.first[i] / step;
      index[i] = axis.first[at] / step - base[g];
      if (i >= axis.out) continue;
      float* to = weight + int64_t{16} * (g * taps + axis.first[i] % step) + i % 16;
      const float* from = axis.weight + int64_t{i} * axis.taps;
      for (int k = 0; k < axis.count[i]; ++k) to[16 * k] = from[k];
    }
  }

  int in_ = 0, out_ = 0;
  Scratch ranges_, weights_;
};

// Sixteen RGB pixels between three registers in memory order and three of one colour each.  Lane j of register t holds
// colour (t + j) % 3, and each lane number occurs once in a colour, so blends collect it and one permutation sorts it.
struct Weave {
  static __mmask16 lanes(int colour, int reg) {  // those that hold `colour` in register `reg`
    return static_cast<__mmask16>(0x9249u << ((colour - reg + 3) % 3));
  }

  // lanes(colour, 0), lanes(colour, 1), else register 2
  static __m512 collect(int colour, __m512 a, __m512 b, __m512 c) {
    return _mm512_mask_blend_ps(lanes(colour, 1), _mm512_mask_blend_ps(lanes(colour, 0), c, a), b);
  }

  // Register `reg` in memory order out of the permuted colours.
  static __m512 gather(int reg, __m512 red, __m512 green, __m512 blue) {
    return _mm512_mask_blend_ps(lanes(1, reg), _mm512_mask_blend_ps(lanes(0, reg), blue, red), green);
  }

  static __m512i multiples(int factor, int offset) {  // (factor * lane + offset) % 16
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i scaled = _mm512_mullo_epi32(lane, _mm512_set1_epi32(factor));
    return _mm512_and_epi32(_mm512_add_epi32(scaled, _mm512_set1_epi32(offset)), _mm512_set1_epi32(15));
  }

  static __m512 permute(__m512i index, __m512 v) { return _mm512_maskz_permutexvar_ps(0xffff, index, v); }
};

// Row of RGB floats to planes [3][step][length]; whole blocks of 16 * step pixels, so both rows need room beyond width.
template <int kStep>
inline void split_colours(const float* row, int width, float* planes, int64_t length) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  for (int x = 0; x < width; x += 16 * kStep, row += 48 * kStep, planes += 16) {
    __m512 v[3 * kStep];
    for (int i = 0; i < 3 * kStep; ++i) v[i] = _mm512_loadu_ps(row + 16 * i);
    for (int c = 0; c < 3; ++c) {
      const __m512i sort = Weave::multiples(3, c);
      float* to = planes + c * kStep * length;
      __m512 part[kStep];
      for (int i = 0; i < kStep; ++i)
        part[i] = Weave::permute(sort, Weave::collect(c, v[3 * i], v[3 * i + 1], v[3 * i + 2]));
      if (kStep == 1) {
        _mm512_storeu_ps(to, part[0]);
      } else {
        _mm512_storeu_ps(to, _mm512_permutex2var_ps(part[0], even, part[kStep - 1]));
        _mm512_storeu_ps(to + length, _mm512_permutex2var_ps(part[0], odd, part[kStep - 1]));
      }
    }
  }
}

// Row of planes to done[colour * pitch + x], whole groups of 16 outputs.
template <int kStep, int kTaps>
inline void weighted_planes(const float* planes, int64_t length, const Fan& fan, float* done, int64_t pitch) {
  const int taps = kTaps ? kTaps : fan.taps;
  const float* weight = fan.weight;
  for (int g = 0; g < fan.groups; ++g, done += 16) {
    const float* p = planes + fan.base[g];
    __m512 low[3 * kStep], high[3 * kStep], sum[3];
    for (int i = 0; i < 3 * kStep; ++i) {
      low[i] = _mm512_loadu_ps(p + i * length);
      high[i] = _mm512_loadu_ps(p + i * length + 16);
    }
    for (int c = 0; c < 3; ++c) sum[c] = _mm512_setzero_ps();
    __m512i index = _mm512_loadu_si512(fan.index + 16 * g);
    for (int k = 0; k < taps; k += kStep) {
      for (int s = 0; s < kStep; ++s, weight += 16) {
        __m512 w = _mm512_loadu_ps(weight);
        asm("" : "+v"(w));  // one load for three uses
        for (int c = 0; c < 3; ++c) {
          const int i = c * kStep + s;
          sum[c] = _mm512_fmadd_ps(w, _mm512_permutex2var_ps(low[i], index, high[i]), sum[c]);
        }
      }
      index = _mm512_add_epi32(index, _mm512_set1_epi32(1));
    }
    for (int c = 0; c < 3; ++c) _mm512_storeu_ps(done + c * pitch, sum[c]);
  }
}

inline void weighted_planes_any(const float* planes, int64_t length, const Fan& fan, float* done, int64_t pitch) {
  if (fan.step == 1) {
    switch (fan.taps) {
      case 2: return weighted_planes<1, 2>(planes, length, fan, done, pitch);
      case 3: return weighted_planes<1, 3>(planes, length, fan, done, pitch);
      case 4: return weighted_planes<1, 4>(planes, length, fan, done, pitch);
      case 5: return weighted_planes<1, 5>(planes, length, fan, done, pitch);
      default: return weighted_planes<1, 0>(planes, length, fan, done, pitch);
    }
  }
  switch (fan.taps) {
    case 4: return weighted_planes<2, 4>(planes, length, fan, done, pitch);
    case 6: return weighted_planes<2, 6>(planes, length, fan, done, pitch);
    case 8: return weighted_planes<2, 8>(planes, length, fan, done, pitch);
    default: return weighted_planes<2, 0>(planes, length, fan, done, pitch);
  }
}

}  // namespace DDFAST_ISA
}  // namespace ddfast

#endif

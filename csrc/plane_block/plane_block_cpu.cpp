#include "plane_block/plane_block.h"

#include <cmath>

#include "common/lanes.h"
#include "common/parallel.h"

namespace ddfast {
namespace DDFAST_ISA {
namespace {

struct Bf16 {
  uint16_t bits;
};

inline Wide get(const float* p) { return load<Wide>(p); }
inline void put(float* p, Wide v) { store(p, v); }

inline Wide get(const Bf16* p) {
#if defined(__AVX512F__)
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, half), 16));
#elif defined(__AVX2__)
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
#else
  uint32_t u[kLanes];
  for (int i = 0; i < kLanes; ++i) u[i] = uint32_t{p[i].bits} << 16;
  return load<Wide>(u);
#endif
}

// Round to nearest even; NaN may become another NaN or infinity, which the callers' loss checks see as well.
inline void put(Bf16* p, Wide v) {
#if defined(__AVX512F__)
  const __m512i u = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_epi32(_mm512_maskz_srli_epi32(0xffff, u, 16), _mm512_set1_epi32(1));
  const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
  _mm512_mask_cvtepi32_storeu_epi16(p, 0xffff, _mm512_maskz_srli_epi32(0xffff, sum, 16));
#else
  for (int i = 0; i < kLanes; ++i) p[i].bits = bf16_bits(v[i]);
#endif
}

inline Wide relu(Wide v) { return v < 0.0f ? Wide{} : v; }  // NaN stays NaN
inline Wide where_positive(Wide z, Wide v) { return z > 0.0f ? v : Wide{}; }

template <int K>
struct Count {
  static constexpr int value = K;
};

// Calls f(Count<K>, offsets of K pixels, offset of their pooled pixel or -1) for every pooled pixel, then for the pixels
// of an odd last row or column, which no pooled pixel holds.
template <class F>
inline void for_cells(const PlaneBlock& in, const F& f) {
  const int64_t c = in.c, row = in.w * c;
  if (!in.pool) {
    for (int64_t i = 0; i < in.h * in.w; ++i) {
      const int64_t at[1] = {i * c};
      f(Count<1>{}, at, i * c);
    }
    return;
  }
  const int64_t ph = in.h / 2, pw = in.w / 2;
  for (int64_t y = 0; y < ph; ++y)
    for (int64_t x = 0; x < pw; ++x) {
      const int64_t first = 2 * y * row + 2 * x * c;
      const int64_t at[4] = {first, first + c, first + row, first + row + c};
      f(Count<4>{}, at, (y * pw + x) * c);
    }
  for (int64_t y = 0; y < in.h; ++y)
    for (int64_t x = y < 2 * ph ? 2 * pw : 0; x < in.w; ++x) {
      const int64_t at[1] = {y * row + x * c};
      f(Count<1>{}, at, int64_t{-1});
    }
}

// Sums over the pixels of a plane, row by row, so that rounding grows with the rows and not with the pixels.
template <int S, int V, class F>
inline void plane_sums(const PlaneBlock& in, Wide (&total)[S][V], const F& add) {
  for (int64_t y = 0; y < in.h; ++y) {
    Wide part[S][V] = {};
    for (int64_t x = 0; x < in.w; ++x) add((y * in.w + x) * in.c, part);
    for (int s = 0; s < S; ++s)
      for (int v = 0; v < V; ++v) total[s][v] += part[s][v];
  }
}

// V vectors of channels of one image, with all that is constant over its planes; planes of type A, derivatives of T.
template <class A, class T, int V>
struct Channels {
  const PlaneBlock& in;
  int64_t plane, pooled, row, param;  // offsets of image and channel in planes, pooled planes, statistics, parameters
  float share;                        // of a pixel in its pooled pixel
  Wide mean[V], rstd[V], gamma[V], beta[V];

  Channels(const PlaneBlock& block, int64_t image, int64_t channel) : in(block) {
    const int64_t size = in.pool ? (in.h / 2) * (in.w / 2) : in.h * in.w;
    plane = image * in.h * in.w * in.c + channel;
    pooled = image * size * in.c + channel;
    row = image * in.c + channel;
    param = image / in.per_model * in.c + channel;
    share = in.pool ? 0.25f : 1.0f;
    read(in.gamma + param, gamma);
    read(in.beta + param, beta);
  }

  static void read(const float* p, Wide (&out)[V]) {
    for (int v = 0; v < V; ++v) out[v] = load<Wide>(p + v * kLanes);
  }
  static void write(float* p, const Wide (&from)[V]) {
    for (int v = 0; v < V; ++v) store(p + v * kLanes, from[v]);
  }
  void read_statistics() {
    read(in.mean + row, mean);
    read(in.rstd + row, rstd);
  }
  template <class E>
  static const E* at(const void* base, int64_t offset) { return static_cast<const E*>(base) + offset; }
  template <class E>
  static E* at(void* base, int64_t offset) { return static_cast<E*>(base) + offset; }

  Wide ahat(Wide a, int v) const { return (a - mean[v]) * rstd[v]; }
  Wide z(Wide hat, int v) const { return hat * gamma[v] + beta[v]; }

  void value() {
    const A* a = at<A>(in.a, plane);
    const float count = static_cast<float>(in.h * in.w);
    Wide shift[V], sums[2][V] = {};  // around the first pixel, so that the squares do not cancel
    for (int v = 0; v < V; ++v) shift[v] = get(a + v * kLanes);
    plane_sums(in, sums, [&](int64_t i, Wide(&part)[2][V]) {
      for (int v = 0; v < V; ++v) {
        const Wide d = get(a + i + v * kLanes) - shift[v];
        part[0][v] += d;
        part[1][v] += d * d;
      }
    });
    for (int v = 0; v < V; ++v) {
      const Wide m = sums[0][v] / count, variance = relu(sums[1][v] / count - m * m) + in.eps;
      mean[v] = shift[v] + m;
      for (int l = 0; l < kLanes; ++l) rstd[v][l] = 1.0f / std::sqrt(variance[l]);
    }
    write(in.mean + row, mean);
    write(in.rstd + row, rstd);
    A* p = at<A>(in.p, pooled);
    for_cells(in, [&](auto pixels, const auto& offset, int64_t cell) {
      if (cell < 0) return;
      for (int v = 0; v < V; ++v) {
        Wide sum{};
        for (int k = 0; k < pixels.value; ++k) sum += relu(z(ahat(get(a + offset[k] + v * kLanes), v), v));
        put(p + cell + v * kLanes, sum * share);
      }
    });
  }

  void backward() {
    read_statistics();
    const A* a = at<A>(in.a, plane);
    const T* gp = at<T>(in.gp, pooled);
    T* ga = at<T>(in.ga, plane);
    Wide gbeta[V] = {}, ggamma[V] = {};
    for_cells(in, [&](auto pixels, const auto& offset, int64_t cell) {
      if (cell < 0) return;
      for (int v = 0; v < V; ++v) {
        const Wide g = get(gp + cell + v * kLanes) * share;
        for (int k = 0; k < pixels.value; ++k) {
          const Wide hat = ahat(get(a + offset[k] + v * kLanes), v), gz = where_positive(z(hat, v), g);
          gbeta[v] += gz;
          ggamma[v] += gz * hat;
        }
      }
    });
    write(in.gbeta + row, gbeta);
    write(in.ggamma + row, ggamma);
    const float one = 1.0f / static_cast<float>(in.h * in.w);
    Wide m1[V], m2[V], scale[V];
    for (int v = 0; v < V; ++v) {
      scale[v] = rstd[v] * gamma[v];
      m1[v] = scale[v] * gbeta[v] * one;
      m2[v] = scale[v] * ggamma[v] * one;
    }
    for_cells(in, [&](auto pixels, const auto& offset, int64_t cell) {
      for (int v = 0; v < V; ++v) {
        const Wide g = cell < 0 ? Wide{} : get(gp + cell + v * kLanes) * share;
        for (int k = 0; k < pixels.value; ++k) {
          const Wide hat = ahat(get(a + offset[k] + v * kLanes), v), gz = where_positive(z(hat, v), g);
          put(ga + offset[k] + v * kLanes, scale[v] * gz - m1[v] - hat * m2[v]);
        }
      }
    });
  }

  void tangent() {
    read_statistics();
    const A* a = at<A>(in.a, plane);
    const T* da = at<T>(in.da, plane);
    const float one = 1.0f / static_cast<float>(in.h * in.w);
    Wide sums[2][V] = {}, dgamma[V], dbeta[V];
    read(in.dgamma + param, dgamma);
    read(in.dbeta + param, dbeta);
    plane_sums(in, sums, [&](int64_t i, Wide(&part)[2][V]) {
      for (int v = 0; v < V; ++v) {
        const Wide d = get(da + i + v * kLanes);
        part[0][v] += d;
        part[1][v] += ahat(get(a + i + v * kLanes), v) * d;
      }
    });
    for (int v = 0; v < V; ++v) {
      sums[0][v] *= one;
      sums[1][v] *= one;
    }
    write(in.dmean + row, sums[0]);
    write(in.cov + row, sums[1]);
    T* dp = at<T>(in.dp, pooled);
    for_cells(in, [&](auto pixels, const auto& offset, int64_t cell) {
      if (cell < 0) return;
      for (int v = 0; v < V; ++v) {
        Wide sum{};
        for (int k = 0; k < pixels.value; ++k) {
          const int64_t i = offset[k] + v * kLanes;
          const Wide hat = ahat(get(a + i), v), dhat = rstd[v] * (get(da + i) - sums[0][v] - hat * sums[1][v]);
          sum += where_positive(z(hat, v), dgamma[v] * hat + gamma[v] * dhat + dbeta[v]);
        }
        put(dp + cell + v * kLanes, sum * share);
      }
    });
  }

  void tangent_backward() {
    read_statistics();
    const A* a = at<A>(in.a, plane);
    const T *da = at<T>(in.da, plane), *gp = at<T>(in.gp, pooled);
    const T* dgp = in.dgp ? at<T>(in.dgp, pooled) : nullptr;
    T *ga = at<T>(in.ga, plane), *dga = at<T>(in.dga, plane);
    const float one = 1.0f / static_cast<float>(in.h * in.w);
    Wide dmean[V], cov[V], dgamma[V], gz_sum[V] = {}, gz_hat[V] = {}, dgz_sum[V] = {}, dgz_hat[V] = {};
    read(in.dmean + row, dmean);
    read(in.cov + row, cov);
    read(in.dgamma + param, dgamma);
    for_cells(in, [&](auto pixels, const auto& offset, int64_t cell) {
      if (cell < 0) return;
      for (int v = 0; v < V; ++v) {
        const Wide g = get(gp + cell + v * kLanes) * share;
        const Wide dg = dgp ? get(dgp + cell + v * kLanes) * share : Wide{};
        for (int k = 0; k < pixels.value; ++k) {
          const int64_t i = offset[k] + v * kLanes;
          const Wide hat = ahat(get(a + i), v), dhat = rstd[v] * (get(da + i) - dmean[v] - hat * cov[v]);
          const Wide live = z(hat, v), gz = where_positive(live, g), dgz = where_positive(live, dg);
          gz_sum[v] += gz;
          gz_hat[v] += gz * hat;
          dgz_sum[v] += dgz;
          dgz_hat[v] += dgz * hat + gz * dhat;
        }
      }
    });
    write(in.gbeta + row, dgz_sum);
    write(in.ggamma + row, dgz_hat);
    Wide scale[V], m1[V], m2[V], dm1[V], dm2[V];
    for (int v = 0; v < V; ++v) {
      scale[v] = rstd[v] * gamma[v];
      m1[v] = scale[v] * gz_sum[v] * one;
      m2[v] = scale[v] * gz_hat[v] * one;
      dm1[v] = rstd[v] * (dgamma[v] * gz_sum[v] + gamma[v] * dgz_sum[v]) * one;
      dm2[v] = rstd[v] * (dgamma[v] * gz_hat[v] + gamma[v] * dgz_hat[v]) * one;
    }
    for_cells(in, [&](auto pixels, const auto& offset, int64_t cell) {
      for (int v = 0; v < V; ++v) {
        const Wide g = cell < 0 ? Wide{} : get(gp + cell + v * kLanes) * share;
        const Wide dg = cell < 0 || !dgp ? Wide{} : get(dgp + cell + v * kLanes) * share;
        for (int k = 0; k < pixels.value; ++k) {
          const int64_t i = offset[k] + v * kLanes;
          const Wide hat = ahat(get(a + i), v), dhat = rstd[v] * (get(da + i) - dmean[v] - hat * cov[v]);
          const Wide live = z(hat, v), gz = where_positive(live, g), dgz = where_positive(live, dg);
          const Wide grad = scale[v] * gz - m1[v] - hat * m2[v];
          put(ga + i, grad);
          put(dga + i, rstd[v] * (dgamma[v] * gz - cov[v] * grad) + scale[v] * dgz - dm1[v] - dhat * m2[v] - hat * dm2[v]);
        }
      }
    });
  }
};

// The same method for two vectors of channels at a time, then for a last one.
template <class Two, class One>
void run_images(const PlaneBlock& in, int threads, void (Two::*pairs)(), void (One::*single)()) {
  parallel_for(in.n, (in.n + threads - 1) / threads, threads, [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) {
      int64_t channel = 0;
      for (; channel + 2 * kLanes <= in.c; channel += 2 * kLanes) (Two(in, image, channel).*pairs)();
      for (; channel < in.c; channel += kLanes) (One(in, image, channel).*single)();
    }
  });
}

}  // namespace

#define DDFAST_PLANE_TYPES(A, T, method) \
  run_images<Channels<A, T, 2>, Channels<A, T, 1>>(in, threads, &Channels<A, T, 2>::method, &Channels<A, T, 1>::method)
#define DDFAST_PLANE(name, method)                                                 \
  void name(const PlaneBlock& in, int threads) {                                   \
    if (in.dtype == DType::bf16) DDFAST_PLANE_TYPES(Bf16, Bf16, method);           \
    else if (in.change == DType::bf16) DDFAST_PLANE_TYPES(float, Bf16, method);    \
    else DDFAST_PLANE_TYPES(float, float, method);                                 \
  }
DDFAST_PLANE(plane_value, value)
DDFAST_PLANE(plane_backward, backward)
DDFAST_PLANE(plane_tangent, tangent)
DDFAST_PLANE(plane_tangent_backward, tangent_backward)
#undef DDFAST_PLANE
#undef DDFAST_PLANE_TYPES

}  // namespace DDFAST_ISA
}  // namespace ddfast

#include <cuda_runtime.h>

#include "common/launch.h"
#include "plane_block/plane_block_cuda.h"

namespace ddfast {
namespace {

// A block works on one image and kColumns * kVec channels; a thread on kVec neighbouring channels of every kRows-th
// pooled pixel.  Sums go through warp shuffles and shared memory; planes are read twice, the second time from L2.
constexpr int kVec = 4, kColumns = 8, kRows = 32, kThreads = kColumns * kRows, kWarps = kThreads / 32;
constexpr unsigned kAll = 0xffffffffu;

struct alignas(16) Floats {
  float v[kVec];
};
struct alignas(8) Halves {
  uint16_t v[kVec];
};

__device__ Floats get(const float* p) { return *reinterpret_cast<const Floats*>(p); }

__device__ Floats get(const uint16_t* p) {  // bfloat16
  const Halves h = *reinterpret_cast<const Halves*>(p);
  Floats f;
#pragma unroll
  for (int k = 0; k < kVec; ++k) f.v[k] = __uint_as_float(static_cast<unsigned>(h.v[k]) << 16);
  return f;
}

__device__ void put(float* p, Floats f) { *reinterpret_cast<Floats*>(p) = f; }

__device__ void put(uint16_t* p, Floats f) {  // round to nearest even; NaN stays NaN
  Halves h;
#pragma unroll
  for (int k = 0; k < kVec; ++k) {
    const unsigned u = __float_as_uint(f.v[k]);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    h.v[k] = static_cast<uint16_t>(nan ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  *reinterpret_cast<Halves*>(p) = h;
}

__device__ Floats zero() { return {{0.0f, 0.0f, 0.0f, 0.0f}}; }

// Sums over the block's pixels of each of S * kVec channels' values; every thread gets those of its own channels.
template <int S>
__device__ void block_sum(Floats (&sums)[S], float (*shared)[S][kColumns * kVec]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = threadIdx.x % kColumns;
#pragma unroll
  for (int s = 0; s < S; ++s)
#pragma unroll
    for (int k = 0; k < kVec; ++k) {
      for (int step = kColumns; step < 32; step *= 2) sums[s].v[k] += __shfl_xor_sync(kAll, sums[s].v[k], step);
      if (lane < kColumns) shared[warp][s][column * kVec + k] = sums[s].v[k];
    }
  __syncthreads();
#pragma unroll
  for (int s = 0; s < S; ++s)
#pragma unroll
    for (int k = 0; k < kVec; ++k) {
      float total = 0.0f;
      for (int w = 0; w < kWarps; ++w) total += shared[w][s][column * kVec + k];
      sums[s].v[k] = total;
    }
}

// Where a thread works, and what is constant over its planes.
struct Channels {
  const PlaneBlock& in;
  int64_t plane, pooled, row, param;  // offsets of image and channel in planes, pooled planes, statistics, parameters
  int first;                          // of the pooled pixels this thread takes
  bool active;
  float share;
  Floats mean, rstd, gamma, beta;

  __device__ explicit Channels(const PlaneBlock& block) : in(block) {
    const int64_t groups = (in.c + kColumns * kVec - 1) / (kColumns * kVec);
    const int64_t image = blockIdx.x / groups;
    const int64_t channel = (blockIdx.x % groups) * (kColumns * kVec) + (threadIdx.x % kColumns) * kVec;
    first = threadIdx.x / kColumns;
    active = channel < in.c;
    const int64_t size = in.pool ? (in.h / 2) * (in.w / 2) : in.h * in.w;
    plane = image * in.h * in.w * in.c + channel;
    pooled = image * size * in.c + channel;
    row = image * in.c + channel;
    param = image / in.per_model * in.c + channel;
    share = in.pool ? 0.25f : 1.0f;
    mean = rstd = gamma = beta = zero();
    if (active) gamma = get(in.gamma + param), beta = get(in.beta + param);
  }

  __device__ void read_statistics() {
    if (active) mean = get(in.mean + row), rstd = get(in.rstd + row);
  }
  // Statistics and sums are the same in all rows of the block; its first row writes them.
  __device__ void write(float* p, Floats f) const {
    if (active && first == 0) put(p + row, f);
  }
  template <class E>
  __device__ static const E* at(const void* base, int64_t offset) { return static_cast<const E*>(base) + offset; }
  template <class E>
  __device__ static E* at(void* base, int64_t offset) { return static_cast<E*>(base) + offset; }
  __device__ float hat(float a, int k) const { return (a - mean.v[k]) * rstd.v[k]; }
  __device__ bool live(float h, int k) const { return h * gamma.v[k] + beta.v[k] > 0.0f; }

  // f(offsets of the pixels, how many, offset of their pooled pixel or -1) for the thread's share of the pooled pixels
  // and, with `rest`, of the pixels in an odd last row or column.
  template <class F>
  __device__ void cells(bool rest, const F& f) const {
    if (!active) return;
    const int h = static_cast<int>(in.h), w = static_cast<int>(in.w);
    const int64_t c = in.c, line = w * c;
    int64_t at[4];
    if (!in.pool) {
      for (int i = first; i < h * w; i += kRows) at[0] = i * c, f(at, 1, i * c);
      return;
    }
    const int ph = h / 2, pw = w / 2;
    for (int i = first; i < ph * pw; i += kRows) {
      at[0] = 2 * (i / pw) * line + 2 * (i % pw) * c;
      at[1] = at[0] + c, at[2] = at[0] + line, at[3] = at[2] + c;
      f(at, 4, i * c);
    }
    if (!rest || (h % 2 == 0 && w % 2 == 0)) return;
    for (int i = first; i < h * w; i += kRows)
      if (i / w >= 2 * ph || i % w >= 2 * pw) at[0] = i * c, f(at, 1, int64_t{-1});
  }
};

template <class A>
__global__ void __launch_bounds__(kThreads) value_kernel(const PlaneBlock in) {
  __shared__ float shared[kWarps][2][kColumns * kVec];
  Channels me(in);
  const A* a = me.at<A>(in.a, me.plane);
  const float count = static_cast<float>(in.h * in.w);
  const Floats shift = me.active ? get(a) : zero();  // around the first pixel, so that the squares do not cancel
  Floats sums[2] = {zero(), zero()};
  for (int64_t i = me.first; me.active && i < in.h * in.w; i += kRows) {
    const Floats x = get(a + i * in.c);
#pragma unroll
    for (int k = 0; k < kVec; ++k) {
      const float d = x.v[k] - shift.v[k];
      sums[0].v[k] += d, sums[1].v[k] += d * d;
    }
  }
  block_sum<2>(sums, shared);
#pragma unroll
  for (int k = 0; k < kVec; ++k) {
    const float m = sums[0].v[k] / count, variance = sums[1].v[k] / count - m * m;
    me.mean.v[k] = shift.v[k] + m;
    me.rstd.v[k] = 1.0f / sqrtf((variance < 0.0f ? 0.0f : variance) + in.eps);
  }
  me.write(in.mean, me.mean);
  me.write(in.rstd, me.rstd);
  A* p = me.at<A>(in.p, me.pooled);
  me.cells(false, [&](const int64_t* at, int pixels, int64_t cell) {
    Floats sum = zero();
    for (int j = 0; j < pixels; ++j) {
      const Floats x = get(a + at[j]);
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        const float z = me.hat(x.v[k], k) * me.gamma.v[k] + me.beta.v[k];
        sum.v[k] += z < 0.0f ? 0.0f : z;
      }
    }
#pragma unroll
    for (int k = 0; k < kVec; ++k) sum.v[k] *= me.share;
    put(p + cell, sum);
  });
}

template <class A, class T>
__global__ void __launch_bounds__(kThreads) backward_kernel(const PlaneBlock in) {
  __shared__ float shared[kWarps][2][kColumns * kVec];
  Channels me(in);
  me.read_statistics();
  const A* a = me.at<A>(in.a, me.plane);
  const T* gp = me.at<T>(in.gp, me.pooled);
  Floats sums[2] = {zero(), zero()};  // of gz and of gz * ahat
  me.cells(false, [&](const int64_t* at, int pixels, int64_t cell) {
    const Floats g = get(gp + cell);
    for (int j = 0; j < pixels; ++j) {
      const Floats x = get(a + at[j]);
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        const float hat = me.hat(x.v[k], k), gz = me.live(hat, k) ? g.v[k] * me.share : 0.0f;
        sums[0].v[k] += gz, sums[1].v[k] += gz * hat;
      }
    }
  });
  block_sum<2>(sums, shared);
  me.write(in.gbeta, sums[0]);
  me.write(in.ggamma, sums[1]);
  const float one = 1.0f / static_cast<float>(in.h * in.w);
  T* ga = me.at<T>(in.ga, me.plane);
  me.cells(true, [&](const int64_t* at, int pixels, int64_t cell) {
    const Floats g = cell < 0 ? zero() : get(gp + cell);
    for (int j = 0; j < pixels; ++j) {
      Floats x = get(a + at[j]);
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        const float hat = me.hat(x.v[k], k), gz = me.live(hat, k) ? g.v[k] * me.share : 0.0f;
        x.v[k] = me.rstd.v[k] * me.gamma.v[k] * (gz - sums[0].v[k] * one - hat * (sums[1].v[k] * one));
      }
      put(ga + at[j], x);
    }
  });
}

template <class A, class T>
__global__ void __launch_bounds__(kThreads) tangent_kernel(const PlaneBlock in) {
  __shared__ float shared[kWarps][2][kColumns * kVec];
  Channels me(in);
  me.read_statistics();
  const A* a = me.at<A>(in.a, me.plane);
  const T* da = me.at<T>(in.da, me.plane);
  Floats sums[2] = {zero(), zero()};  // of da and of ahat * da, then their means
  for (int64_t i = me.first; me.active && i < in.h * in.w; i += kRows) {
    const Floats x = get(a + i * in.c), d = get(da + i * in.c);
#pragma unroll
    for (int k = 0; k < kVec; ++k) sums[0].v[k] += d.v[k], sums[1].v[k] += me.hat(x.v[k], k) * d.v[k];
  }
  block_sum<2>(sums, shared);
  const float one = 1.0f / static_cast<float>(in.h * in.w);
#pragma unroll
  for (int k = 0; k < kVec; ++k) sums[0].v[k] *= one, sums[1].v[k] *= one;
  me.write(in.dmean, sums[0]);
  me.write(in.cov, sums[1]);
  Floats dgamma = zero(), dbeta = zero();
  if (me.active) dgamma = get(in.dgamma + me.param), dbeta = get(in.dbeta + me.param);
  T* dp = me.at<T>(in.dp, me.pooled);
  me.cells(false, [&](const int64_t* at, int pixels, int64_t cell) {
    Floats sum = zero();
    for (int j = 0; j < pixels; ++j) {
      const Floats x = get(a + at[j]), d = get(da + at[j]);
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        const float hat = me.hat(x.v[k], k);
        const float dhat = me.rstd.v[k] * (d.v[k] - sums[0].v[k] - hat * sums[1].v[k]);
        sum.v[k] += me.live(hat, k) ? dgamma.v[k] * hat + me.gamma.v[k] * dhat + dbeta.v[k] : 0.0f;
      }
    }
#pragma unroll
    for (int k = 0; k < kVec; ++k) sum.v[k] *= me.share;
    put(dp + cell, sum);
  });
}

template <class A, class T>
__global__ void __launch_bounds__(kThreads) tangent_backward_kernel(const PlaneBlock in) {
  __shared__ float shared[kWarps][4][kColumns * kVec];
  Channels me(in);
  me.read_statistics();
  const A* a = me.at<A>(in.a, me.plane);
  const T *da = me.at<T>(in.da, me.plane), *gp = me.at<T>(in.gp, me.pooled);
  const T* dgp = in.dgp ? me.at<T>(in.dgp, me.pooled) : nullptr;
  Floats dmean = zero(), cov = zero(), dgamma = zero();
  if (me.active) dmean = get(in.dmean + me.row), cov = get(in.cov + me.row), dgamma = get(in.dgamma + me.param);
  Floats sums[4] = {zero(), zero(), zero(), zero()};  // of gz, gz ahat, dgz, dgz ahat + gz dahat
  me.cells(false, [&](const int64_t* at, int pixels, int64_t cell) {
    const Floats g = get(gp + cell), dg = dgp ? get(dgp + cell) : zero();
    for (int j = 0; j < pixels; ++j) {
      const Floats x = get(a + at[j]), d = get(da + at[j]);
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        const float hat = me.hat(x.v[k], k), dhat = me.rstd.v[k] * (d.v[k] - dmean.v[k] - hat * cov.v[k]);
        const float on = me.live(hat, k) ? me.share : 0.0f, gz = on * g.v[k], dgz = on * dg.v[k];
        sums[0].v[k] += gz, sums[1].v[k] += gz * hat, sums[2].v[k] += dgz, sums[3].v[k] += dgz * hat + gz * dhat;
      }
    }
  });
  block_sum<4>(sums, shared);
  me.write(in.gbeta, sums[2]);
  me.write(in.ggamma, sums[3]);
  const float one = 1.0f / static_cast<float>(in.h * in.w);
#pragma unroll
  for (int k = 0; k < kVec; ++k) {  // from here on sums hold means: of h = gamma gz and h ahat, dh and dh ahat + h dahat
    const float plain = sums[0].v[k] * one, hat = sums[1].v[k] * one;
    sums[2].v[k] = dgamma.v[k] * plain + me.gamma.v[k] * sums[2].v[k] * one;
    sums[3].v[k] = dgamma.v[k] * hat + me.gamma.v[k] * sums[3].v[k] * one;
    sums[0].v[k] = me.gamma.v[k] * plain, sums[1].v[k] = me.gamma.v[k] * hat;
  }
  T *ga = me.at<T>(in.ga, me.plane), *dga = me.at<T>(in.dga, me.plane);
  me.cells(true, [&](const int64_t* at, int pixels, int64_t cell) {
    const Floats g = cell < 0 ? zero() : get(gp + cell), dg = cell < 0 || !dgp ? zero() : get(dgp + cell);
    for (int j = 0; j < pixels; ++j) {
      Floats x = get(a + at[j]), d = get(da + at[j]);
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        const float hat = me.hat(x.v[k], k), dhat = me.rstd.v[k] * (d.v[k] - dmean.v[k] - hat * cov.v[k]);
        const float on = me.live(hat, k) ? me.share : 0.0f, gz = on * g.v[k], dgz = on * dg.v[k];
        const float grad = me.rstd.v[k] * (me.gamma.v[k] * gz - sums[0].v[k] - hat * sums[1].v[k]);
        const float inner = dgamma.v[k] * gz + me.gamma.v[k] * dgz - sums[2].v[k];
        x.v[k] = grad;
        d.v[k] = me.rstd.v[k] * (inner - dhat * sums[1].v[k] - hat * sums[3].v[k] - cov.v[k] * grad);
      }
      put(ga + at[j], x);
      put(dga + at[j], d);
    }
  });
}

template <class A, class T>
void launch(const PlaneBlock& in, PlaneMethod method, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(in.n * ((in.c + kColumns * kVec - 1) / (kColumns * kVec)));
  switch (method) {
    case PlaneMethod::value: DDFAST_LAUNCH(blocks, kThreads, stream, value_kernel<A>, in); break;
    case PlaneMethod::backward: DDFAST_LAUNCH(blocks, kThreads, stream, (backward_kernel<A, T>), in); break;
    case PlaneMethod::tangent: DDFAST_LAUNCH(blocks, kThreads, stream, (tangent_kernel<A, T>), in); break;
    default: DDFAST_LAUNCH(blocks, kThreads, stream, (tangent_backward_kernel<A, T>), in);
  }
}

}  // namespace

int plane_block_cuda(const PlaneBlock& in, PlaneMethod method, void* stream) {
  if (in.n == 0 || in.c == 0) return cudaSuccess;
  const auto s = static_cast<cudaStream_t>(stream);
  if (in.dtype == DType::bf16) launch<uint16_t, uint16_t>(in, method, s);
  else if (in.change == DType::bf16) launch<float, uint16_t>(in, method, s);
  else launch<float, float>(in, method, s);
  return cudaGetLastError();
}

}  // namespace ddfast

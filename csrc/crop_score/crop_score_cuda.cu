#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>

#include "crop_score/crop_score_cuda.h"

namespace ddfast {
namespace {

constexpr int kWarps = 4;  // one block per image, one warp per crop in turn
constexpr int kChunk = 8;
constexpr unsigned kAll = 0xffffffffu;

__device__ float widen(float x) { return x; }
__device__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ float widen(__half x) { return __half2float(x); }

// Online sum of exponentials: sum of e^(z - finite(top)).  NaN reaches `sum`; `top` passes it over.
struct Partial {
  float top, sum;
};

// Shift for a maximum that may be infinite: +inf logits then give sum = inf, and an empty sum stays 0.
__device__ float finite(float top) { return isinf(top) ? 0.0f : top; }

__device__ Partial merge(Partial a, Partial b) {
  const float top = fmaxf(a.top, b.top), shift = finite(top);
  return {top, a.sum * expf(a.top - shift) + b.sum * expf(b.top - shift)};
}

__device__ Partial merge_warp(Partial p) {
  for (int step = 16; step > 0; step /= 2)
    p = merge(p, {__shfl_xor_sync(kAll, p.top, step), __shfl_xor_sync(kAll, p.sum, step)});
  return p;
}

// Elements start, start + 32, ... of the row: one maximum and one rescaling for kChunk loads in flight.
template <class T>
__device__ Partial partial(const T* __restrict__ row, int64_t start, int64_t classes, int64_t skipped) {
  float z[kChunk];
  float top = -INFINITY;
#pragma unroll
  for (int k = 0; k < kChunk; ++k) {
    const int64_t j = start + 32 * k;
    z[k] = j < classes && j != skipped ? widen(row[j]) : -INFINITY;
    top = fmaxf(top, z[k]);
  }
  const float shift = finite(top);
  float sum = 0.0f;
#pragma unroll
  for (int k = 0; k < kChunk; ++k) sum += expf(z[k] - shift);
  return {top, sum};
}

// log(1 + S e^d) as in crop_score_cpu.cpp: small losses keep their relative accuracy.
__device__ float exact_loss(Partial rivals, float own) {
  const float d = rivals.top - own;
  if (d > 0) return d + logf(rivals.sum + expf(-d));
  return log1pf(rivals.sum * expf(d));
}

__device__ float literal_loss(Partial all, float own) {
  if (isinf(all.top)) return NAN;
  return -logf(expf(own - all.top) / all.sum);
}

// NaN is larger than everything; ties (among NaN too) go to the lower index.
__device__ bool better(float loss, int64_t index, float than, int64_t than_index) {
  if (isnan(loss) || isnan(than)) {
    if (isnan(loss) && isnan(than)) return index < than_index;
    return isnan(than);
  }
  return loss < than || (loss == than && index < than_index);
}

template <class T>
__global__ void __launch_bounds__(kWarps * 32)
    crop_score_kernel(const T* __restrict__ logits, int64_t m, int64_t classes, int64_t stride_n, int64_t stride_m,
                      const int64_t* __restrict__ labels, bool literal, float* __restrict__ loss,
                      float* __restrict__ best_loss, int64_t* __restrict__ best_index) {
  const int64_t image = blockIdx.x;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t label = labels[image];
  const bool known = label >= 0 && label < classes;
  const int64_t skipped = literal ? -1 : label;
  float best = NAN;
  int64_t best_at = m;  // no crop yet
  for (int64_t crop = warp; crop < m; crop += kWarps) {
    const T* row = logits + image * stride_n + crop * stride_m;
    Partial p{-INFINITY, 0.0f};
    for (int64_t start = lane; start < classes; start += kChunk * 32) p = merge(p, partial(row, start, classes, skipped));
    p = merge_warp(p);
    const float own = known ? widen(row[label]) : NAN;
    const float value = literal ? literal_loss(p, own) : exact_loss(p, own);
    if (lane == 0) loss[image * m + crop] = value;
    if (best_at == m || better(value, crop, best, best_at)) best = value, best_at = crop;
  }
  __shared__ float shared_best[kWarps];
  __shared__ int64_t shared_at[kWarps];
  if (lane == 0) shared_best[warp] = best, shared_at[warp] = best_at;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kWarps; ++w)
    if (shared_at[w] < m && better(shared_best[w], shared_at[w], best, best_at)) best = shared_best[w], best_at = shared_at[w];
  best_loss[image] = best;
  best_index[image] = best_at;
}

template <class T>
void launch(const CropScoreArgs& a, cudaStream_t stream) {
  crop_score_kernel<T><<<static_cast<unsigned>(a.n), kWarps * 32, 0, stream>>>(
      static_cast<const T*>(a.logits), a.m, a.classes, a.stride_n, a.stride_m, a.labels, a.literal, a.loss, a.best_loss,
      a.best_index);
}

}  // namespace

int crop_score_cuda(const CropScoreArgs& a, void* stream) {
  if (a.n == 0) return cudaSuccess;
  const auto s = static_cast<cudaStream_t>(stream);
  if (a.dtype == DType::bf16) launch<__nv_bfloat16>(a, s);
  else if (a.dtype == DType::f16) launch<__half>(a, s);
  else launch<float>(a, s);
  return cudaGetLastError();
}

}  // namespace ddfast

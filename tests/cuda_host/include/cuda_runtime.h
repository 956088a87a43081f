// Enough of CUDA's runtime to compile and run kernels with g++: the threads of a block are fibers of one thread, and
// __syncthreads and warp shuffles are where they take turns.  Blocks run one after the other.
//
// A fiber that meets another kind of synchronisation than its neighbours, or ends while they wait, is an error: on a GPU
// that would hang or give garbage.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

using cudaStream_t = void*;
constexpr int cudaSuccess = 0;
inline int cudaGetLastError() { return cudaSuccess; }

struct Index {
  unsigned x, y, z;
};

namespace cuda_host {

enum class Waits { nothing, block, warp };

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  Index thread{};
  Waits waits = Waits::nothing;
  bool done = false;
  uint32_t sent = 0;
};

struct Block {
  std::vector<std::unique_ptr<Fiber>> fibers;
  ucontext_t scheduler{};
  Fiber* current = nullptr;
  Index index{}, size{}, grid{};
  std::function<void()> body;
};

inline Block& block() {
  static Block one;
  return one;
}

inline void fail(const char* why) {
  std::fprintf(stderr, "cuda_host: %s\n", why);
  std::abort();
}

inline void enter() {
  block().body();
  block().current->done = true;
}

// Hands over until every fiber has come to the same point.
inline void wait(Waits what) {
  Fiber& me = *block().current;
  me.waits = what;
  swapcontext(&me.context, &block().scheduler);
}

inline void run_block() {
  Block& b = block();
  for (auto& fiber : b.fibers) {
    fiber->done = false;
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.data();
    fiber->context.uc_stack.ss_size = fiber->stack.size();
    fiber->context.uc_link = &b.scheduler;
    makecontext(&fiber->context, enter, 0);
  }
  for (size_t left = b.fibers.size(); left > 0;) {
    for (auto& fiber : b.fibers) {
      if (fiber->done) continue;
      fiber->waits = Waits::nothing;
      b.current = fiber.get();
      swapcontext(&b.scheduler, &fiber->context);
      left -= fiber->done;
    }
    for (auto& fiber : b.fibers)
      if (fiber->done != b.fibers[0]->done || fiber->waits != b.fibers[0]->waits) fail("threads of a block diverged at a barrier");
  }
}

template <class Kernel, class... Arguments>
void launch(unsigned blocks, unsigned threads, Kernel kernel, Arguments... arguments) {
  Block& b = block();
  b.size = {threads, 1, 1}, b.grid = {blocks, 1, 1};
  b.fibers.clear();
  for (unsigned t = 0; t < threads; ++t) {
    b.fibers.push_back(std::make_unique<Fiber>());
    b.fibers.back()->stack.resize(256 << 10);
    b.fibers.back()->thread = {t, 0, 0};
  }
  b.body = [=] { kernel(arguments...); };
  for (unsigned i = 0; i < blocks; ++i) {
    b.index = {i, 0, 0};
    run_block();
  }
}

}  // namespace cuda_host

#define threadIdx (cuda_host::block().current->thread)
#define blockIdx (cuda_host::block().index)
#define blockDim (cuda_host::block().size)
#define gridDim (cuda_host::block().grid)
#define DDFAST_LAUNCH(blocks, threads, stream, kernel, ...) \
  ((void)(stream), cuda_host::launch((blocks), (threads), [](auto... a) { kernel(a...); }, __VA_ARGS__))

inline void __syncthreads() { cuda_host::wait(cuda_host::Waits::block); }

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int step) {
  static_assert(sizeof(T) == 4, "four bytes a lane");
  cuda_host::Block& b = cuda_host::block();
  if (mask != 0xffffffffu) cuda_host::fail("a shuffle of part of a warp");
  std::memcpy(&b.current->sent, &value, 4);
  cuda_host::wait(cuda_host::Waits::warp);  // until all have sent
  const uint32_t got = b.fibers[b.current->thread.x ^ static_cast<unsigned>(step)]->sent;
  cuda_host::wait(cuda_host::Waits::warp);  // until all have read
  std::memcpy(&value, &got, 4);
  return value;
}

inline float __uint_as_float(unsigned u) {
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
inline unsigned __float_as_uint(float f) {
  unsigned u;
  std::memcpy(&u, &f, 4);
  return u;
}

// Splits [0, n) over at most `threads` threads; the caller works too.  Threads live for one call, so there is no pool
// to break after fork() and nothing to oversubscribe when callers are themselves worker threads (they pass threads=1).
#pragma once

#include <algorithm>
#include <cstdint>

namespace ddfast {

// Calls run(context, chunk) for every chunk in [0, chunks) on `workers` threads and rethrows the first exception.
// Defined once (csrc/bindings/parallel.cpp), outside the sources compiled per instruction set: the standard library's
// inline functions would otherwise be merged across them, and an AVX-512 copy could end up in an AVX2 path.
void run_chunks(int64_t chunks, int workers, void (*run)(void* context, int64_t chunk), void* context);

// body(begin, end) is called on disjoint ranges of at most `grain` items that together cover [0, n).
template <class Body>
void parallel_for(int64_t n, int64_t grain, int threads, const Body& body) {
  grain = grain < 1 ? 1 : grain;
  const int64_t chunks = (n + grain - 1) / grain;
  const int64_t workers = threads < chunks ? threads : chunks;
  if (workers <= 1) {
    if (n > 0) body(int64_t{0}, n);
    return;
  }
  struct Context {
    const Body& body;
    int64_t n, grain;
  } context{body, n, grain};
  run_chunks(chunks, static_cast<int>(workers), [](void* p, int64_t chunk) {
    const Context& c = *static_cast<Context*>(p);
    const int64_t end = (chunk + 1) * c.grain;
    c.body(chunk * c.grain, end < c.n ? end : c.n);
  }, &context);
}

}  // namespace ddfast

// Splits [0, n) over at most `threads` threads; the caller works too.  Threads live for one call, so there is no pool
// to break after fork() and nothing to oversubscribe when callers are themselves worker threads (they pass threads=1).
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace ddfast {

// body(begin, end) is called on disjoint ranges of at most `grain` items that together cover [0, n).
template <class Body>
void parallel_for(int64_t n, int64_t grain, int threads, const Body& body) {
  grain = std::max<int64_t>(grain, 1);
  const int64_t chunks = (n + grain - 1) / grain;
  const int workers = static_cast<int>(std::min<int64_t>(std::max(threads, 1), chunks));
  if (workers <= 1) {
    if (n > 0) body(int64_t{0}, n);
    return;
  }
  std::atomic<int64_t> next{0};
  std::exception_ptr error;
  std::atomic<bool> failed{false};
  auto work = [&] {
    try {
      for (int64_t c; !failed && (c = next++) < chunks;) body(c * grain, std::min(n, (c + 1) * grain));
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
  };
  std::vector<std::thread> pool;
  for (int i = 1; i < workers; ++i) pool.emplace_back(work);
  work();
  for (auto& t : pool) t.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace ddfast

#include "common/parallel.h"

#include <atomic>
#include <exception>
#include <thread>
#include <vector>

namespace ddfast {

void run_chunks(int64_t chunks, int workers, void (*run)(void*, int64_t), void* context) {
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  auto work = [&] {
    try {
      for (int64_t chunk; !failed && (chunk = next++) < chunks;) run(context, chunk);
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
  };
  std::vector<std::thread> pool;
  for (int i = 1; i < workers; ++i) pool.emplace_back(work);
  work();
  for (auto& thread : pool) thread.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace ddfast

// Python entry of the counter-based generator; see ddfast/runs/seeds.py for the definition.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace ddfast {

// Philox4x32-10 of `count` counters [count][4] under one key: words [count][4].
inline void philox4x32(const uint32_t* counter, int64_t count, uint32_t key0, uint32_t key1, uint32_t* words) {
  for (int64_t i = 0; i < count; ++i, counter += 4, words += 4) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key0, k1 = key1;
    for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
      c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
      c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
      c1 = static_cast<uint32_t>(p1);
      c3 = static_cast<uint32_t>(p0);
    }
    words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
  }
}

inline void bind_philox(pybind11::module_& m) {
  m.def("philox4x32", [](uintptr_t counter, int64_t count, uint32_t key0, uint32_t key1, uintptr_t words) {
    pybind11::gil_scoped_release release;
    philox4x32(reinterpret_cast<const uint32_t*>(counter), count, key0, key1, reinterpret_cast<uint32_t*>(words));
  });
}

}  // namespace ddfast

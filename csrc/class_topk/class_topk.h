// Merges scored samples into the K best per class.  See ddfast/ops/class_topk/__init__.py.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace ddfast {

// best_*: classes x k, contiguous; old_* is read, new_* written completely (they must not overlap).
template <class T>
struct ClassTopkArgs {
  const T* scores;
  const int64_t* labels;
  const int64_t* keys;
  int64_t n, classes, k;
  const T* old_scores;
  const int64_t* old_keys;
  T* new_scores;
  int64_t* new_keys;
};

// Returns the first sample whose label is out of range (the table is then unspecified), or -1.
DDFAST_DECLARE(int64_t class_topk(const ClassTopkArgs<float>& args))
DDFAST_DECLARE(int64_t class_topk(const ClassTopkArgs<double>& args))

}  // namespace ddfast

#include "class_topk/class_topk.h"

#include <algorithm>
#include <cstring>
#include <memory>

namespace ddfast {
namespace DDFAST_ISA {
namespace {

template <class T>
struct Entry {
  T score;
  int64_t key;
};

// Total order: score (NaN last, -0.0 equal to 0.0), then key.
template <class T>
inline bool before(const Entry<T>& a, const Entry<T>& b) {
  if (a.score < b.score) return true;
  if (b.score < a.score) return false;
  const bool a_nan = a.score != a.score, b_nan = b.score != b.score;
  return a_nan == b_nan ? a.key < b.key : b_nan;
}

struct Before {
  template <class T>
  bool operator()(const Entry<T>& a, const Entry<T>& b) const {
    return before(a, b);
  }
};

template <class T>
inline Entry<T> entry(const T* scores, const int64_t* keys, int64_t i) {
  return {scores[i] + T{0}, keys[i]};  // -0.0 becomes 0.0
}

// Merges `count` sorted entries into one row of k.
template <class T>
void merge_row(const ClassTopkArgs<T>& a, int64_t label, const Entry<T>* fresh, int64_t count) {
  const int64_t row = label * a.k;
  int64_t old_at = 0, fresh_at = 0;
  for (int64_t i = 0; i < a.k; ++i) {
    Entry<T> kept = entry(a.old_scores + row, a.old_keys + row, old_at);
    if (fresh_at < count && before(fresh[fresh_at], kept)) {
      kept = fresh[fresh_at++];
    } else {
      ++old_at;
    }
    a.new_scores[row + i] = kept.score;
    a.new_keys[row + i] = kept.key;
  }
}

template <class T>
int64_t select(const ClassTopkArgs<T>& a) {
  for (int64_t i = 0; i < a.n; ++i)
    if (a.labels[i] < 0 || a.labels[i] >= a.classes) return i;
  if (a.k == 0) return -1;

  // Group by class (counting sort) the samples that beat their row's last entry.
  auto enters = [&](int64_t i) {
    const int64_t last = a.labels[i] * a.k + a.k - 1;
    return before(entry(a.scores, a.keys, i), entry(a.old_scores, a.old_keys, last));
  };
  const std::unique_ptr<int64_t[]> ends(new int64_t[a.classes + 1]());
  for (int64_t i = 0; i < a.n; ++i) ends[a.labels[i] + 1] += enters(i);
  for (int64_t c = 0; c < a.classes; ++c) ends[c + 1] += ends[c];
  const std::unique_ptr<Entry<T>[]> grouped(new Entry<T>[ends[a.classes]]);
  for (int64_t i = 0; i < a.n; ++i)
    if (enters(i)) grouped[ends[a.labels[i]]++] = entry(a.scores, a.keys, i);

  for (int64_t c = 0; c < a.classes; ++c) {  // ends[c] is now the end of class c
    Entry<T>* first = grouped.get() + (c ? ends[c - 1] : 0);
    Entry<T>* last = grouped.get() + ends[c];
    if (last - first > a.k) {
      std::nth_element(first, first + a.k, last, Before{});
      last = first + a.k;
    }
    std::sort(first, last, Before{});
    merge_row(a, c, first, last - first);
  }
  return -1;
}

}  // namespace

int64_t class_topk(const ClassTopkArgs<float>& args) { return select(args); }
int64_t class_topk(const ClassTopkArgs<double>& args) { return select(args); }

}  // namespace DDFAST_ISA
}  // namespace ddfast

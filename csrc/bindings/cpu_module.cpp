// ddfast._cpu: the CPU kernels behind plain pointers.  Knows nothing of torch; Python checks tensors before it calls.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "class_topk/class_topk.h"
#include "bindings/augment.h"
#include "bindings/conv.h"
#include "bindings/crops.h"
#include "bindings/dsa.h"
#include "bindings/loss.h"
#include "bindings/mmd.h"
#include "bindings/philox.h"
#include "bindings/plane.h"
#include "common/isa.h"
#include "crop_score/crop_score.h"

namespace py = pybind11;
using namespace ddfast;

namespace {

// glibc maps and unmaps every block above 128 KiB afresh, so each decoded image pays its page faults again; keep such
// blocks on the heap instead.
bool tune_malloc() {
#ifdef __GLIBC__
  return mallopt(M_MMAP_THRESHOLD, 1 << 30) == 1 && mallopt(M_TRIM_THRESHOLD, 1 << 30) == 1;
#else
  return false;
#endif
}

void set_isa(const std::string& name) {
#ifdef DDFAST_X86
  if (name == "v3" && cpu_has_v3()) { current_isa() = Isa::v3; return; }
  if (name == "v4" && cpu_has_v4()) { current_isa() = Isa::v4; return; }
#else
  if (name == "generic") return;
#endif
  throw py::value_error("isa: '" + name + "' is not built or not supported by this processor");
}

template <class T>
const T* in(uintptr_t address) { return reinterpret_cast<const T*>(address); }
template <class T>
T* out(uintptr_t address) { return reinterpret_cast<T*>(address); }

int64_t bind_crop_score(uintptr_t logits, int dtype, int64_t n, int64_t m, int64_t classes, int64_t stride_n, int64_t stride_m,
                        uintptr_t labels, bool literal, uintptr_t loss, uintptr_t best_loss, uintptr_t best_index, int threads) {
  const CropScoreArgs args{in<void>(logits), static_cast<DType>(dtype), n, m, classes, stride_n, stride_m, in<int64_t>(labels),
                           literal, out<float>(loss), out<float>(best_loss), out<int64_t>(best_index)};
  const py::gil_scoped_release release;
  return DDFAST_DISPATCH(crop_score(args, threads));
}

template <class T>
int64_t run_class_topk(uintptr_t scores, uintptr_t labels, uintptr_t keys, int64_t n, int64_t classes, int64_t k,
                       uintptr_t old_scores, uintptr_t old_keys, uintptr_t new_scores, uintptr_t new_keys) {
  const ClassTopkArgs<T> args{in<T>(scores), in<int64_t>(labels), in<int64_t>(keys), n, classes, k,
                              in<T>(old_scores), in<int64_t>(old_keys), out<T>(new_scores), out<int64_t>(new_keys)};
  const py::gil_scoped_release release;
  return DDFAST_DISPATCH(class_topk(args));
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
#ifdef DDFAST_X86
  if (!cpu_has_v3()) throw py::import_error("ddfast._cpu needs a processor with AVX2 and FMA (x86-64-v3)");
#endif
  m.def("isa", [] { return std::string(isa_name(current_isa())); });
  m.def("best_isa", [] { return std::string(isa_name(best_isa())); });
  m.def("set_isa", &set_isa, py::arg("isa"));
  m.def("tune_malloc", &tune_malloc);
  bind_crops(m);
  bind_augment(m);
  bind_conv(m);
  bind_dsa(m);
  bind_loss(m);
  bind_mmd(m);
  bind_philox(m);
  bind_plane(m);
  m.def("crop_score", &bind_crop_score);
  m.def("class_topk_f32", &run_class_topk<float>);
  m.def("class_topk_f64", &run_class_topk<double>);
  m.def("build_info", [] {
    py::dict d;
    d["compiler"] = "gcc " __VERSION__;
    d["pybind11"] = std::to_string(PYBIND11_VERSION_MAJOR) + "." + std::to_string(PYBIND11_VERSION_MINOR);
    return d;
  });
}

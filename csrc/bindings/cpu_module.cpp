// ddfast._cpu: the CPU kernels behind plain pointers.  Knows nothing of torch; Python checks tensors before it calls.
#include <malloc.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "common/isa.h"

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

}  // namespace

PYBIND11_MODULE(_cpu, m) {
#ifdef DDFAST_X86
  if (!cpu_has_v3()) throw py::import_error("ddfast._cpu needs a processor with AVX2 and FMA (x86-64-v3)");
#endif
  m.def("isa", [] { return std::string(isa_name(current_isa())); });
  m.def("best_isa", [] { return std::string(isa_name(best_isa())); });
  m.def("set_isa", &set_isa, py::arg("isa"));
  m.def("tune_malloc", &tune_malloc);
  m.def("build_info", [] {
    py::dict d;
    d["compiler"] = "gcc " __VERSION__;
    d["pybind11"] = std::to_string(PYBIND11_VERSION_MAJOR) + "." + std::to_string(PYBIND11_VERSION_MINOR);
    return d;
  });
}

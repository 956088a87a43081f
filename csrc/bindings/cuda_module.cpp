// ddfast._cuda: CUDA C++ kernels behind plain pointers and a stream number.  Static cudart, no torch; loads without a GPU.
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

namespace py = pybind11;

namespace {

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

py::dict device_info(int device) {
  cudaDeviceProp p;
  check(cudaGetDeviceProperties(&p, device), "cudaGetDeviceProperties");
  py::dict d;
  d["name"] = std::string(p.name);
  d["compute_capability"] = py::make_tuple(p.major, p.minor);
  d["multiprocessors"] = p.multiProcessorCount;
  d["l2_bytes"] = p.l2CacheSize;
  d["memory_bytes"] = p.totalGlobalMem;
  return d;
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.def("device_info", &device_info, py::arg("device") = 0);
  m.def("build_info", [] {
    py::dict d;
    d["cudart"] = CUDART_VERSION;
    return d;
  });
}

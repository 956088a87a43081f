// ddfast._cuda: CUDA C++ kernels behind plain pointers and a stream number.  Static cudart, no torch; loads without a GPU.
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "bindings/plane_args.h"
#include "crop_score/crop_score_cuda.h"
#include "plane_block/plane_block_cuda.h"

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

template <class T>
T* pointer(uintptr_t address) { return reinterpret_cast<T*>(address); }

void bind_crop_score(uintptr_t logits, int dtype, int64_t n, int64_t m, int64_t classes, int64_t stride_n, int64_t stride_m,
                     uintptr_t labels, bool literal, uintptr_t loss, uintptr_t best_loss, uintptr_t best_index, uintptr_t stream) {
  const ddfast::CropScoreArgs args{pointer<const void>(logits), static_cast<ddfast::DType>(dtype), n, m, classes, stride_n, stride_m,
                                   pointer<const int64_t>(labels), literal, pointer<float>(loss), pointer<float>(best_loss),
                                   pointer<int64_t>(best_index)};
  check(static_cast<cudaError_t>(ddfast::crop_score_cuda(args, pointer<void>(stream))), "crop_score");
}

void bind_plane_block(int method, std::array<int64_t, 5> shape, bool pool, std::array<int, 2> dtypes, float eps,
                      const std::map<std::string, uintptr_t>& addresses, uintptr_t stream) {
  const ddfast::PlaneBlock in = ddfast::plane_args(shape, pool, dtypes, eps, addresses);
  check(static_cast<cudaError_t>(ddfast::plane_block_cuda(in, static_cast<ddfast::PlaneMethod>(method), pointer<void>(stream))),
        "plane_block");
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.def("device_info", &device_info, py::arg("device") = 0);
  m.def("crop_score", &bind_crop_score);
  m.def("plane_block", &bind_plane_block);
  m.def("build_info", [] {
    py::dict d;
    d["cudart"] = CUDART_VERSION;
    return d;
  });
}

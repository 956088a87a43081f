// Runs a kernel of plane_block_cuda.cu on the CPU: plane_block_host <input> <output>.
//
// Input: int64 method, n, h, w, c, per_model, pool, dtype, change; float32 eps; then for each array of kNames int64 bytes (0 for
// a null pointer) and its contents.  Output: the contents of all arrays afterwards, in the same way.  Every array is a
// block of its own on the heap, so that the address sanitizer sees any access beyond it.
#include <cstdio>
#include <cstdlib>
#include <vector>

#define DDFAST_ISA v3
#define DDFAST_X86 1
#include "plane_block/plane_block_cuda.cu"

namespace {

template <class T>
T read(std::FILE* file) {
  T value;
  if (std::fread(&value, sizeof(T), 1, file) != 1) std::exit(2);
  return value;
}

}  // namespace

int main(int, char** argv) {
  std::FILE* in = std::fopen(argv[1], "rb");
  if (!in) return 2;
  const auto method = static_cast<ddfast::PlaneMethod>(read<int64_t>(in));
  ddfast::PlaneBlock block{};
  block.n = read<int64_t>(in), block.h = read<int64_t>(in), block.w = read<int64_t>(in), block.c = read<int64_t>(in);
  block.per_model = read<int64_t>(in), block.pool = read<int64_t>(in) != 0;
  block.dtype = static_cast<ddfast::DType>(read<int64_t>(in));
  block.change = static_cast<ddfast::DType>(read<int64_t>(in)), block.eps = read<float>(in);
  constexpr int kArrays = 18;
  std::vector<int64_t> sizes(kArrays);
  std::vector<void*> data(kArrays, nullptr);
  for (int i = 0; i < kArrays; ++i) {
    sizes[i] = read<int64_t>(in);
    if (sizes[i] == 0) continue;
    data[i] = std::malloc(sizes[i]);
    if (std::fread(data[i], 1, sizes[i], in) != static_cast<size_t>(sizes[i])) return 2;
  }
  std::fclose(in);
  const auto row = [&](int i) { return static_cast<float*>(data[i]); };
  block.gamma = row(0), block.beta = row(1), block.dgamma = row(2), block.dbeta = row(3);
  block.a = data[4], block.da = data[5], block.gp = data[6], block.dgp = data[7];
  block.mean = row(8), block.rstd = row(9), block.dmean = row(10), block.cov = row(11);
  block.p = data[12], block.dp = data[13], block.ga = data[14], block.dga = data[15];
  block.ggamma = row(16), block.gbeta = row(17);
  if (ddfast::plane_block_cuda(block, method, nullptr) != 0) return 3;
  std::FILE* out = std::fopen(argv[2], "wb");
  for (int i = 0; i < kArrays; ++i) {
    std::fwrite(&sizes[i], sizeof(int64_t), 1, out);
    if (data[i]) std::fwrite(data[i], 1, sizes[i], out);
    std::free(data[i]);
  }
  return std::fclose(out);
}

#!/usr/bin/env bash
# Builds a wheel with the CUDA kernels as well, for compute capability 8.0 to 12.0 in one file: packaging/cuda_wheel.sh OUT.
#
# Needs no CUDA installation, no GPU and no torch: nvcc and the static runtime come as packages from the index that pip
# uses.  CUDA_VERSION (13.0) says which, of CUDA 13: packages of CUDA 12 have other names and folders.  Drivers must be of
# that major version.  DDFAST_CUDA_ARCHS may name other targets.  The wheel's version ends in +cu130, as PyTorch's do;
# run it in the manylinux_2_28 image for a wheel to give away.
set -euo pipefail
cd "$(dirname "$0")/.."
cuda=${CUDA_VERSION:-13.0}
if [[ ! $cuda =~ ^13\.[0-9]+$ ]]; then
  echo "CUDA_VERSION=$cuda: expected a version of CUDA 13, such as 13.0; for others build where their nvcc is" >&2
  exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"$python" -m venv "$scratch/tools"
"$scratch/tools/bin/pip" install -q build
"$scratch/tools/bin/pip" install -q --no-deps --target "$scratch/toolkit" \
  "nvidia-cuda-nvcc==$cuda.*" "nvidia-cuda-crt==$cuda.*" "nvidia-nvvm==$cuda.*" "nvidia-cuda-runtime==$cuda.*" \
  "nvidia-cuda-cccl==$cuda.*"
mkdir "$scratch/tree"
git ls-files -z | tar --null --files-from - -c | tar -x -C "$scratch/tree"
printf '[egg_info]\ntag_build = +cu%s\n' "${cuda//./}" >"$scratch/tree/setup.cfg"

DDFAST_CUDA=1 DDFAST_CUDA_HOME=$(echo "$scratch"/toolkit/nvidia/cu*) \
  DDFAST_CUDA_ARCHS=${DDFAST_CUDA_ARCHS:-"80;86;89;90;100;120"} \
  "$scratch/tools/bin/python" -m build --wheel --outdir "$scratch/new" "$scratch/tree"
"$python" packaging/check_dist.py "$scratch"/new/*
mv "$scratch"/new/* "$out"

#!/usr/bin/env bash
# Builds the source distribution, and from it, each in an isolated environment, the wheel with the C++ kernels and the
# wheel of Python alone; checks what is in them: packaging/build.sh OUT.  Builds what git tracks, as it is in the tree.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p "$1"
out=$(cd "$1" && pwd)
python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"$python" -m venv "$scratch/tools"
"$scratch/tools/bin/pip" install -q build auditwheel
mkdir "$scratch/tree"
git ls-files -z | tar --null --files-from - -c | tar -x -C "$scratch/tree"

build=("$scratch/tools/bin/python" -m build)
new=$scratch/new  # of this version alone, whatever OUT holds
"${build[@]}" --sdist --outdir "$new" "$scratch/tree" >"$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
mkdir "$scratch/sdist"
tar -x -z -C "$scratch/sdist" --strip-components 1 -f "$new"/ddfast-*.tar.gz
for cpu in auto 0; do
  DDFAST_CPU=$cpu DDFAST_CUDA=0 "${build[@]}" --wheel --outdir "$new" "$scratch/sdist" >"$scratch/log" 2>&1 ||
    { cat "$scratch/log"; exit 1; }
  rm -rf "$scratch/sdist/build"
done
"$python" packaging/check_dist.py "$new"/*
for wheel in "$new"/*-linux_x86_64.whl; do
  [ ! -e "$wheel" ] || "$scratch/tools/bin/auditwheel" show "$wheel"
done
mv "$new"/* "$out"

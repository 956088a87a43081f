#!/usr/bin/env bash
# Builds the distributions and tries the wheels where nothing else of ddfast is: packaging/check_install.sh PYTHON.
#
# Each wheel goes into a new environment outside the checkout.  To spare CI gigabytes of downloads torch and the other
# dependencies are those of PYTHON's environment, added to the new one's path behind its own packages; ddfast itself
# comes from the wheel, which the smoke test checks.  `pip check` compares the wheel's requirements with what is there.
# Of the source distribution all tests must be found: pytest collects them in it.  Those that
# read its other files must pass there.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=$1
[[ $python == /* ]] || python=$root/$python
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

PYTHON=$python bash packaging/build.sh "$scratch/dist"
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
unset PYTHONPATH
cd "$scratch"  # so that no "ddfast" folder is in sight
for kind in kernels reference; do
  "$python" -m venv --without-pip "$kind"
  echo "$packages" >"$("$kind/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dependencies.pth"
  wheel=(dist/*-linux_x86_64.whl)
  [ "$kind" = kernels ] || wheel=(dist/*-none-any.whl)
  pip=("$python" -m pip --python "$kind/bin/python")
  "${pip[@]}" install -q --no-deps --no-index "${wheel[0]}"
  if "${pip[@]}" check | grep '^ddfast '; then exit 1; fi
  "$kind/bin/python" "$root/packaging/smoke.py" "--$kind"
done

mkdir source
tar -x -z -C source --strip-components 1 -f dist/ddfast-*.tar.gz
(cd source && "$python" -m pytest --collect-only -q -p no:cacheprovider >"$scratch/tests" 2>&1) ||
  { tail -n 40 "$scratch/tests"; exit 1; }
tail -n 1 "$scratch/tests"
reading=(tests/docs tests/packaging tests/benchmarks/test_report.py tests/benchmarks/test_records.py)
(cd source && "$python" -m pytest -q -p no:cacheprovider "${reading[@]}" >"$scratch/tests" 2>&1) ||
  { tail -n 40 "$scratch/tests"; exit 1; }
tail -n 1 "$scratch/tests"

cp "$root/packaging/consumer.py" .
"$python" -m mypy --config-file= --strict --python-executable kernels/bin/python --cache-dir cache consumer.py

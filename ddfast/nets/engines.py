"""Engines that run a captured observer: eager torch, torch.compile, OpenVINO."""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from .capture import EXPORT_ERRORS
from .constant_frame import dtype_of
from .settings import full_float32, torch_threads

aten = torch.ops.aten


class EngineError(RuntimeError):
    """An engine cannot run here; the message says what is missing."""


class Engine(Protocol):
    """Runs micro-batches; ``many`` takes prepared chunks and returns their logits in order."""

    name: str
    messages: tuple[str, ...]

    def many(self, chunks: list[Tensor]) -> list[Tensor]: ...


def head_in_float32(module: fx.GraphModule, dtype: torch.dtype) -> None:
    """Casts a graph to ``dtype`` but for its last linear layer, which is cheap and decides the logits' rounding."""
    module.to(dtype)
    output = module.graph.output_node()
    last: Any = output.args[0]
    with module.graph.inserting_before(output):
        if last.target == aten.linear.default:
            wide = [
                module.graph.call_function(aten.to.dtype, (a, torch.float32)) if isinstance(a, fx.Node) else a
                for a in last.args
            ]
            last.args = tuple(wide)
            for node in wide:
                if isinstance(node, fx.Node):
                    last.prepend(node)
        else:
            output.args = (module.graph.call_function(aten.to.dtype, (last, torch.float32)),)
    module.graph.lint()
    module.recompile()


_IN_PLACE = {
    aten.relu.default: aten.relu_.default,
    aten.hardtanh.default: aten.hardtanh_.default,
    aten.silu.default: aten.silu_.default,
    aten.add.Tensor: aten.add_.Tensor,
    aten.clamp_min.Tensor: aten.clamp_min_.Tensor,
    aten.clamp.Tensor: aten.clamp_.Tensor,
}
_FRESH = {
    *(aten.conv2d.default, aten.constant_pad_nd.default, aten.max_pool2d.default, aten.avg_pool2d.default),
    *_IN_PLACE.values(),
}


def _overwritable(node: fx.Node, operand: Any) -> bool:
    """Whether ``node`` may write its result over ``operand``: a fresh map of the same shape that nothing else reads."""
    if not isinstance(operand, fx.Node) or operand.target not in _FRESH or len(operand.users) != 1:
        return False
    mine, its = node.meta["tensor_meta"], operand.meta["tensor_meta"]
    return bool(mine.shape == its.shape and mine.dtype == its.dtype)


def work_in_place(module: fx.GraphModule, side: int) -> None:
    """Lets pointwise ops overwrite an operand that nothing else reads: fresh large buffers cost page faults.

    ``side``: input side of the graph; shapes are taken from one forward of two pictures.
    """
    with torch.no_grad(), torch_threads(1):
        ShapeProp(module).propagate(torch.zeros(2, 3, side, side, dtype=dtype_of(module)))
    for node in module.graph.nodes:
        if node.target not in _IN_PLACE:
            continue
        if node.target == aten.add.Tensor and not _overwritable(node, node.args[0]):
            if not _overwritable(node, node.args[1]):
                continue
            node.args = (node.args[1], node.args[0])
        if _overwritable(node, node.args[0]):
            node.target = _IN_PLACE[node.target]
    module.recompile()


def as_inference(chunk: Tensor) -> Tensor:
    """The same values as an inference tensor: compiled code is made anew for the other kind. Inside inference mode."""
    return chunk if chunk.is_inference() else chunk.clone()


class TorchEngine:
    """Eager torch, channels-last, float32 without TF32."""

    name = "torch"
    messages: tuple[str, ...] = ()

    def __init__(self, module: nn.Module, device: torch.device, threads: int | None) -> None:
        self.module = module.to(device).to(memory_format=torch.channels_last)
        self.run: Callable[[Tensor], Tensor] = self.module
        half = dtype_of(module) if device.type == "cpu" else None
        for dtype, name, there in (
            (torch.bfloat16, "bf16", torch.ops.mkldnn._is_mkldnn_bf16_supported),
            (torch.float16, "fp16", torch.ops.mkldnn._is_mkldnn_fp16_supported),
        ):
            if half == dtype and not there():
                self.messages = (f"this processor has no {name} arithmetic: {name} is slower than fp32 here",)
        self.threads = threads

    def many(self, chunks: list[Tensor]) -> list[Tensor]:
        with torch_threads(self.threads), full_float32(), torch.inference_mode():
            return [self.run(chunk) for chunk in chunks]


class CompileEngine(TorchEngine):
    """torch.compile with frozen weights. The first batch of each size compiles (seconds to a minute)."""

    name = "compile"

    def __init__(self, module: nn.Module, device: torch.device, threads: int | None, sample: Tensor) -> None:
        super().__init__(module, device, threads)
        try:
            self.run = torch.compile(self.module, options={"freezing": True})
            self.many([sample])
        except (RuntimeError, OSError) as error:  # Dynamo's and Inductor's own errors are RuntimeErrors
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise EngineError(f"torch.compile does not work here ({reason}); is a C++ compiler installed?") from error

    def many(self, chunks: list[Tensor]) -> list[Tensor]:
        with torch_threads(self.threads), full_float32(), torch.inference_mode():
            return [self.run(as_inference(chunk)) for chunk in chunks]


class WarmingEngine(TorchEngine):
    """Eager torch at once, and torch.compile's code as soon as a thread beside the work has made it.

    Only chunks of ``sample``'s shape take the compiled path: others would be compiled anew in the middle of the work.
    """

    name = "torch, then compile"

    def __init__(self, module: nn.Module, device: torch.device, threads: int | None, sample: Tensor) -> None:
        super().__init__(module, device, threads)
        self._shape = sample.shape
        self._compiled: Callable[[Tensor], Tensor] | None = None
        copied = copy.deepcopy(self.module)
        # A daemon: a run that ends early must not wait for the compiler.
        self.warming = threading.Thread(target=self._compile, args=(copied, sample), name="ddfast-compile", daemon=True)
        self.warming.start()

    def _compile(self, module: nn.Module, sample: Tensor) -> None:
        try:
            self._compiled = CompileEngine(module, sample.device, self.threads, sample).run
        except EngineError as error:
            self.messages = (f"eager torch to the end: {error}",)

    def many(self, chunks: list[Tensor]) -> list[Tensor]:
        compiled = self._compiled
        with torch_threads(self.threads), full_float32(), torch.inference_mode():
            if compiled is None:
                return [self.run(chunk) for chunk in chunks]
            return [compiled(as_inference(c)) if c.shape == self._shape else self.run(c) for c in chunks]


def _openvino_errors(openvino: Any) -> tuple[type[Exception], ...]:
    """Conversion errors of OpenVINO; they share no base class below Exception."""
    names = ("OpConversionFailure", "NotImplementedFailure", "GeneralFailure", "OpValidationFailure")
    return tuple(getattr(openvino.frontend, name) for name in names)


@functools.cache
def _openvino_core() -> Any:
    """The one OpenVINO core of this process, kept for good.

    On processors with AMX its CPU plugin installs a signal stack and takes it back when the core ends.  With several
    cores that end in another order, the thread is left with a freed one, and the next signal (a loader's SIGCHLD, say)
    ends the process.
    """
    return importlib.import_module("openvino").Core()


class OpenVinoEngine:
    """OpenVINO on the CPU, channels-last input, one stream a thread so that chunks run side by side."""

    name = "openvino"
    messages: tuple[str, ...] = ()

    def __init__(self, module: nn.Module, sample: Tensor, precision: str, threads: int | None) -> None:
        if importlib.util.find_spec("openvino") is None:
            raise EngineError("the openvino engine needs OpenVINO: pip install 'ddfast[openvino]'")
        self._ov = importlib.import_module("openvino")
        count = threads or torch.get_num_threads()
        model = self._convert(module, sample)
        config = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}[precision],
            "INFERENCE_NUM_THREADS": count,
            "NUM_STREAMS": count,
            # Pinned threads of several processes would all sit on the first cores.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = _openvino_core().compile_model(model, "CPU", config)
        executed = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if executed != config["INFERENCE_PRECISION_HINT"]:
            self.messages = (f"OpenVINO runs {executed} instead of {precision} on this processor",)
        self._requests = [compiled.create_infer_request() for _ in range(count)]
        self.rows = int(sample.shape[0])

    def _convert(self, module: nn.Module, sample: Tensor) -> Any:
        errors = (*EXPORT_ERRORS, *_openvino_errors(self._ov))
        try:
            model = self._ov.convert_model(torch.export.export(module, (sample,), strict=False))
        except errors as error:
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise EngineError(f"OpenVINO could not convert the network ({reason})") from error
        steps = importlib.import_module("openvino.preprocess").PrePostProcessor(model)
        steps.input(0).tensor().set_layout(self._ov.Layout("NHWC"))
        steps.input(0).model().set_layout(self._ov.Layout("NCHW"))
        return steps.build()

    def _start(self, request: Any, chunk: Tensor) -> Tensor:
        """Starts one chunk and returns the buffer that must live until it is done."""
        data = chunk.float().permute(0, 2, 3, 1).contiguous()
        if data.shape[0] < self.rows:
            data = torch.cat([data, data.new_zeros(self.rows - data.shape[0], *data.shape[1:])])
        request.set_input_tensor(0, self._ov.Tensor(data.numpy(), shared_memory=True))
        request.start_async()
        return data

    def many(self, chunks: list[Tensor]) -> list[Tensor]:
        results: list[Tensor] = [torch.empty(0)] * len(chunks)
        running: dict[int, tuple[int, Tensor]] = {}

        def finish(slot: int) -> None:
            index, data = running.pop(slot)
            self._requests[slot].wait()
            rows = chunks[index].shape[0]
            results[index] = torch.from_numpy(self._requests[slot].get_output_tensor(0).data[:rows].copy())
            del data

        for index, chunk in enumerate(chunks):
            slot = index % len(self._requests)
            if slot in running:
                finish(slot)
            running[slot] = (index, self._start(self._requests[slot], chunk))
        for slot in sorted(running, key=lambda s: running[s][0]):
            finish(slot)
        return results


def available(name: str) -> bool:
    return importlib.util.find_spec(name) is not None

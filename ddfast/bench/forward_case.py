"""The observer's forward: bare 112 px patches in, logits out; ResNet-18 with random weights."""

from __future__ import annotations

import copy
import functools

import torch
from torch import Tensor

from ddfast.bench import rivals
from ddfast.bench.cases import Case, Setting
from ddfast.bench.floor import Work
from ddfast.bench.machine import package
from ddfast.bench.measured import Check
from ddfast.nets import Observer, build_forward, imagenet_wnids, load_observer
from ddfast.nets.settings import full_float32

PATCH, CANVAS = 112, 224
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BOUNDS = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}
CHECKED = 4  # patches also scored in float64


@functools.cache
def observer() -> Observer:
    """The arithmetic does not depend on the weights."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    try:
        return load_observer("resnet18", random_weights=True, class_names=imagenet_wnids())
    finally:
        torch.set_rng_state(state)


def forward(setting: Setting, precision: str) -> Case:
    """The floor counts the multiplications that a patch on the empty canvas can influence."""
    batch, device, dtype = setting.count(5, 20, 640), setting.device, DTYPES[precision]
    patches = torch.randn(batch, 3, PATCH, PATCH, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode():
        truth = copy.deepcopy(observer().module).double()(rivals.pad(patches[:CHECKED].cpu().double(), CANVAS))
    net = copy.deepcopy(observer().module).to(device, dtype).to(memory_format=torch.channels_last).eval()
    best = build_forward(
        observer(), patch=PATCH, canvas=CANVAS, precision=precision, device=device, micro_batch=batch, threads=1
    )

    def eager() -> Tensor:
        with torch.inference_mode(), full_float32():
            logits: Tensor = net(rivals.pad(patches, CANVAS).to(dtype, memory_format=torch.channels_last))
            return logits.float()

    def check(out: Tensor) -> Check:
        error = float((out[:CHECKED].cpu().double() - truth).abs().max() / truth.abs().max())
        return Check("largest logit error over largest logit, against float64", error, BOUNDS[precision])

    weights = sum(each.numel() for each in net.parameters())
    flops, peak = 2.0 * best.info["macs_active"] * batch, "fp32" if precision == "fp32" else "bf16"
    return Case(
        f"ResNet-18, {batch} patches of {PATCH} px on {CANVAS}, {precision}, {best.info['engine']}",
        Work(batch, "crop", dtype.itemsize * (weights + patches.numel()), flops, peak),
        lambda: best(patches),
        eager,
        f"{package('torch')} eager, channels-last, whole canvas",
        check,
        check,
    )

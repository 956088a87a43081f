"""Students by name: the networks that a distilled set is judged by."""

from __future__ import annotations

import re

import torch
from torch import nn

from ddfast.nets.basic_resnet import STAGES, BasicResNet
from ddfast.nets.convnet import NORMS, ConvNet
from ddfast.nets.observers import load_observer
from ddfast.nets.resnet_ap import ResNetAP
from ddfast.nets.vgg import VGG11, AlexNet
from ddfast.nets.vit import ViT
from ddfast.runs.seeds import stream_key

_CONVNET = re.compile(r"conv(?:net)?-?d?(\d)(?:[_-](\w+))?")
_RESNET_AP = re.compile(r"resnet-?ap-?(\d+)(?:[_-](batch|instance|group|none))?")
_RESNET = re.compile(r"resnet-?(\d+)(_modified)?(?:[_-](batch|instance|group|none))?")
_VGG = re.compile(r"vgg-?11_(instance|group|none)")
_ALEXNET = re.compile(r"alexnet_modified")
_VIT = re.compile(r"vit(_none)?")
_SHORT = {"bn": "batch", "in": "instance", "gn": "group"}


def student_name(name: str) -> str:
    """The canonical name: ``ConvNet-3``, ``convnet3`` and ``conv3`` are one student, ``conv3``.

    ConvNets and ResNets take a norm behind an underscore (``conv3_instance``, ``resnet18_modified_instance``); batch
    norm is the default, but instance norm that of ``resnetap10``, IDC's ResNet with average pooling. In short: ``bn``,
    ``in``, ``gn`` (``resnet10-in``). ``modified`` ResNets have a 3x3 stem without pooling, for pictures of up to 64
    pixels. ``vgg11_instance``, ``alexnet_modified`` and ``vit`` are the networks for small pictures of DC's, MTT's and
    D3's tables (`VGG11`, `AlexNet`, `ViT`; ``vit_none``: without layer norm). Other names are torchvision's or timm's,
    as for observers; ``vgg11``, ``vgg11_bn`` and ``alexnet`` among them.

    Raises:
        ValueError: an unknown norm.
    """
    text = name.strip().lower().replace("-modified", "_modified")
    stem, dash, tail = text[:-3], text[-3:-2], text[-2:]
    if dash in ("-", "_") and tail in _SHORT:
        text = f"{stem}_{_SHORT[tail]}"
    if match := _CONVNET.fullmatch(text):
        norm = match[2] or "batch"
        if norm not in NORMS:
            raise ValueError(f"students: got {name!r}, expected a norm among {', '.join(NORMS)} behind the underscore")
        return f"conv{match[1]}" + ("" if norm == "batch" else f"_{norm}")
    if (match := _RESNET_AP.fullmatch(text)) and int(match[1]) in STAGES:
        return f"resnetap{match[1]}" + ("" if match[2] in (None, "instance") else f"_{match[2]}")
    if (match := _RESNET.fullmatch(text)) and int(match[1]) in STAGES:
        norm = "" if match[3] in (None, "batch") else f"_{match[3]}"
        return f"resnet{match[1]}{match[2] or ''}{norm}"
    if match := _VGG.fullmatch(text):
        return f"vgg11_{match[1]}"
    return text if _ALEXNET.fullmatch(text) or _VIT.fullmatch(text) else name.strip()


def parse_students(names: str | tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Canonical names of a list, or of text with commas; each once, in order.

    Raises:
        ValueError: none named, or an unknown norm.
    """
    listed = names.split(",") if isinstance(names, str) else list(names)
    found = tuple(dict.fromkeys(student_name(name) for name in listed if name.strip()))
    if not found:
        raise ValueError(f"students: got {names!r}, expected names such as conv3 or resnet18, with commas between")
    return found


def build_student(name: str, num_classes: int, size: int, *, seed: int, width: int = 128) -> nn.Module:
    """A freshly initialised student whose weights depend on ``seed`` alone.

    Args:
        name: see `student_name`.
        num_classes: number of outputs.
        size: side of its pictures in pixels.
        seed: any non-negative integer; the global generator is left as it was.
        width: channels of a ConvNet's blocks (128 in the papers); other networks have their own.

    Returns:
        A module in train mode that maps [n, 3, size, size] to logits [n, num_classes].

    Raises:
        ValueError: unknown name, or pictures too small for the network.
    """
    low, high = stream_key(seed, "student")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed((high & 0x7FFFFFFF) << 32 | low)
        net = _build(student_name(name), num_classes, size, width)
    return net.requires_grad_(True).train()


def label_of(name: str, width: int = 128) -> str:
    """A student's name for people: ``ConvNet-3``, ``ConvNet-3 (width 32)``, ``ResNet-18, instance norm``."""
    if match := _CONVNET.fullmatch(name):
        text = f"ConvNet-{match[1]}" + (f", {match[2]} norm" if match[2] else "")
        return text if width == 128 else f"{text} (width {width})"
    if match := _RESNET_AP.fullmatch(name):
        return f"ResNet-AP-{match[1]}" + (f", {match[2]} norm" if match[2] else "")
    if match := _RESNET.fullmatch(name):
        stem = ", 3x3 stem" if match[2] else ""
        return f"ResNet-{match[1]}{stem}" + (f", {match[3]} norm" if match[3] else "")
    if match := _VGG.fullmatch(name):
        return f"VGG-11, {match[1]} norm"
    if match := _VIT.fullmatch(name):
        return "ViT" + (", no norm" if match[1] else "")
    return "AlexNet, small pictures" if _ALEXNET.fullmatch(name) else name


def _build(name: str, num_classes: int, size: int, width: int) -> nn.Module:
    if match := _CONVNET.fullmatch(name):
        return ConvNet(int(match[1]), num_classes, size, width=width, norm=match[2] or "batch")
    if (match := _RESNET_AP.fullmatch(name)) and int(match[1]) in STAGES:
        return ResNetAP(int(match[1]), num_classes, size, norm=match[2] or "instance")
    if (match := _RESNET.fullmatch(name)) and int(match[1]) in STAGES:
        stem = "small" if match[2] else "imagenet"
        if match[3] == "instance" and size <= (8 if match[2] else 32):
            tip = "" if match[2] else f"; take {name.replace('_instance', '_modified_instance')}"
            raise ValueError(
                f"students: {name} has maps of one pixel on pictures of {size} x {size}, of which instance norm leaves "
                f"nothing{tip}"
            )
        return BasicResNet(int(match[1]), num_classes, norm=match[3] or "batch", stem=stem)
    if match := _VGG.fullmatch(name):
        return VGG11(num_classes, size, norm=match[1])
    if _ALEXNET.fullmatch(name):
        return AlexNet(num_classes, size)
    if match := _VIT.fullmatch(name):
        return ViT(num_classes, size, norm="none" if match[1] else "layer")
    try:
        return load_observer(name, num_classes=num_classes, input_size=size, random_weights=True).module
    except ValueError as error:
        known = "conv3 ... conv6, resnet10, resnet18, resnet18_modified, each with _instance; resnetap10, "
        known += "vgg11_instance, alexnet_modified, vit"
        raise ValueError(f"students: {str(error).removeprefix('observer: ')}; students of our own: {known}") from error

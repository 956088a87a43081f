"""Networks: observers that score patches, the fast forward that runs them, ConvNets and CIFAR ResNets.

Names are loaded on first use; importing this package imports none of torchvision, timm or OpenVINO.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddfast._types import Normalization

    from .checkpoints import WeightsUnavailableError
    from .class_order import ClassOrderError, ClassOrderReport, check_class_order
    from .classes import imagenet_wnids, map_classes
    from .constant_frame import FrameReport, Padded, constant_frame_module
    from .convnet import ConvNet
    from .decoder import Decoder, make_decoder
    from .decoder_config import DecoderConfig
    from .forward import Forward, build_forward
    from .observers import Observer, load_observer
    from .resnet import CifarResNet
    from .vgg import VGG11, AlexNet
    from .vit import ViT

_HOMES = {
    "Normalization": "._types",  # of the package around this one
    "WeightsUnavailableError": "checkpoints",
    "ClassOrderError": "class_order",
    "ClassOrderReport": "class_order",
    "check_class_order": "class_order",
    "imagenet_wnids": "classes",
    "map_classes": "classes",
    "FrameReport": "constant_frame",
    "Padded": "constant_frame",
    "constant_frame_module": "constant_frame",
    "ConvNet": "convnet",
    "Decoder": "decoder",
    "DecoderConfig": "decoder_config",
    "make_decoder": "decoder",
    "Forward": "forward",
    "build_forward": "forward",
    "Observer": "observers",
    "load_observer": "observers",
    "CifarResNet": "resnet",
    "VGG11": "vgg",
    "AlexNet": "vgg",
    "ViT": "vit",
}
__all__ = [
    "VGG11",
    "AlexNet",
    "CifarResNet",
    "ClassOrderError",
    "ClassOrderReport",
    "ConvNet",
    "Decoder",
    "DecoderConfig",
    "Forward",
    "FrameReport",
    "Normalization",
    "Observer",
    "Padded",
    "ViT",
    "WeightsUnavailableError",
    "build_forward",
    "check_class_order",
    "constant_frame_module",
    "imagenet_wnids",
    "load_observer",
    "make_decoder",
    "map_classes",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)

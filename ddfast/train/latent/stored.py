"""Reading the blocks of a stored distribution: every entry and tensor is checked and named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ddfast.nets.decoder import Decoder, DecoderConfig
from ddfast.store.numbers import STORAGES, unpack
from ddfast.train.latent.block import LatentBlock
from ddfast.train.latent.sizes import LATENT_ROW

_ENTRY = {"decoder", "classes", "rows", "batch"}  # of a block in the manifest


def read_blocks(
    described: Any, labels: Tensor, resolution: Sequence[int], tensors: Mapping[str, Tensor]
) -> list[LatentBlock]:
    """The blocks that ``Distribution.as_json`` and ``Distribution.tensors`` describe.

    Args:
        described: the manifest's entry.
        labels: int64 [N] of all priors.
        resolution: (height, width) of the set's pictures.
        tensors: by name.

    Raises:
        ValueError: an entry or tensor is missing, does not fit, or is not finite; names it.
    """
    storage, entries = _described(described)
    rows = sum(entry["rows"] for entry in entries)
    if rows != len(labels):
        raise ValueError(
            f"distribution: blocks have {rows} priors for {len(labels)} labels, expected one each; copy the set anew"
        )
    blocks, first = [], 0
    for place, entry in enumerate(entries):
        config = _config(place, entry, resolution)
        own = labels[first : first + entry["rows"]].cpu()
        _check_labels(place, entry, own)
        _check_fits(place, config, tensors)
        shape = (entry["rows"], config.latent_size, 2)
        latents = _read(f"latents.{place}", tensors, storage, shape, LATENT_ROW)
        blocks.append(LatentBlock(latents, own, _decoder(place, config, storage, tensors), entry["batch"]))
        first += entry["rows"]
    return blocks


def _described(value: Any) -> tuple[str, list[Mapping[str, Any]]]:
    if not isinstance(value, Mapping) or value.get("storage") not in STORAGES:
        raise ValueError(f"distribution: got {repr(value)[:80]}, expected storage ({', '.join(STORAGES)}) and blocks")
    entries = value.get("blocks")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"distribution: blocks: got {entries!r}, expected one entry a block")
    for place, entry in enumerate(entries):
        _check_entry(f"distribution: blocks[{place}]", entry)
    return value["storage"], entries


def _check_entry(where: str, entry: Any) -> None:
    if not isinstance(entry, Mapping) or not set(entry) >= _ENTRY:
        raise ValueError(f"{where}: got {repr(entry)[:80]}, expected {', '.join(sorted(_ENTRY))}")
    for key in ("rows", "batch"):
        if not (_is_count(entry[key]) or (key == "batch" and entry[key] is None)):
            raise ValueError(f"{where}: {key}: got {entry[key]!r}, expected a number from 1")
    classes = entry["classes"]
    if not isinstance(classes, list) or not all(label == 0 or _is_count(label) for label in classes):
        raise ValueError(f"{where}: classes: got {repr(classes)[:80]}, expected a list of labels")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _config(place: int, entry: Mapping[str, Any], resolution: Sequence[int]) -> DecoderConfig:
    try:
        config = DecoderConfig.from_json(entry["decoder"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"distribution: blocks[{place}]: {error}") from error
    if list(resolution) != [config.size, config.size]:
        raise ValueError(
            f"distribution: blocks[{place}]: its decoder makes pictures of {config.size} pixels, the set's have "
            f"{list(resolution)}; take the decoder that belongs to the set"
        )
    return config


def _check_labels(place: int, entry: Mapping[str, Any], labels: Tensor) -> None:
    others = sorted(set(labels.tolist()) - set(entry["classes"]))
    if others:
        raise ValueError(
            f"distribution: blocks[{place}]: its priors are labelled {others[:5]}, not among its classes; "
            "copy the set anew"
        )


def _check_fits(place: int, config: DecoderConfig, tensors: Mapping[str, Tensor]) -> None:
    """Before room is made for a decoder: the tensors of the file are there already."""
    for name, shape in config.stored_shapes.items():
        value = tensors.get(f"decoder.{place}.{name}")
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(
                f"decoder.{place}.{name}: got shape {list(value.shape)}, expected {list(shape)} for its decoder"
            )
        if value is None:
            raise ValueError(f"decoder.{place}.{name}: missing from the set's tensors; copy the set anew")


def _decoder(place: int, config: DecoderConfig, storage: str, tensors: Mapping[str, Tensor]) -> Decoder:
    decoder = Decoder(config)
    state = {
        name: _read(f"decoder.{place}.{name}", tensors, storage, shape) for name, shape in config.stored_shapes.items()
    }
    decoder.load_state_dict(state, strict=False)
    return decoder


def _read(
    name: str,
    tensors: Mapping[str, Tensor],
    storage: str,
    shape: tuple[int, ...],
    over: tuple[int, ...] | None = None,
) -> Tensor:
    value = unpack(name, tensors, storage, over=over)
    if tuple(value.shape) != shape:
        raise ValueError(f"{name}: got shape {list(value.shape)}, expected {list(shape)} for its decoder")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name}: holds NaN or infinity; copy the set anew or make it again")
    return value

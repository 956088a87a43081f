"""``observer="train:conv3"``: a small observer trained on the source itself, for sets without published weights."""

from __future__ import annotations

from ddfast.data import Source
from ddfast.data.squares import whole_images
from ddfast.methods._options import RunOptions
from ddfast.methods.rded.config import RDEDConfig
from ddfast.nets.observers import Observer
from ddfast.train.demo_recipe import OBSERVER
from ddfast.train.small_observer import train_small_observer

__all__ = ["train_observer", "whole_images"]


def train_observer(name: str, source: Source, config: RDEDConfig, options: RunOptions) -> Observer:
    """`ddfast.train.small_observer.train_small_observer` at the size and seed of a run.

    Raises:
        ValueError: ``name`` is not conv3 ... conv6, or the pictures are too small for its depth.
    """
    return train_small_observer(
        name, source, size=config.size, seed=config.seed, recipe=OBSERVER, device=options.torch_device(),
        progress="quiet" if options.quiet else "auto",
    )  # fmt: skip

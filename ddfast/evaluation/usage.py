"""Bytes of what students use of a set: sets of matching methods hold their images twice, as pictures and as trained."""

from __future__ import annotations

from dataclasses import replace

from ddfast.evaluation.storage import Storage
from ddfast.store import DistilledSet

TRAINED = "trained_images"


def used(storage: Storage, distilled: DistilledSet, *, trained: bool) -> Storage:
    """``storage`` without the images that students do not train on.

    Args:
        storage: of the whole set.
        distilled: the set; others than those with ``trained_images`` are as they were.
        trained: whether students train on these, float [N, 3, H, W], rather than on the 8-bit pictures.
    """
    images = distilled.extras.get(TRAINED)
    if images is None:
        return storage
    size = images.numel() * images.element_size()
    extras = max(storage.extras - size, 0)
    if not trained:
        return replace(storage, extras=extras)
    per_class = tuple(count * (size // max(len(images), 1)) for count in distilled.counts)
    return replace(storage, images=size, extras=extras, per_class=per_class)

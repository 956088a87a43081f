"""Pictures of latents as leaves of a graph, and the decoder's backward pass afterwards: the image-gradient cut.

A loss of pictures alone needs the decoder once forward and once backward, however it is taken apart: with
x = decoder(z) and dL/dx put together from any parts, the decoder's gradients are those of the whole graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ddfast.nets.decoder import Decoder
from ddfast.train.latent.bank import sample
from ddfast.train.latent.draws import Draw

# Bytes of a decoder's graph that are kept; larger ones are made again part by part.
_KEPT = {"cpu": 1 << 30}
_KEPT_ELSEWHERE = 8 << 30
_PART = 256  # pictures of such a part


class DecodedDraws:
    """The pictures of some draws.

    Args:
        decoder: in training mode; its running statistics, if it has any, move once for each draw.
        latents: [n, z, 2], whose gradient is wanted.
        draws: what to decode.
        limit: pictures whose graph is alive at a time (at least a draw's), decoded again for the backward pass; None
            keeps the graph of all where it takes less than 1 GB (on a GPU 8), and otherwise means 256.

    Attributes:
        pictures: [sum of b, 3, S, S], one draw after the other, without a graph.
    """

    def __init__(self, decoder: Decoder, latents: Tensor, draws: Sequence[Draw], limit: int | None = None) -> None:
        count = sum(len(draw.rows) for draw in draws)
        if limit is None and _graph_bytes(decoder, latents) * count > _KEPT.get(latents.device.type, _KEPT_ELSEWHERE):
            limit = _PART
        self.decoder, self.latents, self.limit = decoder, latents, limit
        self._groups = list(_alike(draws, limit))
        self._outputs: list[Tensor] = []
        with torch.set_grad_enabled(limit is None):
            outputs = [self._decode(group) for group in self._groups]
        self.pictures = torch.cat([output.detach() for output in outputs])
        if limit is None:
            self._outputs = outputs

    def backward(self, gradient: Tensor) -> None:
        """Adds the gradients of ``sum(gradient * pictures)`` to ``grad`` of the latents and the decoder's parameters.

        To be called once.
        """
        sizes = [sum(len(draw.rows) for draw in group) for group in self._groups]
        parts = gradient.split(sizes)
        if self.limit is None:
            torch.autograd.backward(self._outputs, parts)
            self._outputs = []
            return
        with torch.enable_grad(), statistics_stay(self.decoder):
            for group, part in zip(self._groups, parts, strict=True):
                self._decode(group).backward(part)

    def _decode(self, group: Sequence[Draw]) -> Tensor:
        """The pictures of equally many priors each."""
        latents = self.latents[torch.cat([draw.rows for draw in group]).to(self.latents.device)]
        drawn = [draw.eps for draw in group if draw.eps is not None]
        z = sample(latents, torch.cat(drawn).to(latents)) if drawn else latents[:, :, 0]
        pictures: Tensor = self.decoder(z, groups=len(group))
        return pictures


def _graph_bytes(decoder: Decoder, latents: Tensor) -> int:
    """Of a picture: about three planes of each block, and two at the end."""
    widths, side = decoder.config.widths, decoder.config.size
    planes = sum(3 * width * (4 << place) ** 2 for place, width in enumerate(widths[1:]))
    return latents.element_size() * (planes + 6 * side**2)


def _alike(draws: Sequence[Draw], limit: int | None) -> Iterator[list[Draw]]:
    """Runs of draws that go through the decoder in one call: of one size, up to ``limit`` pictures, at least one."""
    group: list[Draw] = []
    for draw in draws:
        size = len(draw.rows)
        full = limit is not None and size * (len(group) + 1) > limit
        if group and (full or len(group[0].rows) != size):
            yield group
            group = []
        group.append(draw)
    if group:
        yield group


@contextmanager
def statistics_stay(decoder: Decoder) -> Iterator[None]:
    """Within it pictures leave no trace in running statistics, where the decoder has any."""
    kept = [buffer.clone() for buffer in decoder.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(decoder.buffers(), kept, strict=True):
                buffer.copy_(value)

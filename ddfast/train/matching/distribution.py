"""DM: images whose mean features under random networks are those of real pictures.

Zhao, Bilen, "Dataset Condensation with Distribution Matching", WACV 2023 (arXiv 2110.04181).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.train.adjoint.embedding import make_embedding
from ddfast.train.dsa import transposed_dsa
from ddfast.train.matching.images import ImageMatcher, ImageSettings, Pair, own_rows
from ddfast.train.matching.protocol import MatchingData


class DistributionMatcher(ImageMatcher):
    """DM's loop.

    Each iteration takes a network and moves the images once against the gradient of
    ``sum over classes of |mean f(real) - mean f(synthetic)|^2``, f being the features before the linear layer of
    pictures augmented alike. Frozen images stand beside a class's own. The loss returned is the mean over classes.

    Raises:
        ValueError: as `ImageMatcher`; or an architecture other than a ConvNet.
    """

    def __init__(self, data: MatchingData, images: Tensor, labels: Tensor, settings: ImageSettings) -> None:
        super().__init__(data, images, labels, settings)
        if not isinstance(data.net, FlatConvNet):
            raise ValueError(f"net: got {data.net}, expected a ConvNet")
        self.embedding = make_embedding(data.net, settings.precision)
        self.whole = data.net.norm == "batch"  # statistics of all classes, as DM's code has it

    def _iterate(self, images: Tensor, velocity: Tensor) -> tuple[float, Tensor, Tensor]:
        theta, total, gradient = self.start(self.iteration), 0.0, torch.zeros_like(images)
        for group in [self.classes] if self.whole else self.groups():
            total += float(self._group(theta, images, group, gradient))
        return total / len(self.classes), *self._moved(images, velocity, gradient)

    def _group(self, theta: Tensor, images: Tensor, group: list[int], gradient: Tensor) -> Tensor:
        """Of some classes at once; fills their rows of the gradient."""
        pairs = [self.pair(label, images) for label in group]
        real = self._real_means(theta, pairs)
        features, tape = self.embedding.first(theta, torch.cat([pair.synthetic for pair in pairs]))
        sizes = [len(pair.synthetic) for pair in pairs]
        away = torch.stack([part.mean(0) for part in features.split(sizes)]) - real
        rows = own_rows(pairs)
        pulls = [(2 / size * each).expand(size, -1) for each, size in zip(away, sizes, strict=True)]
        found = self.embedding.images(theta, torch.cat(pulls), tape)
        found = found if rows is None else found[rows]
        for pair, part in zip(pairs, found.split([len(pair.own) for pair in pairs]), strict=True):
            gradient[pair.own] = transposed_dsa(part, pair.draw)
        return away.square().sum()

    def _real_means(self, theta: Tensor, pairs: list[Pair]) -> Tensor:
        """Mean features [C, F] of the real pictures."""
        if self.whole:
            features = self.embedding.first(theta, torch.cat([pair.real for pair in pairs]), tape=False)[0]
            return torch.stack([part.mean(0) for part in features.split([len(pair.real) for pair in pairs])])
        found = []
        for pair in pairs:
            sums = [self.embedding.first(theta, x, tape=False)[0].sum(0) for x in pair.real.split(self.part)]
            found.append(torch.stack(sums).sum(0) / len(pair.real))
        return torch.stack(found)

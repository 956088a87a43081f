"""Settings for small pictures on two CPU cores: a narrow ConvNet-3 as observer and student, and how to train them.

Chosen by experiment on MNIST-5k padded to 32 px (400 training and 100 test pictures a class). The observer reaches
98 % in 24,000 pictures, about ten seconds of one core; a student takes some five seconds.
"""

from __future__ import annotations

import torch

from ddfast.nets.convnet import ConvNet
from ddfast.train.loop import TrainConfig
from ddfast.train.student import StudentConfig

WIDTH = 32

OBSERVER = TrainConfig(epochs=6, batch_size=64, lr=0.1, shift=2)

STUDENT = StudentConfig(
    epochs=100, batch_size=50, lr=0.005, schedule="cosine", shift=2, flip=False, cutmix_alpha=1.0, bn_twice=False
)


def small_convnet(num_classes: int, size: int, *, seed: int, width: int = WIDTH, depth: int = 3) -> ConvNet:
    """ConvNet with batch norm for [n, 3, size, size] whose initial weights depend on ``seed`` alone.

    The global generator is left as it was. Raises ValueError when ``size`` is below 2**depth.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConvNet(depth, num_classes, size, width=width)

"""MNIST: 60,000 training and 10,000 test digits (LeCun et al. 1998)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torchvision.datasets import MNIST

from advmerge.data import TaskData
from advmerge.data.archives import Archive, provide, root
from advmerge.data.images import shared_out
from advmerge.seeding import numpy_generator

ARCHIVES = tuple(Archive(f"{MNIST.mirrors[0]}{name}", md5, 3) for name, md5 in MNIST.resources)
"""torchvision's; they have 12 MB together."""


def full_mnist(sizes: Mapping[str, int], seed: int, shape: Sequence[int]) -> TaskData:
    """Which handwritten digit is this? All of MNIST, the official split; ``mnist`` is a sample that pip brings."""
    needs = [archive.file.removesuffix(".gz") for archive in ARCHIVES]
    provide(root() / "MNIST/raw", needs, ARCHIVES, "https://yann.lecun.org/exdb/mnist")
    train, test = (MNIST(root(), train=part) for part in (True, False))
    rng = numpy_generator(seed, "data", "full_mnist")
    classes = [str(digit) for digit in range(10)]
    first, second = ((part.data.numpy(), part.targets.numpy()) for part in (train, test))
    return shared_out(first, second, sizes, rng, shape, classes)

"""MNIST: 60,000 training and 10,000 test digits (LeCun et al. 1998)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from advmerge.data import TaskData
from advmerge.data.archives import Archive, provide, root
from advmerge.data.images import shared_out
from advmerge.seeding import numpy_generator


def _archives() -> list[Archive]:
    from torchvision.datasets import MNIST

    return [Archive(f"{MNIST.mirrors[0]}{name}", md5) for name, md5 in MNIST.resources]


def full_mnist(sizes: Mapping[str, int], seed: int, shape: Sequence[int]) -> TaskData:
    """Which handwritten digit is this? All of MNIST, the official split; ``mnist`` is a sample that pip brings."""
    from torchvision.datasets import MNIST

    archives = _archives()
    needs = [archive.file.removesuffix(".gz") for archive in archives]
    provide(root() / "MNIST/raw", needs, archives, "https://yann.lecun.org/exdb/mnist")
    train, test = (MNIST(root(), train=part) for part in (True, False))
    rng = numpy_generator(seed, "data", "full_mnist")
    classes = [str(digit) for digit in range(10)]
    first, second = ((part.data.numpy(), part.targets.numpy()) for part in (train, test))
    return shared_out(first, second, sizes, rng, shape, classes)

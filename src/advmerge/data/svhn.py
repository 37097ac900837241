"""SVHN: house numbers in street photographs, 73,257 training and 26,032 test digits (Netzer et al. 2011)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from advmerge.data import TaskData
from advmerge.data.archives import Archive, provide, root
from advmerge.data.images import Listed, shared_out
from advmerge.seeding import numpy_generator

SITE = "http://ufldl.stanford.edu/housenumbers"
ARCHIVES = (
    Archive(f"{SITE}/train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", 182),
    Archive(f"{SITE}/test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", 64),
)
"""torchvision's; its class reads the same files, but checks their MD5 anew each time."""


def _read(path: Path) -> Listed:
    from scipy.io import loadmat

    content = loadmat(path)
    # X is [height, width, colour, image]; the digit 0 has the label 10.
    return content["X"].transpose(3, 0, 1, 2), content["y"].astype(np.int64).ravel() % 10


def svhn(sizes: Mapping[str, int], seed: int, shape: Sequence[int]) -> TaskData:
    """Which digit is in the middle? 10 classes, the official split without the extra images."""
    needs = [archive.file for archive in ARCHIVES]
    folder = provide(root(), needs, ARCHIVES, SITE)
    train, test = (_read(folder / archive.file) for archive in ARCHIVES)
    rng = numpy_generator(seed, "data", "svhn")
    return shared_out(train, test, sizes, rng, shape, [str(digit) for digit in range(10)])

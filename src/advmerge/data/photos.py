"""Crops of photographs that scikit-image and scikit-learn ship.

A photo is cut into disjoint blocks of 44 × 44 pixels with gaps of 2, and every block belongs to one split. A
crop is a rotated, shifted 28 × 28 window that stays inside its block: 28·√2 + 2·2 < 44, so nothing is padded
(padding would give the class away) and no pixel is seen by two splits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from advmerge.data import SPLITS, TaskData
from advmerge.errors import StudyError
from advmerge.seeding import numpy_generator

CROP, BLOCK, GAP, SHIFT = 28, 44, 2, 2
FLAT = 4.0  # standard deviation in grey levels below which a window shows nothing

TEXTURES = {
    "brick": "brick.png",
    "cell": "cell.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "galaxies": "hubble_deep_field.jpg",
    "tissue": "ihc.png",
    "moon": "moon.png",
    "retina": "retina.jpg",
    "text": "text.png",
}
"""Class → photo of scikit-image."""

SHARES = {"train": 0.5, "val": 0.1, "adapt": 0.1, "test": 0.2, "attack": 0.1}
"""Share of a photo's blocks that each split draws from."""


def photo(name: str, package: str = "skimage.data") -> np.ndarray:
    """A bundled photo in grey, uint8 [H, W].

    Raises:
        StudyError: the package does not hold it.
    """
    path = Path(str(files(package).joinpath(name)))
    if not path.exists():
        raise StudyError(f"{path}: missing; the package {package} of the pinned environment ships it")
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def blocks(image: np.ndarray) -> list[np.ndarray]:
    """The disjoint blocks of a photo that show something, uint8 [44, 44] each.

    A block of nearly one grey (the rim of the retina, the sky round the moon) belongs to no class and is left out.
    """
    step = BLOCK + GAP
    tiles = [
        image[top : top + BLOCK, left : left + BLOCK]
        for top in range(0, image.shape[0] - BLOCK + 1, step)
        for left in range(0, image.shape[1] - BLOCK + 1, step)
    ]
    return [tile for tile in tiles if tile.std() >= FLAT]


def crop(block: np.ndarray, rng: np.random.Generator, turn: float = 180.0) -> np.ndarray:
    """A window of a block, rotated by up to ``turn`` degrees and shifted by up to 2 pixels, uint8 [28, 28]."""
    angle = np.deg2rad(rng.uniform(-turn, turn))
    shift = rng.uniform(-SHIFT, SHIFT, size=2)
    cos, sin = np.cos(angle), np.sin(angle)
    centre, middle = (CROP - 1) / 2, (BLOCK - 1) / 2
    # PIL's affine maps output (x, y) to input (ax + by + c, dx + ey + f), both about pixel centres at +0.5.
    matrix = (
        cos,
        -sin,
        middle + 0.5 + shift[0] - cos * (centre + 0.5) + sin * (centre + 0.5),
        sin,
        cos,
        middle + 0.5 + shift[1] - sin * (centre + 0.5) - cos * (centre + 0.5),
    )
    window = Image.fromarray(block).transform(
        (CROP, CROP), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC
    )
    return np.asarray(window)


def deal(items: Sequence[np.ndarray], rng: np.random.Generator) -> dict[str, list[np.ndarray]]:
    """Shuffle blocks and share them out to the splits by :data:`SHARES`, none to two."""
    order = rng.permutation(len(items))
    ends = np.round(np.cumsum([0.0, *(SHARES[split] for split in SPLITS)]) * len(items)).astype(int)
    return {
        split: [items[index] for index in order[start:end]]
        for split, (start, end) in zip(SPLITS, pairwise(ends), strict=True)
    }


def texture(sizes: Mapping[str, int], seed: int) -> TaskData:
    """Which of 12 photographs is this crop from? 28 × 28, grey, any rotation."""
    rng = numpy_generator(seed, "data", "texture")
    dealt = [deal(blocks(photo(name)), rng) for name in TEXTURES.values()]
    images: dict[str, np.ndarray] = {}
    labels: dict[str, np.ndarray] = {}
    for split, size in sizes.items():
        labels[split] = rng.permutation(np.arange(size, dtype=np.int64) % len(TEXTURES))
        crops = [crop(dealt[label][split][rng.integers(len(dealt[label][split]))], rng) for label in labels[split]]
        images[split] = np.stack(crops)[:, None]
    return TaskData(images, labels, list(TEXTURES))

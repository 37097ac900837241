"""Images as the backbone takes them, and the splits that a dataset comes with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from advmerge.data import Pictures, TaskData, balanced_split
from advmerge.errors import StudyError

OFFICIAL = {"train": ("train", "val", "adapt"), "test": ("test", "attack")}
"""A dataset's own split → the splits that are drawn from it."""

# What Pillow raises of files with some bytes changed; a bomb is a file that claims a billion pixels.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

Listed = tuple[Sequence[Any] | np.ndarray, Sequence[int] | np.ndarray]
"""Images (paths, or uint8 arrays [H, W] or [H, W, 3]) and the label of each."""


def fitted(image: Path | np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """One image as uint8 [C, H, W]: grey or RGB as the backbone wants, shorter side resized, centre cropped.

    Args:
        image: a file, or uint8 pixels [H, W] or [H, W, 3].
        shape: (C, H, W).

    Raises:
        StudyError: the file is not a readable image.
    """
    channels, height, width = shape
    mode = "L" if channels == 1 else "RGB"
    if isinstance(image, np.ndarray):
        pixels = Image.fromarray(image).convert(mode)
    else:
        try:
            with Image.open(image) as opened:
                pixels = opened.convert(mode)
        except UNREADABLE as error:
            raise StudyError(f"{image}: not a readable image ({error})") from None
    scale = max(width / pixels.width, height / pixels.height)
    size = max(width, round(pixels.width * scale)), max(height, round(pixels.height * scale))
    pixels = pixels.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    array = np.asarray(pixels.crop((left, top, left + width, top + height)))
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def pairs(found: Sequence[tuple[Path, int]]) -> Listed:
    """(file, label) … as files and labels."""
    return [path for path, _ in found], [label for _, label in found]


def listed(dataset: Any) -> Listed:
    """The files and labels of one of torchvision's datasets; no image is opened."""
    for name in ("samples", "_samples"):
        if hasattr(dataset, name):
            return pairs([(Path(path), int(label)) for path, label in getattr(dataset, name)])
    return list(map(Path, dataset._image_files)), list(dataset._labels)


def shared_out(
    train: Listed,
    test: Listed | None,
    sizes: Mapping[str, int],
    rng: np.random.Generator,
    shape: Sequence[int],
    classes: list[str],
) -> TaskData:
    """The five splits: train, val and adapt out of a dataset's training images, test and attack out of its test images.

    Args:
        train: the dataset's training images.
        test: its test images; None where it has no such split, and all five are drawn from ``train``.
        sizes: images a split.
        rng: of the draw.
        shape: (C, H, W) of the images.
        classes: names of the labels.

    Raises:
        StudyError: there are fewer images than wanted.
    """
    pools = [(train, tuple(sizes))] if test is None else [(train, OFFICIAL["train"]), (test, OFFICIAL["test"])]
    images, labels = {}, {}
    for (items, numbers), splits in pools:
        array = np.asarray(numbers, dtype=np.int64)
        try:
            chosen = balanced_split(array, {split: sizes[split] for split in splits}, rng)
        except StudyError as error:
            raise StudyError(f"{', '.join(splits)}: {error}") from None
        for split, index in chosen.items():
            images[split] = Pictures(partial(fitted, shape=shape), [items[i] for i in index], shape)
            labels[split] = array[index]
    return TaskData({split: images[split] for split in sizes}, {split: labels[split] for split in sizes}, classes)

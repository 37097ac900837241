"""Anyone's images: a folder a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from advmerge.data import TaskData, balanced_split
from advmerge.errors import StudyError
from advmerge.seeding import numpy_generator

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".webp", ".tif", ".tiff")


def image_files(path: str) -> dict[str, list[Path]]:
    """Class → its image files, both in alphabetical order.

    Raises:
        StudyError: the folder or its classes are missing, or a class is empty.
    """
    root = Path(path)
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
    if not classes:
        raise StudyError(f"{path}: expected a folder with a sub-folder of images for each class")
    found = {}
    for name in classes:
        found[name] = sorted(file for file in (root / name).rglob("*") if file.suffix.lower() in SUFFIXES)
        if not found[name]:
            raise StudyError(f"{root / name}: the class has no image ({', '.join(SUFFIXES)})")
    return found


def _read(path: Path, shape: Sequence[int]) -> np.ndarray:
    """One image as uint8 [C, H, W]: grey or RGB as the backbone wants, shorter side resized, centre cropped."""
    channels, height, width = shape
    try:
        with Image.open(path) as image:
            pixels = image.convert("L" if channels == 1 else "RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise StudyError(f"{path}: not a readable image ({error})") from None
    scale = max(width / pixels.width, height / pixels.height)
    size = max(width, round(pixels.width * scale)), max(height, round(pixels.height * scale))
    pixels = pixels.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    array = np.asarray(pixels.crop((left, top, left + width, top + height)))
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def image_folder(sizes: Mapping[str, int], seed: int, shape: Sequence[int], *, path: str) -> TaskData:
    """Images in ``path/<class>/…``, split at random with equal class shares.

    Args:
        sizes: images a split.
        seed: the study's.
        shape: (channels, height, width) that the backbone takes.
        path: the folder; its sub-folders are the classes, in alphabetical order.

    Raises:
        StudyError: the folder or its classes are missing, a class is empty, or an image cannot be read.
    """
    found = image_files(path)
    paths = [file for files in found.values() for file in files]
    labels = [label for label, files in enumerate(found.values()) for _ in files]
    array = np.asarray(labels, dtype=np.int64)
    chosen = balanced_split(array, sizes, numpy_generator(seed, "data", "image_folder", Path(path).name))
    return TaskData(
        images={split: np.stack([_read(paths[i], shape) for i in index]) for split, index in chosen.items()},
        labels={split: array[index] for split, index in chosen.items()},
        classes=list(found),
    )

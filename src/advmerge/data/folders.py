"""Anyone's images: a folder a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from advmerge.data import TaskData
from advmerge.data.images import shared_out
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


def image_folder(sizes: Mapping[str, int], seed: int, shape: Sequence[int], *, path: str) -> TaskData:
    """Images in ``path/<class>/…``, split at random with equal class shares.

    Args:
        sizes: images a split.
        seed: the study's.
        shape: (channels, height, width) that the backbone takes.
        path: the folder; its sub-folders are the classes, in alphabetical order.

    Raises:
        StudyError: the folder or its classes are missing, a class is empty; and later, when it is
            decoded, an image cannot be read.
    """
    found = image_files(path)
    paths = [file for files in found.values() for file in files]
    labels = [label for label, files in enumerate(found.values()) for _ in files]
    rng = numpy_generator(seed, "data", "image_folder", Path(path).name)
    return shared_out((paths, labels), None, sizes, rng, shape, list(found))

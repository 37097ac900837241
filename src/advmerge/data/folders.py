"""Anyone's images: a folder a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from advmerge.data import TaskData
from advmerge.data.images import shared_out
from advmerge.errors import StudyError
from advmerge.seeding import numpy_generator

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".webp", ".tif", ".tiff")

PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def image_files(path: str) -> dict[str, list[Path]]:
    """Class → its image files, both in alphabetical order. What is hidden (``._1.jpg``, ``.cache/``) counts as nothing.

    Raises:
        StudyError: the folder or its classes are missing, a class is empty, or the sub-folders are no classes but splits.
    """
    root = Path(path)
    folders = [entry for entry in root.iterdir() if entry.is_dir()] if root.is_dir() else []
    classes = sorted(entry.name for entry in folders if not _hidden(entry, root))
    if len(classes) < 2:
        raise StudyError(f"{path}: expected a folder with a sub-folder of images for each class, two or more")
    if PARTS.issuperset(classes):
        raise StudyError(f"{path}: {' and '.join(classes)} are no classes; give the folder that holds the classes")
    found = {}
    for name in classes:
        files = (file for file in (root / name).rglob("*") if file.suffix.lower() in SUFFIXES)
        found[name] = sorted(file for file in files if file.is_file() and not _hidden(file, root))
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

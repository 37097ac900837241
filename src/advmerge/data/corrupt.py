"""Leaving out images that cannot be read, where a task says ``corrupt: skip``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from advmerge.data import Pictures, TaskData
from advmerge.errors import StudyError

MOST = 0.01  # share of a task's images that may be skipped: with more, it is another dataset
DONORS = {"attack": "test", "val": "train", "adapt": "train"}
"""Split → the one that makes up for what it lacks: of the same official part, and of no wanted size."""


class Readable(NamedTuple):
    """A task's images that can be read, and split → why each of the others cannot, which names its file."""

    data: TaskData
    skipped: dict[str, list[str]]


def readable(data: TaskData) -> Readable:
    """Leave out images that cannot be decoded, all of which are decoded once for this.

    Training and test images become fewer by those left out; attacked, validation and adaptation images
    stay as many, the last training or test images taking the places at their end.

    Raises:
        StudyError: more than :data:`MOST` of them cannot be read, or too few are left.
    """
    kept, skipped = {}, {}
    for split, images in data.images.items():
        kept[split], skipped[split] = _sorted_out(images)
    count, total = sum(map(len, skipped.values())), sum(map(len, data.images.values()))
    if count > MOST * total:
        first = next(reason for reasons in skipped.values() for reason in reasons)
        raise StudyError(f"{count} of {total} images cannot be read, more than {MOST:.0%}; the first: {first}")
    places: dict[str, list[tuple[str, int]]] = {s: [(s, i) for i in index] for s, index in kept.items()}
    for split, donor in DONORS.items():
        lacking = len(skipped[split])
        if lacking >= len(places[donor]):
            raise StudyError(f"{lacking} images of '{split}' cannot be read, and '{donor}' has none to give")
        given = places[donor][len(places[donor]) - lacking :]
        places[donor] = places[donor][: len(places[donor]) - lacking]
        places[split] += given
    taken = {split: _taken(data.images, split, found) for split, found in places.items()}
    labels = {s: np.array([data.labels[o][i] for o, i in found], np.int64) for s, found in places.items()}
    return Readable(TaskData(taken, labels, data.classes), {s: found for s, found in skipped.items() if found})


def _sorted_out(images: np.ndarray | Pictures) -> tuple[list[int], list[str]]:
    """Indices of those that can be read, and why the others cannot."""
    if not isinstance(images, Pictures):
        return list(range(len(images))), []
    good, bad = [], []
    for index, item in enumerate(images.items):
        try:
            images.read(item)
            good.append(index)
        except StudyError as error:
            bad.append(str(error))
    return good, bad


def _taken(
    images: Mapping[str, np.ndarray | Pictures], split: str, places: list[tuple[str, int]]
) -> np.ndarray | Pictures:
    """The images at these places, of the kind that the split's are."""
    own = images[split]
    if isinstance(own, Pictures):
        items = [images[other].items[index] for other, index in places]  # type: ignore[union-attr]
        return Pictures(own.read, items, own.shape[1:])
    return own

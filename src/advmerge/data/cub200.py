"""Caltech-UCSD Birds 200-2011: 5,994 training and 5,794 test photographs (Wah et al. 2011)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from advmerge.data import TaskData
from advmerge.data.archives import Archive, provide, root
from advmerge.data.images import pairs, shared_out
from advmerge.seeding import numpy_generator

PAGE = "https://data.caltech.edu/records/65de6-vp158"
ARCHIVES = (Archive(f"{PAGE}/files/CUB_200_2011.tgz", "97eceeb196236b17998738112f37df78", 1151),)
"""With the MD5 that CaltechDATA gives."""


LISTS = ("images", "image_class_labels", "train_test_split", "classes")
NEEDS = ("CUB_200_2011/images", *(f"CUB_200_2011/{name}.txt" for name in LISTS))


def cub200(sizes: Mapping[str, int], seed: int, shape: Sequence[int]) -> TaskData:
    """Which of 200 birds is this? The official split."""
    folder = provide(root(), NEEDS, ARCHIVES, PAGE) / "CUB_200_2011"

    def column(name: str) -> list[str]:
        """The second column of a list; the first numbers its lines alike in all of them."""
        lines = (folder / f"{name}.txt").read_text().splitlines()
        return [line.split(maxsplit=1)[1].strip() for line in lines if line]

    rows = list(zip(column("images"), column("image_class_labels"), column("train_test_split"), strict=True))
    train, test = (
        [(folder / "images" / path, int(label) - 1) for path, label, is_train in rows if is_train == part]
        for part in ("1", "0")
    )
    classes = [name.split(".", 1)[1].replace("_", " ") for name in column("classes")]
    rng = numpy_generator(seed, "data", "cub200")
    return shared_out(pairs(train), pairs(test), sizes, rng, shape, classes)

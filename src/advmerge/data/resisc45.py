"""NWPU-RESISC45: 45 kinds of places from above, 700 aerial photographs each (Cheng et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from advmerge.data import TaskData
from advmerge.data.archives import Archive, provide, root
from advmerge.data.images import pairs, shared_out
from advmerge.seeding import numpy_generator

PAGE = "https://huggingface.co/datasets/torchgeo/resisc45"
SITE = f"{PAGE}/resolve/a826b44d938a883185f11ebe3d512d38b464312f"
ARCHIVES = (
    Archive(f"{SITE}/NWPU-RESISC45.zip", "75206b2e16446591afa88e2628744886", 427),
    Archive(f"{SITE}/resisc45-train.txt", "b5a4c05a37de15e4ca886696a85c403e", 1),
    Archive(f"{SITE}/resisc45-val.txt", "a0770cee4c5ca20b8c32bbd61e114805", 1),
    Archive(f"{SITE}/resisc45-test.txt", "3dda9e4988b47eb1de9f07993653eb08", 1),
)
"""torchgeo's copy and checksums; the split is that of Neumann et al. 2019, which the merging literature uses."""

NEEDS = ("NWPU-RESISC45", "resisc45-train.txt", "resisc45-val.txt", "resisc45-test.txt")


def resisc45(sizes: Mapping[str, int], seed: int, shape: Sequence[int]) -> TaskData:
    """Which of 45 kinds of places is this? 25,200 training and validation images against 6,300 test images."""
    folder = provide(root() / "resisc45", NEEDS, ARCHIVES, PAGE)
    classes = sorted(entry.name for entry in (folder / "NWPU-RESISC45").iterdir() if entry.is_dir())

    def part(name: str) -> list[tuple[Path, int]]:
        """Its lines are names of files, ``golf_course_012.jpg``: the class, and a number."""
        files = (folder / f"resisc45-{name}.txt").read_text().split()
        named = [(file.rsplit("_", 1)[0], file) for file in files]
        return [(folder / "NWPU-RESISC45" / kind / file, classes.index(kind)) for kind, file in named]

    rng = numpy_generator(seed, "data", "resisc45")
    return shared_out(pairs([*part("train"), *part("val")]), pairs(part("test")), sizes, rng, shape, classes)

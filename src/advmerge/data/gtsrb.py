"""GTSRB: German traffic signs, 26,640 training and 12,630 test photographs (Stallkamp et al. 2011)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from advmerge.data import TaskData
from advmerge.data.archives import Archive, provide, root
from advmerge.data.images import listed, shared_out
from advmerge.seeding import numpy_generator

SITE = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370"
ARCHIVES = (
    Archive(f"{SITE}/GTSRB-Training_fixed.zip", "513f3c79a4c5141765e10e952eaa2478", 187),
    Archive(f"{SITE}/GTSRB_Final_Test_Images.zip", "c7e4e6327067d32654124b0fe9e82185", 89),
    Archive(f"{SITE}/GTSRB_Final_Test_GT.zip", "fe31e9c9270bbcd7b84b7f21a9d9d9e5", 1),
)
"""torchvision's."""

NEEDS = ("GTSRB/Training", "GTSRB/Final_Test/Images", "GT-final_test.csv")


def gtsrb(sizes: Mapping[str, int], seed: int, shape: Sequence[int]) -> TaskData:
    """Which of 43 traffic signs is this? The official split. Training frames of one sign are alike: they are of a film."""
    from torchvision.datasets import GTSRB

    provide(root() / "gtsrb", NEEDS, ARCHIVES, "https://benchmark.ini.rub.de")
    train, test = (listed(GTSRB(root(), split)) for split in ("train", "test"))
    classes = sorted(entry.name for entry in (root() / "gtsrb/GTSRB/Training").iterdir() if entry.is_dir())
    return shared_out(train, test, sizes, numpy_generator(seed, "data", "gtsrb"), shape, classes)

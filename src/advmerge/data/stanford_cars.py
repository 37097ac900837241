"""Stanford Cars: 196 makes and models, 8,144 training and 8,041 test photographs (Krause et al. 2013)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from advmerge.data import TaskData
from advmerge.data.archives import Archive, provide, root
from advmerge.data.images import listed, shared_out
from advmerge.seeding import numpy_generator

SITE = "https://ai.stanford.edu/~jkrause"
PAGE = "https://github.com/pytorch/vision/issues/7545 (the first address is dead; people there name copies)"
ARCHIVES = (
    Archive(f"{SITE}/cars/car_devkit.tgz", "c3b158d763b6e2245038c8ad08e45376", 1),
    Archive(f"{SITE}/car196/cars_train.tgz", "065e5b463ae28d29e77c1b4b166cfe61", 979),
    Archive(f"{SITE}/car196/cars_test.tgz", "4ce7ebf6a94d07f1952d94dd34c4d501", 977),
    Archive(f"{SITE}/car196/cars_test_annos_withlabels.mat", "b0a2b23655a3edd16d84508592a98d10", 1),
)
"""With torchvision's checksums, of when the addresses were alive."""

NEEDS = (
    "devkit/cars_meta.mat",
    "devkit/cars_train_annos.mat",
    "cars_train",
    "cars_test",
    "cars_test_annos_withlabels.mat",
)


def stanford_cars(sizes: Mapping[str, int], seed: int, shape: Sequence[int]) -> TaskData:
    """Which make, model and year is this car? 196 classes, the official split."""
    from torchvision.datasets import StanfordCars

    provide(root() / "stanford_cars", NEEDS, ARCHIVES, PAGE)
    train, test = (StanfordCars(root(), split) for split in ("train", "test"))
    rng = numpy_generator(seed, "data", "stanford_cars")
    return shared_out(listed(train), listed(test), sizes, rng, shape, list(train.classes))

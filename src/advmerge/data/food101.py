"""Food-101: 75,750 training and 25,250 test photographs of dishes (Bossard et al. 2014)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from advmerge.data import TaskData
from advmerge.data.archives import Archive, provide, root
from advmerge.data.images import listed, shared_out
from advmerge.seeding import numpy_generator

PAGE = "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101"
ARCHIVES = (Archive("http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz", "85eeb15f3717b99a5da872d97d918f87", 4996),)
"""torchvision's."""


def food101(sizes: Mapping[str, int], seed: int, shape: Sequence[int]) -> TaskData:
    """Which of 101 dishes is this? The official split; training labels hold some noise on purpose."""
    from torchvision.datasets import Food101

    provide(root(), ("food-101/images", "food-101/meta"), ARCHIVES, PAGE)
    train, test = (Food101(root(), split) for split in ("train", "test"))
    rng = numpy_generator(seed, "data", "food101")
    return shared_out(listed(train), listed(test), sizes, rng, shape, list(train.classes))

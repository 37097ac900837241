"""Describable Textures: 47 words, 3,760 training and validation and 1,880 test photographs (Cimpoi et al. 2014)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from advmerge.data import TaskData
from advmerge.data.archives import Archive, provide, root
from advmerge.data.images import listed, shared_out
from advmerge.seeding import numpy_generator

PAGE = "https://www.robots.ox.ac.uk/~vgg/data/dtd"
ARCHIVES = (Archive(f"{PAGE}/download/dtd-r1.0.1.tar.gz", "fff73e5086ae6bdbea199a49dfb8a4c1", 625),)
"""torchvision's."""


def dtd(sizes: Mapping[str, int], seed: int, shape: Sequence[int]) -> TaskData:
    """Which word describes the texture? 47 classes; train and val of the official partition 1 against its test images."""
    from torchvision.datasets import DTD

    provide(root() / "dtd", ("dtd/images", "dtd/labels"), ARCHIVES, PAGE)
    parts = [DTD(root(), split) for split in ("train", "val")]
    both = [listed(part) for part in parts]
    train = [path for paths, _ in both for path in paths], [label for _, labels in both for label in labels]
    rng = numpy_generator(seed, "data", "dtd")
    return shared_out(train, listed(DTD(root(), "test")), sizes, rng, shape, list(parts[0].classes))

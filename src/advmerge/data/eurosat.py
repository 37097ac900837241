"""EuroSAT: 27,000 satellite tiles of 10 kinds of land use (Helber et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from advmerge.data import TaskData
from advmerge.data.archives import Archive, provide, root
from advmerge.data.images import listed, shared_out
from advmerge.seeding import numpy_generator

PAGE = "https://huggingface.co/datasets/torchgeo/eurosat"
SITE = f"{PAGE}/resolve/c877bcd43f099cd0196738f714544e355477f3fd"
ARCHIVES = (Archive(f"{SITE}/EuroSAT.zip", "c8fa014336c82ac7804f0398fcb19387", 94),)
"""torchvision's."""


def eurosat(sizes: Mapping[str, int], seed: int, shape: Sequence[int]) -> TaskData:
    """What is the land used for? 10 classes, RGB; there is no official split: all five are drawn from all images."""
    from torchvision.datasets import EuroSAT

    provide(root() / "eurosat", ("2750",), ARCHIVES, PAGE)
    data = EuroSAT(root())
    rng = numpy_generator(seed, "data", "eurosat")
    return shared_out(listed(data), None, sizes, rng, shape, list(data.classes))

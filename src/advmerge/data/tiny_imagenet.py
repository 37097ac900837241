"""Tiny ImageNet: 200 classes of ImageNet at 64 × 64, 100,000 training and 10,000 labelled validation images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from advmerge.data import TaskData
from advmerge.data.archives import Archive, provide, root
from advmerge.data.images import pairs, shared_out
from advmerge.seeding import numpy_generator

SITE = "http://cs231n.stanford.edu"
ARCHIVES = (Archive(f"{SITE}/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de", 248),)


NEEDS = tuple(f"tiny-imagenet-200/{name}" for name in ("train", "val", "wnids.txt", "words.txt"))


def tiny_imagenet(sizes: Mapping[str, int], seed: int, shape: Sequence[int]) -> TaskData:
    """Which of 200 things is this? The official test images have no labels: the validation images are the test split."""
    folder = provide(root(), NEEDS, ARCHIVES, SITE) / "tiny-imagenet-200"
    synsets = (folder / "wnids.txt").read_text().split()
    number = {synset: label for label, synset in enumerate(synsets)}
    words = dict(line.split("\t", 1) for line in (folder / "words.txt").read_text().splitlines() if "\t" in line)
    train = [
        (path, number[name]) for name in synsets for path in sorted((folder / "train" / name / "images").iterdir())
    ]
    rows = [line.split("\t") for line in (folder / "val/val_annotations.txt").read_text().splitlines()]
    test = [(folder / "val/images" / row[0], number[row[1]]) for row in rows]
    classes = [words[name].split(",")[0].strip() for name in synsets]
    rng = numpy_generator(seed, "data", "tiny_imagenet")
    return shared_out(pairs(train), pairs(test), sizes, rng, shape, classes)

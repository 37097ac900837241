"""CIFAR-10 and CIFAR-100: 50,000 training and 10,000 test photographs of 32 × 32 (Krizhevsky 2009).

Read from the binary version: the one that torchvision reads is pickled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from advmerge.data import TaskData
from advmerge.data.archives import Archive, provide, root
from advmerge.data.images import Listed, shared_out
from advmerge.errors import StudyError
from advmerge.seeding import numpy_generator

SITE = "https://www.cs.toronto.edu/~kriz"
ARCHIVES = {
    "cifar10": Archive(f"{SITE}/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", 170),
    "cifar100": Archive(f"{SITE}/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", 169),
}
"""With the MD5 that their page gives."""


def _read(files: Sequence[Path], label_bytes: int) -> Listed:
    """Records of ``label_bytes`` (the last is the class) and 3 × 32 × 32 pixels, colour after colour."""
    content = np.concatenate([np.fromfile(file, dtype=np.uint8) for file in files])
    if len(content) % (label_bytes + 3072):
        raise StudyError(f"{files[0].parent}: the records are not of {label_bytes + 3072} bytes; delete the folder")
    records = content.reshape(-1, label_bytes + 3072)
    return records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, label_bytes - 1]


def _provided(kind: str, folder: str) -> Path:
    return provide(root(), (folder,), (ARCHIVES[kind],), f"{SITE}/cifar.html") / folder


def cifar10(sizes: Mapping[str, int], seed: int, shape: Sequence[int]) -> TaskData:
    """Which of 10 things is this? The official split."""
    folder = _provided("cifar10", "cifar-10-batches-bin")
    train = _read([folder / f"data_batch_{number}.bin" for number in range(1, 6)], 1)
    test = _read([folder / "test_batch.bin"], 1)
    classes = (folder / "batches.meta.txt").read_text().split()
    return shared_out(train, test, sizes, numpy_generator(seed, "data", "cifar10"), shape, classes)


def cifar100(sizes: Mapping[str, int], seed: int, shape: Sequence[int]) -> TaskData:
    """Which of 100 things is this? The fine labels, the official split."""
    folder = _provided("cifar100", "cifar-100-binary")
    train, test = _read([folder / "train.bin"], 2), _read([folder / "test.bin"], 2)
    classes = (folder / "fine_label_names.txt").read_text().split()
    return shared_out(train, test, sizes, numpy_generator(seed, "data", "cifar100"), shape, classes)

"""Every random draw comes from a generator seeded from (study seed, what is drawn for).

So the order in which jobs run, the number of processes and what else was drawn never change a result.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    import torch


def derive(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose: the head of SHA-256 over the study seed and the purpose's parts.

    >>> derive(0, "pretrain") != derive(0, "finetune", "mnist")
    True
    """
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, *purpose: object) -> torch.Generator:
    """A CPU generator of torch for one purpose."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *purpose))


def numpy_generator(seed: int, *purpose: object) -> numpy.random.Generator:
    """A generator of numpy for one purpose."""
    import numpy

    return numpy.random.default_rng(derive(seed, *purpose))

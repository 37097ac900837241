"""AdaMerging and surgery on a small vision transformer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from advmerge.merging import Adaptation, adapt
from advmerge.merging.surgery import operate
from advmerge.models import Surgery, to_unit
from tests.merging.conftest import Zoo


def entropy(zoo: Zoo, state: dict[str, Tensor]) -> float:
    """Σ over tasks of the mean entropy on all its images."""
    total = 0.0
    with torch.no_grad():
        for task, images in zoo.images.items():
            p = zoo.classifier(task, state)(to_unit(images)).softmax(1)
            total += float(-(p * p.log()).sum(1).mean())
    return total

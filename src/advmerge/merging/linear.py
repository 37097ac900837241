"""Averages and sums of task vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from advmerge.merging import register


@register("average")
def average(pretrained: Tensor, finetuned: Sequence[Tensor]) -> Tensor:
    """Weight averaging: (1/T) Σ_t θ_t. Wortsman et al., "Model soups", ICML 2022 (uniform soup)."""
    del pretrained  # the mean of the θ_t equals θ_0 plus the mean task vector
    return torch.stack(list(finetuned)).mean(0)


@register("task_arithmetic")
def task_arithmetic(pretrained: Tensor, finetuned: Sequence[Tensor], *, scale: float) -> Tensor:
    """Task arithmetic: θ_0 + λ Σ_t τ_t. Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023.

    Args:
        pretrained: θ_0.
        finetuned: θ_t.
        scale: λ.
    """
    return pretrained + scale * torch.stack([expert - pretrained for expert in finetuned]).sum(0)

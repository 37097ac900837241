"""TIES: trim, elect sign, merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from advmerge.merging import register


def thresholds(
    pretrained: Mapping[str, Tensor], finetuned: Sequence[Mapping[str, Tensor]], *, keep: float, **_: Any
) -> dict[str, list[float]]:
    """The magnitude above which a task vector's entries are among its top ``keep``, over the whole model.

    Returns:
        ``{"thresholds": [one value a task]}``: the magnitude of the k-th largest entry, k = ⌈keep · n⌉;
        infinite for k = 0. Entries equal to the threshold are all kept.
    """
    names = [name for name, tensor in pretrained.items() if tensor.is_floating_point()]
    found = []
    for tensors in finetuned:
        sizes = torch.cat([(tensors[n].float() - pretrained[n].float()).abs().flatten() for n in names])
        count = int(-(-keep * sizes.numel() // 1))
        found.append(float(torch.topk(sizes, count).values[-1]) if count else float("inf"))
    return {"thresholds": found}


@register("ties", prepare=thresholds)
def ties(
    pretrained: Tensor,
    finetuned: Sequence[Tensor],
    thresholds: Sequence[float],
    *,
    scale: float,
    keep: float,
    aggregate: str = "sum",
) -> Tensor:
    """TIES-Merging: θ_0 + λ · aggregate of the trimmed entries that agree with the elected sign.

    Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", NeurIPS 2023. The elected sign of
    an entry is that of the sum of the trimmed task vectors; where that sum is zero nothing agrees and the
    pretrained value stays.

    Args:
        pretrained: θ_0.
        finetuned: θ_t.
        thresholds: magnitude from which each task vector's entries are kept (global, see :func:`thresholds`).
        scale: λ.
        keep: share of entries kept, in [0, 1]; 0.2 in the paper. Used by :func:`thresholds`.
        aggregate: ``mean`` over the agreeing entries (the paper) or their ``sum`` (AdaMerging, FusionBench).
    """
    del keep
    trimmed = torch.stack([expert - pretrained for expert in finetuned])
    limit = torch.tensor(thresholds, dtype=trimmed.dtype, device=trimmed.device).view(-1, *[1] * pretrained.ndim)
    trimmed = trimmed * (trimmed.abs() >= limit)
    agreeing = trimmed * (trimmed.sign() == trimmed.sum(0).sign())
    total = agreeing.sum(0)
    if aggregate == "mean":
        total = total / (agreeing != 0).sum(0).clamp(min=1)
    return pretrained + scale * total

"""Methods that mask one shared task vector: Consensus, and TALL and EMR, where the task picks the mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from advmerge.errors import StudyError
from advmerge.merging import Count, Place, Rate, Scale, register
from advmerge.merging.engine import Masked
from advmerge.merging.selection import CHUNK
from advmerge.merging.sparse import task_vectors


def tall_masks(vectors: Sequence[Tensor], threshold: float) -> tuple[Tensor, Tensor]:
    """Στ, and m_t = |τ_t| > λ |Στ − τ_t|, bool [T, …]: where the sum still serves task t."""
    stacked = torch.stack(list(vectors))
    summed = stacked.sum(0)
    return summed, stacked.abs() > threshold * (summed - stacked).abs()


@register("consensus", elementwise=True)
def consensus(
    pretrained: Tensor,
    finetuned: Sequence[Tensor],
    place: Place,
    *,
    scale: Scale,
    threshold: Rate = 0.4,
    agree: Count = 2,
) -> Tensor:
    """Consensus task arithmetic: θ_0 + α [Σ_t m_t ≥ k] ⊙ Στ with TALL masks m_t = |τ_t| > λ |Στ − τ_t|.

    Wang et al., "Localizing Task Information for Improved Model Merging and Compression", ICML 2024, eq. 4–6.
    Entries that serve none or few of the tasks go.

    Args:
        pretrained: θ_0.
        finetuned: θ_t.
        place: not used.
        scale: α.
        threshold: λ; the paper chooses from 0.2 to 0.6.
        agree: k, tasks that an entry must serve; 2 in the paper.

    Raises:
        StudyError: k is more than the number of tasks.
    """
    del place
    if agree > len(finetuned):
        raise StudyError(f"agree: {agree} of {len(finetuned)} tasks cannot agree")
    summed, masks = tall_masks([expert - pretrained for expert in finetuned], threshold)
    return pretrained + scale * summed.where(masks.sum(0) >= agree, 0)


@register("tall", per_task=True)
def tall(pretrained: Tensor, finetuned: Sequence[Tensor], place: Place, *, threshold: Rate = 0.4) -> Masked:
    """TALL masks: θ_0 + m_t ⊙ Στ for task t, m_t = |τ_t| > λ |Στ − τ_t|.

    Wang et al., "Localizing Task Information for Improved Model Merging and Compression", ICML 2024, eq. 4. The mask
    compares θ_t − θ_0 with θ_mt − θ_t: a public implementation puts τ_t for θ_t, and keeps nearly everything.

    Args:
        pretrained: θ_0.
        finetuned: θ_t.
        place: not used.
        threshold: λ; the paper chooses from 0.2 to 0.6.
    """
    del place
    return Masked(*tall_masks([expert - pretrained for expert in finetuned], threshold), [1.0] * len(finetuned))


def unify(vectors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """EMR's elected vector τ_u = σ ⊙ max of the |τ_t| that agree with σ = sgn Στ, and masks [τ_t τ_u > 0]."""
    stacked = torch.stack(list(vectors))
    sign = stacked.sum(0).sign()
    agreeing = stacked.sign() == sign
    unified = sign * stacked.abs().where(agreeing, 0).amax(0)
    return unified, agreeing & (unified != 0)


def rescalers(
    pretrained: Mapping[str, Tensor], finetuned: Mapping[str, Mapping[str, Tensor]], seed: int, **_: Any
) -> dict[str, list[float]]:
    """``{"scales": [Σ|τ_t| / Σ|M_t ⊙ τ_u|, one a task]}`` over the whole model; 1 for an expert that is P itself."""
    del seed
    own, left = torch.zeros(len(finetuned), dtype=torch.float64), torch.zeros(len(finetuned), dtype=torch.float64)
    for _name, vectors in task_vectors(pretrained, finetuned, CHUNK):
        unified, masks = unify(vectors)
        for index, vector in enumerate(vectors):
            own[index] += vector.abs().sum(dtype=torch.float64)
            left[index] += unified.abs().where(masks[index], 0).sum(dtype=torch.float64)
    return {"scales": (own / left).where(left > 0, 1).tolist()}


@register("emr", prepare=rescalers, per_task=True)
def emr(pretrained: Tensor, finetuned: Sequence[Tensor], place: Place) -> Masked:
    """EMR-Merging: θ_0 + λ_t M_t ⊙ τ_u for task t; elect τ_u, mask M_t, rescale λ_t.

    Huang et al., "EMR-Merging: Tuning-Free High-Performance Model Merging", NeurIPS 2024. σ = sgn Στ;
    τ_u = σ ⊙ max of the |τ_t| that agree with σ; M_t = [τ_t ⊙ τ_u > 0]; λ_t = Σ|τ_t| / Σ|M_t ⊙ τ_u|.
    Where Στ is zero, so is τ_u.

    Args:
        pretrained: θ_0.
        finetuned: θ_t.
        place: holds the λ_t.
    """
    return Masked(*unify([expert - pretrained for expert in finetuned]), place.prepared["scales"])

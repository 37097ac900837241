"""PCB: entries compete within and between tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from advmerge.merging import Place, Range, Scale, Share, register
from advmerge.merging.files import floating, specification
from advmerge.merging.selection import CHUNK, largest
from advmerge.merging.sparse import task_vectors


def scores(vectors: Sequence[Tensor], bounds: Sequence[Sequence[float]]) -> list[Tensor]:
    """exp(T · norm(|τ_t|)²) · tanh(τ_t ⊙ Στ) of each task; norm clips |τ_t| to its bounds and maps them to [0, 1]."""
    summed = torch.stack(list(vectors)).sum(0)
    found = []
    for vector, (high, low) in zip(vectors, bounds, strict=True):
        share = (vector.abs().clamp(low, high) - low) / ((high - low) or 1.0)
        found.append((len(vectors) * share.square()).exp() * (vector * summed).tanh())
    return found


def bounds_and_limits(
    pretrained: Mapping[str, Tensor],
    finetuned: Mapping[str, Mapping[str, Tensor]],
    seed: int,
    *,
    keep: float = 0.05,
    clip: float = 1e-4,
    **_: Any,
) -> dict[str, list[list[float]]]:
    """What PCB must know of whole models.

    Returns:
        ``bounds``: for each task the (highest, lowest) magnitude after clipping; ``limits``: for each task the
        highest score, and the score of the ⌈keep·n⌉-th (infinite where nothing is kept).
    """
    del seed
    shapes = specification(pretrained)
    size = sum(torch.Size(shapes[name][1]).numel() for name in floating(pretrained))
    tasks, count = len(finetuned), int(-(-keep * size // 1))
    high, low = size - int(size * (1 - clip) - 1), size - int(size * clip)  # ranks, as the authors' code rounds them

    def magnitudes() -> Iterator[list[Tensor]]:
        return ([vector.abs() for vector in vectors] for _, vectors in task_vectors(pretrained, finetuned, CHUNK))

    bounds = largest(magnitudes, [[high, low]] * tasks)
    if not count:
        return {"bounds": bounds, "limits": [[float("inf"), float("inf")]] * tasks}

    def scored() -> Iterator[list[Tensor]]:
        return (scores(vectors, bounds) for _, vectors in task_vectors(pretrained, finetuned, CHUNK))

    return {"bounds": bounds, "limits": largest(scored, [[1, count]] * tasks)}


@register("pcb", prepare=bounds_and_limits, elementwise=True)
def pcb(
    pretrained: Tensor,
    finetuned: Sequence[Tensor],
    place: Place,
    *,
    scale: Scale = 1.2,
    keep: Share = 0.05,
    clip: Annotated[float, Range(0, 0.4)] = 1e-4,
) -> Tensor:
    """PCB-Merging: θ_0 + λ Σ_t β_t ⊙ τ_t / Σ_t β_t.

    Du et al., "Parameter Competition Balancing for Model Merging", NeurIPS 2024. β_t grows with the score
    exp(T · norm(|τ_t|)²) · tanh(τ_t ⊙ Στ), within tasks and between them: it is the score's height above the
    keep-share's least, over the whole model, in [0, 1]; the rest is zero. As in ``pcb-merging.py`` of the authors' code
    the magnitudes are clipped first, since one outlier would else set the scale of all, and tanh of the raw products
    stands for the paper's softmax; their vision scripts clip one hundredth.

    Args:
        pretrained: θ_0.
        finetuned: θ_t.
        place: holds the bounds and limits of each task.
        scale: λ.
        keep: share of entries that compete.
        clip: share of entries clipped at either end of the magnitudes, in scores and in the sum: ⌊clip · n⌋ of the
            least, ⌈clip · n⌉ of the greatest.
    """
    del keep, clip
    vectors = [expert - pretrained for expert in finetuned]
    bounds, limits = place.prepared["bounds"], place.prepared["limits"]
    weighted, weights = torch.zeros_like(pretrained), torch.zeros_like(pretrained)
    for vector, score, (high, low), (most, least) in zip(vectors, scores(vectors, bounds), bounds, limits, strict=True):
        weight = (score - least).clamp_(min=0) / ((most - least) if most > least else 1.0)
        weighted += weight * vector.sign() * vector.abs().clamp(low, high)
        weights += weight
    return pretrained + scale * weighted / weights.clamp_(min=1e-12)

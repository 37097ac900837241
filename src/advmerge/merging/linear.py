"""Averages, sums and arcs of models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from advmerge.errors import StudyError
from advmerge.merging import PerTask, Place, Scale, Share, register


def total(vectors: Iterable[Tensor]) -> Tensor:
    """Σ_t of the vectors, one at a time; the first is overwritten."""
    parts = iter(vectors)
    summed = next(parts)
    for part in parts:
        summed += part
    return summed


def combine(
    pretrained: Tensor,
    finetuned: Sequence[Tensor],
    scale: float,
    sparsify: Callable[[int, Tensor], Tensor],
    consensus: Callable[[Iterator[Tensor]], Tensor] = total,
) -> Tensor:
    """θ_0 + scale · consensus over t of sparsify(t, τ_t): what most methods on task vectors are.

    Args:
        pretrained: θ_0.
        finetuned: θ_t.
        scale: λ.
        sparsify: the task's index and τ_t → what of τ_t takes part. It may overwrite τ_t.
        consensus: vectors → one; their sum where not given.
    """
    vectors = (expert - pretrained for expert in finetuned)
    return consensus(sparsify(index, vector) for index, vector in enumerate(vectors)).mul_(scale).add_(pretrained)


@register("average", linear=True)
def average(place: Place) -> list[float]:
    """Weight averaging: (1/T) Σ_t θ_t = θ_0 + (1/T) Σ_t τ_t. Wortsman et al., "Model soups", ICML 2022 (uniform soup)."""
    return [1 / len(place.tasks)] * len(place.tasks)


@register("weighted", linear=True)
def weighted(place: Place, *, weights: PerTask) -> list[float]:
    """Fixed weights: θ_0 + Σ_t w_t τ_t. Matena & Raffel, NeurIPS 2022, and Wortsman et al., ICML 2022, use such sums.

    Args:
        place: names the tasks.
        weights: task → w_t, or the w_t in the tasks' order; 0 leaves a task out. In a study, a mapping: a list is
            a grid there.

    Raises:
        StudyError: there is not exactly one weight a task.
    """
    if isinstance(weights, Mapping):
        if set(weights) != set(place.tasks):
            raise StudyError(f"weights: are for {', '.join(weights)}, the tasks are {', '.join(place.tasks)}")
        return [weights[task] for task in place.tasks]
    if len(weights) != len(place.tasks):
        raise StudyError(f"weights: {len(weights)} of them for {len(place.tasks)} tasks")
    return list(weights)


@register("task_arithmetic", linear=True)
def task_arithmetic(place: Place, *, scale: Scale) -> list[float]:
    """Task arithmetic: θ_0 + λ Σ_t τ_t. Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023.

    Args:
        place: counts the tasks.
        scale: λ; 0.3 in the paper.
    """
    return [scale] * len(place.tasks)


@register("slerp")
def slerp(pretrained: Tensor, finetuned: Sequence[Tensor], place: Place, *, fraction: Share = 0.5) -> Tensor:
    """SLERP of two models: sin((1−f)Ω)/sin Ω · θ_1 + sin(fΩ)/sin Ω · θ_2, Ω the angle between the two tensors.

    Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985, applied to each tensor's weights as a
    vector, as mergekit has it. Where the two are parallel or one is zero it is the straight line between them.

    Args:
        pretrained: not used.
        finetuned: θ_1 and θ_2.
        place: names the tasks.
        fraction: f, the way from the first to the second.

    Raises:
        StudyError: there are not two experts.
    """
    del pretrained
    if len(finetuned) != 2:
        raise StudyError(f"merging method 'slerp' joins two experts, not {len(place.tasks)}")
    one, two = finetuned
    lengths = one.double().norm() * two.double().norm()
    cosine = float((one.double() * two.double()).sum() / lengths) if lengths > 0 else 1.0
    angle = torch.arccos(torch.tensor(max(-1.0, min(1.0, cosine)), dtype=torch.float64))
    sine = float(angle.sin())
    if sine < 1e-6:
        return torch.lerp(one, two, fraction)
    return one * float(((1 - fraction) * angle).sin() / sine) + two * float((fraction * angle).sin() / sine)

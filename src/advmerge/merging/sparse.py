"""Methods that drop most of each task vector: TIES, DARE, DELLA, Breadcrumbs. One kernel, ``linear.combine``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from advmerge.errors import StudyError
from advmerge.merging import Drop, Place, Range, Scale, Share, register
from advmerge.merging.files import floating, piece, specification
from advmerge.merging.linear import combine
from advmerge.merging.selection import CHUNK, largest, largest_near
from advmerge.seeding import torch_generator

Aggregate = Literal["sum", "mean"]


def elect(vectors: Iterable[Tensor], aggregate: str) -> Tensor:
    """Sum or mean of the entries whose sign is that of the sum over tasks.

    Where that sum is zero no sign is elected, nothing agrees and the result is zero.
    """
    parts = list(vectors)
    sign = torch.stack(parts).sum(0).sign_()
    # A mask for every task would cost several times as much.
    summed, room = torch.zeros_like(sign), torch.empty_like(sign)
    count = torch.zeros_like(sign) if aggregate == "mean" else None
    for part in parts:
        summed += torch.mul(part, sign, out=room).clamp_(min=0)
        if count is not None:
            count += room > 0
    return summed.mul_(sign) if count is None else summed.mul_(sign).div_(count.clamp_(min=1))


def task_vectors(
    pretrained: Mapping[str, Tensor],
    finetuned: Mapping[str, Mapping[str, Tensor]],
    size: int | None = None,
    every: int = 1,
) -> Iterator[tuple[str, list[Tensor]]]:
    """Name and the T task vectors of each floating tensor, in float32.

    Args:
        pretrained: θ_0.
        finetuned: task → θ_t.
        size: cut each tensor, flat, into pieces of so many entries; whole and in its shape where None.
        every: of a tensor's pieces, the first of so many.
    """
    shapes = specification(pretrained)
    for name in floating(pretrained):
        if size is None:
            base = pretrained[name].float()
            yield name, [tensors[name].float() - base for tensors in finetuned.values()]
            continue
        count = torch.Size(shapes[name][1]).numel()
        for start in range(0, count, every * size):
            stop = min(start + size, count)
            base = piece(pretrained, name, start, stop).float()
            yield name, [piece(tensors, name, start, stop).float() - base for tensors in finetuned.values()]


def thresholds(
    pretrained: Mapping[str, Tensor],
    finetuned: Mapping[str, Mapping[str, Tensor]],
    seed: int,
    *,
    keep: float,
    sparsify: Callable[[str, str, Tensor], Tensor] | None = None,
    **_: Any,
) -> dict[str, list[float]]:
    """The magnitude above which a task vector's entries are among its top ``keep``, over the whole model.

    Args:
        pretrained: θ_0.
        finetuned: task → θ_t.
        seed: not used.
        keep: share kept, in [0, 1].
        sparsify: task, tensor name and task vector → the vector whose entries are ranked.

    Returns:
        ``{"thresholds": [one value a task]}``: the magnitude of the k-th largest entry, k = ⌈keep · n⌉;
        infinite for k = 0. Entries equal to the threshold are all kept.
    """
    del seed
    shapes = specification(pretrained)
    entries = sum(torch.Size(shapes[name][1]).numel() for name in floating(pretrained))
    count = int(-(-keep * entries // 1))
    if not count:
        return {"thresholds": [float("inf")] * len(finetuned)}

    def magnitudes() -> Iterator[list[Tensor]]:
        # What sparsify does to an entry may depend on the whole tensor.
        for name, vectors in task_vectors(pretrained, finetuned, None if sparsify else CHUNK):
            if sparsify:
                vectors = [sparsify(task, name, vector) for task, vector in zip(finetuned, vectors, strict=True)]
            yield [vector.abs_() for vector in vectors]

    ranks = [count] * len(finetuned)
    if sparsify or entries < 64 * CHUNK:
        return {"thresholds": [values[0] for values in largest(magnitudes, [[rank] for rank in ranks])]}
    few = [[vector[::16].abs() for vector in v] for _, v in task_vectors(pretrained, finetuned, CHUNK, every=16)]
    samples = [torch.cat(pieces) for pieces in zip(*few, strict=True)]
    guesses = [float(sample.kthvalue(1 + int((1 - keep) * (len(sample) - 1))).values) for sample in samples]
    return {"thresholds": largest_near(magnitudes, ranks, guesses)}


def trim(vector: Tensor, threshold: float) -> Tensor:
    """The entries of at least a magnitude; zero elsewhere."""
    if threshold <= 0:
        return vector
    # hardshrink keeps what is greater than its bound, ten times as fast as a mask
    below = float(numpy.nextafter(numpy.float32(threshold), numpy.float32(0)))
    return functional.hardshrink(vector, below)


@register("ties", prepare=thresholds, elementwise=True)
def ties(
    pretrained: Tensor,
    finetuned: Sequence[Tensor],
    place: Place,
    *,
    scale: Scale,
    keep: Share,
    aggregate: Aggregate = "sum",
) -> Tensor:
    """TIES-Merging: θ_0 + λ · aggregate of the trimmed entries that agree with the elected sign.

    Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", NeurIPS 2023. The elected sign of
    an entry is that of the sum of the trimmed task vectors; where that sum is zero nothing agrees and the
    pretrained value stays.

    Args:
        pretrained: θ_0.
        finetuned: θ_t.
        place: holds the magnitude from which each task vector's entries are kept (global, see :func:`thresholds`).
        scale: λ.
        keep: share of entries kept, in [0, 1]; 0.2 in the paper. Used by :func:`thresholds`.
        aggregate: ``mean`` over the agreeing entries (the paper) or their ``sum`` (AdaMerging, FusionBench).
    """
    del keep
    limits = place.prepared["thresholds"]
    return combine(
        pretrained,
        finetuned,
        scale,
        lambda index, vector: trim(vector, limits[index]),
        lambda vectors: elect(vectors, aggregate),
    )


def drop_and_rescale(vector: Tensor, drop: float, seed: int, task: str, name: str) -> Tensor:
    """Each entry is zero with probability ``drop``, else divided by 1 − drop: its expectation stays."""
    draws = torch.rand(vector.shape, generator=torch_generator(seed, "dare", task, name))
    return vector.where(draws >= drop, 0) / (1 - drop)


@register("dare")
def dare(
    pretrained: Tensor, finetuned: Sequence[Tensor], place: Place, *, scale: Scale = 0.3, drop: Drop = 0.5
) -> Tensor:
    """DARE with task arithmetic: θ_0 + λ Σ_t (1 − m_t) ⊙ τ_t / (1 − p), m_t ~ Bernoulli(p).

    Yu et al., "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch", ICML 2024.

    Args:
        pretrained: θ_0.
        finetuned: θ_t.
        place: seeds the draws.
        scale: λ.
        drop: p.
    """
    return combine(
        pretrained,
        finetuned,
        scale,
        lambda index, vector: drop_and_rescale(vector, drop, place.seed, place.tasks[index], place.name),
    )


def dare_thresholds(
    pretrained: Mapping[str, Tensor],
    finetuned: Mapping[str, Mapping[str, Tensor]],
    seed: int,
    *,
    drop: float = 0.5,
    keep: float = 1.0,
    **_: Any,
) -> dict[str, list[float]]:
    """:func:`thresholds` of what DARE left of the task vectors; the same draws as in the merge."""

    def sparsify(task: str, name: str, vector: Tensor) -> Tensor:
        return drop_and_rescale(vector, drop, seed, task, name)

    return thresholds(pretrained, finetuned, seed, keep=keep, sparsify=sparsify)


@register("dare_ties", prepare=dare_thresholds)
def dare_ties(
    pretrained: Tensor,
    finetuned: Sequence[Tensor],
    place: Place,
    *,
    scale: Scale,
    drop: Drop = 0.5,
    keep: Share = 1.0,
    aggregate: Aggregate = "sum",
) -> Tensor:
    """DARE, then TIES on what it left. Yu et al., ICML 2024, section 3.3; Yadav et al., NeurIPS 2023.

    Args:
        pretrained: θ_0.
        finetuned: θ_t.
        place: seeds the draws and holds the thresholds.
        scale: λ.
        drop: DARE's p.
        keep: share of all entries that TIES' trimming keeps after DARE; 1 leaves the dropping to DARE (mergekit).
        aggregate: as in TIES.
    """
    del keep
    limits = place.prepared["thresholds"]

    def sparsify(index: int, vector: Tensor) -> Tensor:
        return trim(drop_and_rescale(vector, drop, place.seed, place.tasks[index], place.name), limits[index])

    return combine(pretrained, finetuned, scale, sparsify, lambda vectors: elect(vectors, aggregate))


def drop_by_magnitude(vector: Tensor, drop: float, window: float, generator: torch.Generator) -> Tensor:
    """MagPrune: an entry's chance to be dropped falls with its rank of magnitude in its row.

    The chances run evenly over [drop − window/2, drop + window/2], the smallest entry's the highest; what is left
    is divided by the chance to be left. A row is a row of a matrix, what follows the first axis of a larger tensor,
    or the whole of a vector.
    """
    rows = vector.flatten(1) if vector.ndim > 1 else vector.reshape(1, -1)
    width = rows.shape[1]
    ranks = rows.abs().argsort(dim=1, descending=True, stable=True).argsort(1)  # 0: the largest
    middle = (width - 1) / 2
    chance = drop + window * (ranks - middle) / max(width - 1, 1)
    draws = torch.rand(rows.shape, generator=generator)
    return (rows.where(draws >= chance, 0) / (1 - chance)).view_as(vector)


@register("della")
def della(
    pretrained: Tensor,
    finetuned: Sequence[Tensor],
    place: Place,
    *,
    scale: Scale,
    drop: Drop = 0.5,
    window: Annotated[float, Range(0, 0.999)] = 0.2,
    aggregate: Aggregate = "mean",
) -> Tensor:
    """DELLA: drop by magnitude (MagPrune), elect signs, fuse: θ_0 + λ · aggregate of the agreeing entries.

    Deep, Bhardwaj & Poria, "DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based
    Sampling", 2024.

    Args:
        pretrained: θ_0.
        finetuned: θ_t.
        place: seeds the draws.
        scale: λ.
        drop: p, the mean chance of an entry to be dropped.
        window: ε, how far the chances of the smallest and the largest entry of a row lie apart.
        aggregate: ``mean`` (the paper) or ``sum`` of the agreeing entries.

    Raises:
        StudyError: the chances p ± ε/2 leave [0, 1).
    """
    if not 0 <= drop - window / 2 <= drop + window / 2 < 1:
        raise StudyError(f"della: drop ± window/2 is {drop} ± {window / 2}; it must lie in [0, 1)")

    def sparsify(index: int, vector: Tensor) -> Tensor:
        generator = torch_generator(place.seed, "della", place.tasks[index], place.name)
        return drop_by_magnitude(vector, drop, window, generator)

    return combine(pretrained, finetuned, scale, sparsify, lambda vectors: elect(vectors, aggregate))


def between(vector: Tensor, small: float, large: float) -> Tensor:
    """All but the ⌊small·n⌋ entries of least and the ⌊large·n⌋ of greatest magnitude.

    Entries equal to the least or the greatest that is kept are kept too.
    """
    count = vector.numel()
    low, high = int(small * count), count - int(large * count)
    if low >= high:
        return torch.zeros_like(vector)
    sizes = vector.abs()
    flat = sizes.flatten()
    least, greatest = flat.kthvalue(low + 1).values, flat.kthvalue(high).values
    return vector.where((sizes >= least) & (sizes <= greatest), 0)


@register("breadcrumbs")
def breadcrumbs(
    pretrained: Tensor,
    finetuned: Sequence[Tensor],
    place: Place,
    *,
    scale: Scale = 0.3,
    drop_small: Share = 0.85,
    drop_large: Share = 0.01,
) -> Tensor:
    """Model Breadcrumbs: θ_0 + α Σ_t m_t ⊙ τ_t; m_t drops, in each tensor, the smallest entries and the outliers.

    Davari & Belilovsky, "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks", ECCV 2024.

    Args:
        pretrained: θ_0.
        finetuned: θ_t.
        place: not used.
        scale: α.
        drop_small: β, share of entries of least magnitude that are dropped.
        drop_large: 1 − γ, share of entries of greatest magnitude that are dropped.
    """
    del place
    return combine(pretrained, finetuned, scale, lambda _, vector: between(vector, drop_small, drop_large))

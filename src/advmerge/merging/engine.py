"""Runs the methods: tensor by tensor for those that need no data, on whole models for those that adapt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from advmerge.errors import StudyError, unknown
from advmerge.merging import Adaptation, Place, check_options, method
from advmerge.merging.files import Lazy, fill, floating, piece, specification
from advmerge.merging.linear import total
from advmerge.merging.selection import CHUNK
from advmerge.models import PER_TASK, pack_mask

Tensors = Mapping[str, Tensor]


def check_names(pretrained: Tensors, finetuned: Mapping[str, Tensors]) -> None:
    """Refuse experts whose tensors are not named and shaped as the pretrained model's; reads no tensor of a file.

    Raises:
        StudyError: naming the expert and the first tensor whose name or shape differs.
    """
    if not finetuned:
        raise StudyError("merging needs at least one fine-tuned model")
    base = specification(pretrained)
    for task, tensors in finetuned.items():
        found = specification(tensors)
        for name in base:
            if name not in found:
                raise StudyError(f"expert '{task}': lacks the tensor '{name}' of the pretrained model")
        for name, (_, shape) in found.items():
            if name not in base:
                raise StudyError(f"expert '{task}': has a tensor '{name}' that the pretrained model lacks")
            if shape != base[name][1]:
                said = f"{list(shape)}, pretrained {list(base[name][1])}"
                raise StudyError(f"expert '{task}': the tensor '{name}' has shape {said}")


def finite(tensor: Tensor, whose: str, name: str) -> Tensor:
    """The tensor itself.

    Raises:
        StudyError: an entry is not finite.
    """
    # One infinite or undefined entry makes the sum so: cheaper than a mask; a sum may also overflow, so look again.
    if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
        raise StudyError(f"{whose}: the tensor '{name}' has values that are not finite")
    return tensor


def check_models(pretrained: Tensors, finetuned: Mapping[str, Tensors]) -> None:
    """Refuse experts that are not fine-tuned versions of the pretrained model.

    Raises:
        StudyError: naming the expert and the first tensor whose name or shape differs, or that is not finite.
    """
    check_names(pretrained, finetuned)
    for whose, tensors in owners(pretrained, finetuned).items():
        for name in floating(tensors):
            finite(tensors[name], whose, name)


class Masked(NamedTuple):
    """One tensor of a merge that answers per task: θ_0 + scale_t · mask_t ⊙ vector for task t.

    Attributes:
        vector: the task vector that all tasks share, in the tensor's shape.
        masks: bool [T, …].
        scales: T numbers, the same for every tensor of a model.
    """

    vector: Tensor
    masks: Tensor
    scales: Sequence[float]


def stream(
    name: str,
    pretrained: Tensors,
    finetuned: Mapping[str, Tensors],
    *,
    seed: int = 0,
    task: str | None = None,
    **options: Any,
) -> Iterator[tuple[str, Tensor | Masked]]:
    """Merge by a tensor-wise method, one tensor at a time; see :func:`merge` for what they share.

    Args:
        task: of a method that answers per task, yield the encoder of this one.

    Yields:
        Each tensor's name and its merged value, in the pretrained model's order. Only one tensor of each model is
        in memory at a time, where the models are files (:class:`advmerge.merging.files.Lazy`).
    """
    chosen = method(name)
    if chosen.adaptive:
        raise StudyError(f"merging method '{name}' adapts on images; it cannot merge weights alone")
    check_options(f"method {name}", name, options)
    check_names(pretrained, finetuned)
    if task is not None and not chosen.per_task:
        raise StudyError(f"merging method '{name}' makes one model for all tasks: 'task' picks nothing")
    if task is not None and task not in finetuned:
        raise unknown("expert", task, finetuned)
    prepared = chosen.prepare(pretrained, finetuned, seed, **options) if chosen.prepare else {}
    merged = set(floating(pretrained))
    for key in pretrained:
        if key not in merged:
            yield key, pretrained[key].clone()
            continue
        place = Place(key, list(finetuned), seed, prepared)
        if chosen.linear:
            yield key, add_up(chosen.function(place, **options), pretrained, finetuned, key)
            continue
        if chosen.elementwise:
            yield key, by_pieces(chosen.function, pretrained, finetuned, place, **options)
            continue
        base = pretrained[key]
        wide = finite(base.float(), "the pretrained model", key)
        experts = [finite(tensors[key].float(), f"expert '{name}'", key) for name, tensors in finetuned.items()]
        result = chosen.function(wide, experts, place, **options)
        if isinstance(result, Masked) and task is not None:
            index = list(finetuned).index(task)
            result = wide + result.scales[index] * (result.masks[index] * result.vector)
        yield key, result if isinstance(result, Masked) else result.to(base.dtype)


def owners(pretrained: Tensors, finetuned: Mapping[str, Tensors]) -> dict[str, Tensors]:
    """The models under what messages call them."""
    return {"the pretrained model": pretrained} | {f"expert '{task}'": tensors for task, tensors in finetuned.items()}


def add_up(weights: Sequence[float], pretrained: Tensors, finetuned: Mapping[str, Tensors], name: str) -> Tensor:
    """θ_0 + Σ_t c_t τ_t of one tensor, in pieces: three of them stay in the cache, whatever T is.

    Args:
        weights: c_t, in the experts' order.
        pretrained: θ_0.
        finetuned: task → θ_t.
        name: of the tensor.
    """
    dtype, shape = specification(pretrained)[name]
    merged = torch.empty(shape, dtype=dtype)
    rooms = torch.empty(3, min(CHUNK, merged.numel()))
    for start in range(0, merged.numel(), CHUNK):
        stop = min(start + CHUNK, merged.numel())
        base, vector, summed = rooms[:, : stop - start]
        fill(base, pretrained, name, start)
        summed.zero_()
        for weight, tensors in zip(weights, finetuned.values(), strict=True):
            fill(vector, tensors, name, start)
            summed.add_(vector.sub_(base), alpha=weight)
        # An entry that is not finite makes the sum so, with weight 0 too; whose it is is asked only then.
        if not torch.isfinite(summed.sum()):
            for whose, tensors in owners(pretrained, finetuned).items():
                finite(piece(tensors, name, start, stop).float(), whose, name)
        merged.view(-1)[start:stop] = summed.add_(base)
    return merged


def by_pieces(
    function: Callable[..., Tensor],
    pretrained: Tensors,
    finetuned: Mapping[str, Tensors],
    place: Place,
    **options: Any,
) -> Tensor:
    """What an elementwise method makes of a tensor, in pieces that stay in the cache until they are merged."""
    dtype, shape = specification(pretrained)[place.name]
    merged = torch.empty(shape, dtype=dtype)
    models = owners(pretrained, finetuned)
    for start in range(0, merged.numel(), CHUNK):
        stop = min(start + CHUNK, merged.numel())
        base, *experts = (piece(tensors, place.name, start, stop).float() for tensors in models.values())
        # One look at the sum of all sums; which of them is not finite is asked only when one is not.
        if not torch.isfinite(total(part.sum() for part in (base, *experts))):
            for whose, part in zip(models, (base, *experts), strict=True):
                finite(part, whose, place.name)
        merged.view(-1)[start:stop] = function(base, experts, place, **options)
    return merged


def merge(
    name: str, pretrained: Tensors, finetuned: Mapping[str, Tensors], *, seed: int = 0, **options: Any
) -> dict[str, Tensor]:
    """Merge by a tensor-wise method.

    Floating tensors are merged in float32 and returned in the pretrained model's type; the rest (counters,
    index buffers) are copied from the pretrained model. Tensors that share memory share it in the result.

    Args:
        name: the method.
        pretrained: tensor name → tensor.
        finetuned: task → the same tensors, fine-tuned.
        seed: of a random method's draws.
        options: of the method, one value each.

    Returns:
        The merged tensors; for a method that answers per task, those of its artifact: θ_0 under its own names, and
        the vector, the masks and the scales under ``models.PER_TASK``.

    Raises:
        StudyError: the method is unknown or adaptive, an option is wrong, or an expert does not match.
    """
    first = tied(pretrained)
    if any(key != other for key, other in first.items()) and not method(name).per_task:
        check_names(pretrained, finetuned)
        kept = dict.fromkeys(first.values())
        once = merge(  # each memory once: a random method would draw for every name of it
            name,
            {key: pretrained[key] for key in kept},
            {task: {key: tensors[key] for key in kept} for task, tensors in finetuned.items()},
            seed=seed,
            **options,
        )
        return {key: once[other] for key, other in first.items()}
    merged: dict[str, Tensor] = {}
    for key, result in stream(name, pretrained, finetuned, seed=seed, **options):
        if isinstance(result, Masked):
            merged |= {key: pretrained[key].clone(), f"{PER_TASK}vector.{key}": result.vector}
            for task, mask, scale in zip(finetuned, result.masks, result.scales, strict=True):
                merged[f"{PER_TASK}mask.{task}.{key}"] = pack_mask(mask)
                merged[f"{PER_TASK}scale.{task}"] = torch.tensor(scale)
        else:
            merged[key] = result
    return merged


def tied(tensors: Tensors) -> dict[str, str]:
    """Name → first name of the same memory, seen the same way; every name its own in files, which share nothing."""
    if isinstance(tensors, Lazy):
        return {}
    first: dict[Any, str] = {}
    return {
        name: first.setdefault((t.data_ptr(), t.dtype, t.shape, t.stride()) if t.numel() else name, name)
        for name, t in tensors.items()
    }


def adapt(
    name: str,
    pretrained: Tensors,
    finetuned: Mapping[str, Tensors],
    tasks: Mapping[str, Adaptation],
    seed: int,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    **options: Any,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Merge by an adaptive method; see :func:`merge` for the arguments they share.

    Args:
        tasks: what the method may see of each task.
        seed: of its draws.
        progress: wraps its steps.

    Returns:
        The merged tensors, and facts to record (learned coefficients).

    Raises:
        StudyError: as :func:`merge`; or the method needs labels and a task has none.
    """
    chosen = method(name)
    if not chosen.adaptive:
        raise StudyError(f"merging method '{name}' needs no images; use merge")
    check_options(f"method {name}", name, options)
    check_models(pretrained, finetuned)
    return chosen.function(pretrained, finetuned, tasks, seed, progress, **options)

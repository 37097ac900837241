"""Passes of as many images as memory holds: fewer images a pass, the same results but for rounding.

The images of a batch share what an attack or a step of training draws, so a batch is never made smaller; its passes
through the model are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from advmerge.errors import StudyError

Result = TypeVar("Result")

# Of the free memory, what passes may take: the rest is for the attack's own tensors and for fragments.
_USABLE = 0.8

_least: int | None = None
# Model → images a pass that memory holds, with gradients kept or without; where it was reckoned or found out.
_held: WeakKeyDictionary[nn.Module, dict[bool, int]] = WeakKeyDictionary()


def least() -> int | None:
    """The fewest images a pass that memory forced this process to, for the record; None where all fitted."""
    return _least


def _note(most: int) -> None:
    global _least
    _least = most if _least is None else min(most, _least)


def batches(count: int, size: int) -> Iterable[slice]:
    """Consecutive slices that cover ``range(count)``."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def is_shortage(error: RuntimeError) -> bool:
    """Whether memory ran out, on any device: only CUDA has an error of its own for it."""
    said = ("MPS backend out of memory", "DefaultCPUAllocator: can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in said)


def fitted(
    model: nn.Module, batch: int, work: Callable[[int], Result], trial: Callable[[], object], whole: bool = False
) -> Result:
    """What ``work`` returns when told to pass at most ``batch`` images at a time, or as many as memory holds.

    On CUDA the first number is reckoned from the free memory; anywhere it is halved whenever memory runs out. What is
    found is remembered of the model, and noted for the record.

    Args:
        model: that the images pass.
        batch: images a pass, at most.
        work: called anew after each shortage, so it must begin anew too.
        trial: a pass of two images, as ``work`` makes it; it is measured.
        whole: the images see each other, in batch normalisation: fewer cannot be passed.

    Raises:
        StudyError: not even one image fits, or not the whole.
    """
    known, kind = _held.setdefault(model, {}), torch.is_grad_enabled()
    if kind not in known and batch > 2 and not whole and torch.cuda.is_initialized():
        known[kind] = fitting(trial)
    most = min(batch, known.get(kind, batch))
    while True:
        if most < batch:
            _note(most)
        try:
            return work(most)
        except RuntimeError as error:
            if not is_shortage(error):
                raise
            if whole:
                said = f"out of memory with {batch} images, a batch that batch normalisation needs whole"
                raise StudyError(f"{said}; lower 'batch' in the recipe") from None
            if most == 1:
                reason = " ".join(str(error).split())
                raise StudyError(f"out of memory with one image a pass: {reason}") from None
        # After the handler, because the error keeps the tensors alive that memory ran out for.
        most = known[kind] = most // 2
        torch.cuda.empty_cache()


def fitting(trial: Callable[[], object]) -> int:
    """Images of which a pass fits into the free memory of the CUDA device, at least one; ``trial`` passes two."""
    try:
        trial()  # what it leaves behind, as gradients of weights, is there from now on
        left = torch.cuda.memory_allocated()
        free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - left  # torch has got more than it uses
        torch.cuda.reset_peak_memory_stats()
        trial()
    except RuntimeError as error:
        if not is_shortage(error):
            raise
        return 1
    taken = torch.cuda.max_memory_allocated() - left
    return max(1, int(_USABLE * free / max(1, taken / 2)))


def in_parts(
    model: nn.Module, count: int, batch: int, work: Callable[[list[slice]], Result], whole: bool = False
) -> Result:
    """What ``work`` returns for ``count`` images, given the slices of them that it shall pass at a time.

    Of ``batch`` images each, or as many as memory holds: see :func:`fitted`.
    """
    pair = [slice(0, min(2, count))]
    most = max(1, min(batch, count))
    return fitted(model, most, lambda most: work([*batches(count, most)]), lambda: work(pair), whole)


def slopes(
    model: nn.Module,
    leaves: Iterable[torch.Tensor],
    count: int,
    losses: Callable[[slice], Iterable[torch.Tensor]],
    whole: bool = False,
) -> torch.Tensor:
    """Give ``leaves`` the gradients of a batch's loss, the sum of its parts' (:func:`in_parts`), and return the loss.

    Args:
        model: that the images pass.
        leaves: what has gradients; those that were there are dropped.
        count: of the batch's images.
        losses: of the images at these places of the batch, as their share of the whole batch's; each is taken back
            through the model before the next is asked for.
        whole: see :func:`fitted`.
    """
    leaves = list(leaves)

    def summed(parts: list[slice]) -> torch.Tensor:
        for leaf in leaves:
            leaf.grad = None
        total = torch.zeros((), device=leaves[0].device)
        for part in parts:
            for loss in losses(part):
                loss.backward()
                total += loss.detach()
        return total

    return in_parts(model, count, count, summed, whole)


class InParts(nn.Module):
    """A model that is given at most ``most`` images at a time, whatever it is asked.

    Gradients are those of the whole. No part's activations are kept: its forward pass is made again for the backward
    pass, and so it costs a third more.
    """

    def __init__(self, model: nn.Module, most: int) -> None:
        super().__init__()
        self.model = model
        self.most = most

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        parts = images.split(self.most)
        if len(parts) > 1 and torch.is_grad_enabled() and images.requires_grad:
            # Nothing random happens in a model that is evaluated.
            again = [checkpoint(self.model, p, use_reentrant=False, preserve_rng_state=False) for p in parts]
            return torch.cat(again)
        return torch.cat([self.model(part) for part in parts])

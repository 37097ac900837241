"""Passes of as many images as memory holds: fewer images a pass, the same results but for rounding.

The images of a batch share what an attack or a step of training draws, so a batch is never made smaller; its passes
through the model are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from advmerge.errors import StudyError

Result = TypeVar("Result")

# Of the free memory, what passes may take: the rest is for the attack's own tensors and for fragments.
_USABLE = 0.8

_least: int | None = None


def least() -> int | None:
    """The fewest images a pass that memory forced this process to, for the record; None where all fitted."""
    return _least


def _note(most: int) -> None:
    global _least
    _least = most if _least is None else min(most, _least)


def is_shortage(error: RuntimeError) -> bool:
    """Whether memory ran out, on any device: only CUDA has an error of its own for it."""
    said = ("MPS backend out of memory", "DefaultCPUAllocator: can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in said)


def halving(work: Callable[[int], Result], most: int) -> tuple[Result, int]:
    """What ``work`` returns when told to pass ``most`` images at a time, or half as many whenever memory runs out.

    Args:
        work: called anew after each shortage, so it must begin anew too.
        most: images a pass, at first.

    Returns:
        The result, and the images a pass that it took.

    Raises:
        StudyError: not even one image fits.
    """
    while True:
        try:
            return work(most), most
        except RuntimeError as error:
            if not is_shortage(error):
                raise
            if most == 1:
                reason = " ".join(str(error).split())
                raise StudyError(f"out of memory with one image a pass: {reason}") from None
        # After the handler, because the error keeps the tensors alive that memory ran out for.
        most //= 2
        _note(most)
        torch.cuda.empty_cache()


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


class Passes:
    """Work on a model that is done again with half as many images a pass whenever memory runs out.

    Args:
        model: [N, ...] -> logits [N, classes], in evaluation mode.
        batch: images that the work passes at a time.
        image: [C, H, W], one of them: on a CUDA device, what a pass of it takes and what is free bound the first try.

    Attributes:
        model: what work is given: the model, or, once memory has run out, a limited one.
        most: images that it passes at a time.
    """

    def __init__(self, model: nn.Module, batch: int, image: torch.Tensor | None = None) -> None:
        self._whole = self.model = model
        self.most = batch
        if image is not None and image.device.type == "cuda" and (fits := fitting(model, image)) < batch:
            _note(fits)
            self._limit(fits)

    def _limit(self, most: int) -> None:
        if most != self.most:
            self.most = most
            self.model = InParts(self._whole, most)

    def __call__(self, work: Callable[[nn.Module], Result]) -> Result:
        """What ``work`` returns for the model; it is called anew, so it must draw anew too.

        Raises:
            StudyError: not even one image fits.
        """

        def limited(most: int) -> Result:
            self._limit(most)
            return work(self.model)

        return halving(limited, self.most)[0]


def fitting(model: nn.Module, image: torch.Tensor) -> int:
    """Images [C, H, W] whose forward and backward pass fits into the free memory of their CUDA device, at least one."""
    device = image.device
    free, _ = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_allocated(device)
    free += torch.cuda.memory_reserved(device) - held  # what torch has got and does not use
    torch.cuda.reset_peak_memory_stats(device)
    pair = image.expand(2, *image.shape).clone().requires_grad_()
    torch.autograd.grad(model(pair).sum(), pair)
    taken = torch.cuda.max_memory_allocated(device) - held
    return max(1, int(_USABLE * free / max(1, taken / 2)))

"""How many passes through a model an attack makes of an image: counted, by running it on a model that is never fooled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from advmerge.attacks.bridge import craft
from advmerge.attacks.registry import module_of, resolve
from advmerge.errors import StudyError

# Enough that the attacks which take an image's nine likeliest other classes find them.
CLASSES = 10
IMAGES = 2
# How far the true class leads, on black images the furthest. It is a slope, because an attack gives up where no step
# pays, and never closed.
LEAD = 1e4


class Count(NamedTuple):
    """Passes an image: forward, and backward to the image's pixels; ``usual`` is the share that is made as a rule.

    An attack that stops early makes the most passes on images that it does not fool, and these are counted.
    """

    forward: float
    backward: float
    usual: float


class Counted(nn.Module):
    """A model that counts the images which pass through it, both ways."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forwards = self.backwards = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.model(images)
        self.forwards += len(images)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: torch.Tensor) -> None:
        self.backwards += len(gradient)


class _NeverFooled(nn.Module):
    """A small transformer, which any attack takes, that is sure of the first class."""

    def __init__(self) -> None:
        super().__init__()
        from timm.models.vision_transformer import VisionTransformer

        # Weights of its own, so that counting draws nothing from the global generator.
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            options: dict[str, Any] = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 1}
            self.inner = VisionTransformer(**options, num_classes=CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner(images) + (1.5 - images.flatten(1).mean(1, keepdim=True)) * LEAD * torch.eye(CLASSES)[0]


def count(method: str, options: Mapping[str, Any]) -> Count:
    """The most passes that an attack makes of an image, and what share of them is usual.

    Args:
        method: see :func:`advmerge.attacks.resolve`.
        options: keywords of its constructor.

    Raises:
        StudyError: it cannot be run.
    """
    model = Counted(_NeverFooled())
    images, labels = torch.full((IMAGES, 3, 8, 8), 0.5), torch.zeros(IMAGES, dtype=torch.int64)
    try:
        craft(model, images, labels, method, options, seed=(0, "count"), classes=CLASSES, batch_size=IMAGES)
    except Exception as error:  # ART's attacks raise whatever they trip over
        raise StudyError(f"{method}: its passes could not be counted: {' '.join(str(error).split())}") from error
    usual = resolve(method).usual_share if module_of(method) else 1.0
    return Count(model.forwards / IMAGES, model.backwards / IMAGES, usual)

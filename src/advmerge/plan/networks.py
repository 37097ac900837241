"""The study's encoders without their weights: FLOPs of a pass, sizes of their tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from advmerge.models import Normalise, build_encoder, features_of
from advmerge.study import Study


class Work(NamedTuple):
    """Images that pass a network, or what one takes: forward, back to their pixels alone, back to the network's weights."""

    forward: float = 0
    pixels: float = 0
    weights: float = 0

    def plus(self, other: Work) -> Work:
        """Both."""
        return Work(*(a + b for a, b in zip(self, other, strict=True)))


class Network(NamedTuple):
    """What is known of an encoder before it has weights.

    Attributes:
        flops: of one image's forward pass, backward pass to the pixels, and backward pass to the weights; a
            multiplication and an addition are two. Matrix products and convolutions alone, as everywhere.
        kept: bytes of one image that are kept until its way back.
        shapes: tensor's name → shape.
        features: that it gives.
    """

    flops: Work
    kept: Work
    shapes: dict[str, tuple[int, ...]]
    features: int

    @property
    def entries(self) -> int:
        """Numbers in all its tensors."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def total(self, work: Work) -> float:
        """FLOPs of some work."""
        return sum(flops * images for flops, images in zip(self.flops, work, strict=True))


def network(backbone: Mapping[str, Any], shape: tuple[int, int, int]) -> Network:
    """Count an encoder's passes of one image [C, H, W], on tensors that have shapes and no content."""
    with torch.device("meta"):
        encoder = build_encoder(backbone)
        model = nn.Sequential(Normalise.of(backbone), encoder).eval()
        image = torch.zeros(1, *shape)
    forward, _ = _counted(model.requires_grad_(False), image)
    pixels, to_pixels = _counted(model, image.clone().requires_grad_())
    weights, to_weights = _counted(model.requires_grad_(True), image)
    # A layer's gradients by what it takes in and by its weights cost a forward pass each; of depthwise convolutions
    # torch counts the latter as if they were full ones.
    flops = Work(forward, pixels - forward, min(weights - forward, pixels))
    shapes = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    return Network(flops, Work(0, to_pixels, to_weights), shapes, features_of(encoder))


def _counted(model: nn.Module, image: torch.Tensor) -> tuple[int, int]:
    """FLOPs of a pass, both ways where something wants a gradient, and bytes that it keeps for the way back."""
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}  # by storage; held, so that no other takes its place

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with FlopCounterMode(display=False) as counter, hooks:
        answer = model(image)
        if answer.requires_grad:
            answer.sum().backward()
    return counter.get_total_flops(), sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in own)


def networks(study: Study) -> dict[str, Network]:
    """The study's architectures: ``pretrained``, and each surrogate of another one."""
    channels, height, width = study.data_slice(next(iter(study.tasks)))["shape"]
    backbones = {"pretrained": study.backbone, **study.others}
    return {name: network(found.model_dump(), (channels, height, width)) for name, found in backbones.items()}

"""TGR, token gradient regularisation, Zhang et al. 2023 (arXiv:2303.15754), for vision transformers of timm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from advmerge.attacks.ascent import MomentumAttack
from advmerge.attacks.transformer import hooked, transformer

# What is left of a gradient at each place, as in the authors' code.
_MAPS, _ATTENTION, _MLP = 0.25, 0.75, 0.5


def calm_tokens(gradient: torch.Tensor, scale: float) -> torch.Tensor:
    """Zero, in each channel, the tokens of greatest and least gradient and scale the rest: [N, tokens, channels]."""
    result = scale * gradient
    result.scatter_(1, gradient.argmax(1, keepdim=True), 0)
    return result.scatter_(1, gradient.argmin(1, keepdim=True), 0)


def calm_maps(gradient: torch.Tensor) -> torch.Tensor:
    """Zero, in each head's map, the rows and columns of greatest and least gradient: [N, heads, tokens, tokens]."""
    result = _MAPS * gradient
    tokens = gradient.shape[-1]
    flat = gradient.flatten(2)
    for place in (flat.argmax(2), flat.argmin(2)):
        rows, columns = (place // tokens)[..., None, None], (place % tokens)[..., None, None]
        result.scatter_(2, rows.expand(-1, -1, 1, tokens), 0)
        result.scatter_(3, columns.expand(-1, -1, tokens, 1), 0)
    return result


def _calm(vit: Any) -> Iterator[RemovableHandle]:
    """Hooks on what each block's attention and MLP take in, and on its attention maps."""

    def entering(scale: float) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if inputs[0].requires_grad:
                inputs[0].register_hook(lambda gradient: calm_tokens(gradient, scale))

        return hook

    def maps(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(calm_maps)

    for block in vit.blocks:
        yield block.attn.qkv.register_forward_pre_hook(entering(_ATTENTION))
        yield block.mlp.register_forward_pre_hook(entering(_MLP))
        yield block.attn.attn_drop.register_forward_hook(maps)


@contextmanager
def _unfused(vit: Any) -> Iterator[None]:
    """Attention maps that can be hooked: a fused kernel never holds them."""
    before = [block.attn.fused_attn for block in vit.blocks]
    try:
        for block in vit.blocks:
            block.attn.fused_attn = False
        yield
    finally:
        for block, fused in zip(vit.blocks, before, strict=True):
            block.attn.fused_attn = fused


class TGR(MomentumAttack):
    """MI-FGSM whose backward pass drops the extreme token gradients in each block and damps the others.

    Extremes are each image's own; the authors' code takes those of a batch's first image. Refuses, when it is
    run, a model that is no vision transformer of timm.
    """

    @classmethod
    def check_model(cls, model: nn.Module) -> None:
        transformer(model, cls.__name__)

    @contextmanager
    def prepared(self) -> Iterator[None]:
        vit = transformer(self.model, type(self).__name__)
        with _unfused(vit), hooked(_calm(vit)):
            yield

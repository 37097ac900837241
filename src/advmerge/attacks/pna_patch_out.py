"""PNA-PatchOut, Wei et al. 2022 (arXiv:2109.04176), for vision transformers of timm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from advmerge.attacks.ascent import Gradient, MomentumAttack, loss_gradient
from advmerge.attacks.base import fraction, number, per_image
from advmerge.attacks.transformer import hooked, transformer


def hold_attention(vit: Any) -> Iterator[RemovableHandle]:
    """Hooks that keep gradients off the attention maps ("pay no attention", section 3.2).

    A map is a function of queries and keys alone, so to detach those is to take the map for a constant.
    """

    def detach(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output.detach()

    for block in vit.blocks:
        yield block.attn.q_norm.register_forward_hook(detach)
        yield block.attn.k_norm.register_forward_hook(detach)


def patched_out(
    gradient: Gradient, images: torch.Tensor, patch: tuple[int, int], share: float, spread: float
) -> Gradient:
    """The gradient by delta of J(images + M * delta) + ``spread`` * ||delta||_2, equation 6, delta being x - images.

    M lets through a random ``share`` of each image's patches, drawn anew at each call.
    """
    rows, columns = (math.ceil(side / size) for side, size in zip(images.shape[2:], patch, strict=True))
    kept = max(1, round(share * rows * columns))

    def masked(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        order = torch.rand(len(x), rows * columns).argsort(1).argsort(1)
        mask = (order < kept).float().reshape(-1, 1, rows, columns)
        mask = mask.repeat_interleave(patch[0], 2).repeat_interleave(patch[1], 3)
        mask = mask[:, :, : x.shape[2], : x.shape[3]].to(x.device)
        delta = x - images
        size = delta.flatten(1).norm(dim=1).clamp_min(1e-12)
        return mask * gradient(images + mask * delta, labels) + spread * delta / per_image(size, x)

    return masked


class PNAPatchOut(MomentumAttack):
    """MI-FGSM on a random part of the patches a step, with gradients that skip the attention maps.

    Refuses, when it is run, a model that is no vision transformer of timm.

    Args:
        share: of the patches, that a step perturbs; the paper's is 130 of 196.
        spread: weight of the perturbation's L2 norm, which is to grow (lambda).
    """

    share: float = 0.66
    spread: float = 0.1

    def _check_params(self) -> None:
        super()._check_params()
        fraction("share", self.share)
        number("spread", self.spread, inclusive=True)

    @classmethod
    def check_model(cls, model: nn.Module) -> None:
        transformer(model, cls.__name__)

    def gradient(self, images: torch.Tensor) -> Gradient:
        patch = transformer(self.model, type(self).__name__).patch_embed.patch_size
        return patched_out(loss_gradient(self.model), images, patch, self.share, self.spread)

    def prepared(self) -> AbstractContextManager[None]:
        return hooked(hold_attention(transformer(self.model, type(self).__name__)))

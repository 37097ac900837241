"""PNA-PatchOut, Wei et al. 2022 (arXiv:2109.04176), for vision transformers of timm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.utils.hooks import RemovableHandle

from advmerge.attacks.ascent import ASCENT, Gradient, ascend, check_ascent, loss_gradient
from advmerge.attacks.base import TorchAttack, number, per_image
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


class PNAPatchOut(TorchAttack):
    """MI-FGSM on a random part of the patches a step, with gradients that skip the attention maps.

    Refuses, when it is run, a model that is no vision transformer of timm.

    Args:
        eps: radius of the L-infinity ball, in [0, 1] pixels.
        eps_step: length of a step; ``eps / max_iter`` if not given.
        max_iter: steps.
        decay: of the momentum.
        share: of the patches, that a step perturbs; the paper's is 130 of 196.
        spread: weight of the perturbation's L2 norm, which is to grow (lambda).
    """

    attack_params: ClassVar[list[str]] = [*TorchAttack.attack_params, *ASCENT, "share", "spread"]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        eps: float,
        eps_step: float | None = None,
        max_iter: int = 10,
        decay: float = 1.0,
        share: float = 0.66,
        spread: float = 0.1,
        batch_size: int = 128,
    ) -> None:
        super().__init__(estimator, batch_size)
        self.eps = eps
        self.eps_step = eps_step
        self.max_iter = max_iter
        self.decay = decay
        self.share = share
        self.spread = spread
        self._check_params()

    def _check_params(self) -> None:
        check_ascent(self.eps, self.eps_step, self.max_iter, self.decay)
        number("share", self.share)
        if self.share > 1:
            raise ValueError(f"share must be at most 1, not {self.share!r}")
        number("spread", self.spread, inclusive=True)

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        vit = transformer(self.model, type(self).__name__)
        patch = vit.patch_embed.patch_size
        with hooked(hold_attention(vit)):
            return ascend(
                images,
                labels,
                patched_out(loss_gradient(self.model), images, patch, self.share, self.spread),
                eps=self.eps,
                eps_step=self.eps_step,
                max_iter=self.max_iter,
                decay=self.decay,
            )

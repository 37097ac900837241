"""The control: noise that knows nothing of the model."""

from __future__ import annotations

import torch

from advmerge.attacks.ascent import draw
from advmerge.attacks.base import TorchAttack, number


class UniformNoise(TorchAttack):
    """Add noise drawn uniformly from [-eps, eps] to each value and clip to [0, 1].

    What an attack of the same ``eps`` does beyond this is due to the gradient.

    Args:
        eps: half-width of the noise, in [0, 1] pixels.
    """

    eps: float

    def _check_params(self) -> None:
        super()._check_params()
        number("eps", self.eps)

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (images + draw(images, self.eps)).clamp(0, 1)

"""The control: noise that knows nothing of the model."""

from __future__ import annotations

from typing import ClassVar

import torch
from art.estimators.classification import PyTorchClassifier

from advmerge.attacks.base import TorchAttack, number


class UniformNoise(TorchAttack):
    """Add noise drawn uniformly from [-eps, eps] to each value and clip to [0, 1].

    What an attack of the same ``eps`` does beyond this is due to the gradient. Drawn on the CPU from torch's
    global generator, so that a GPU gives the same noise.

    Args:
        eps: half-width of the noise, in [0, 1] pixels.
    """

    attack_params: ClassVar[list[str]] = [*TorchAttack.attack_params, "eps"]

    def __init__(self, estimator: PyTorchClassifier, eps: float, batch_size: int = 128) -> None:
        super().__init__(estimator, batch_size)
        self.eps = eps
        self._check_params()

    def _check_params(self) -> None:
        number("eps", self.eps)

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        noise = torch.empty(images.shape).uniform_(-self.eps, self.eps)
        return (images + noise.to(images.device)).clamp(0, 1)

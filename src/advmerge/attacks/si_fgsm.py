"""SI-FGSM with momentum, Lin et al. 2020 (arXiv:1908.06281), section 3.3."""

from __future__ import annotations

from typing import ClassVar

import torch
from art.estimators.classification import PyTorchClassifier

from advmerge.attacks.ascent import ASCENT, Gradient, ascend, check_ascent, loss_gradient
from advmerge.attacks.base import TorchAttack, whole


def scaled(gradient: Gradient, scales: int) -> Gradient:
    """The mean over i < ``scales`` of the gradient through x / 2^i, equation 7: that at x / 2^i, over 2^i."""

    def mean(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(x)
        for i in range(scales):
            total += gradient(x / 2**i, labels) / 2**i
        return total / scales

    return mean


class SIFGSM(TorchAttack):
    """MI-FGSM whose gradient is the mean over copies of the image with ever less contrast and light.

    Args:
        eps: radius of the L-infinity ball, in [0, 1] pixels.
        eps_step: length of a step; ``eps / max_iter`` if not given.
        max_iter: steps.
        decay: of the momentum.
        scales: copies; copy i is the image over 2^i.
    """

    attack_params: ClassVar[list[str]] = [*TorchAttack.attack_params, *ASCENT, "scales"]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        eps: float,
        eps_step: float | None = None,
        max_iter: int = 10,
        decay: float = 1.0,
        scales: int = 5,
        batch_size: int = 128,
    ) -> None:
        super().__init__(estimator, batch_size)
        self.eps = eps
        self.eps_step = eps_step
        self.max_iter = max_iter
        self.decay = decay
        self.scales = scales
        self._check_params()

    def _check_params(self) -> None:
        check_ascent(self.eps, self.eps_step, self.max_iter, self.decay)
        whole("scales", self.scales)

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        gradient = scaled(loss_gradient(self.model), self.scales)
        return ascend(
            images,
            labels,
            gradient,
            eps=self.eps,
            eps_step=self.eps_step,
            max_iter=self.max_iter,
            decay=self.decay,
        )

"""SI-FGSM with momentum, Lin et al. 2020 (arXiv:1908.06281), section 3.3."""

from __future__ import annotations

import torch

from advmerge.attacks.ascent import Gradient, MomentumAttack, loss_gradient
from advmerge.attacks.base import whole


def scaled(gradient: Gradient, scales: int) -> Gradient:
    """The mean over i < ``scales`` of the gradient through x / 2^i, equation 7: that at x / 2^i, over 2^i."""

    def mean(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(x)
        for i in range(scales):
            total += gradient(x / 2**i, labels) / 2**i
        return total / scales

    return mean


class SIFGSM(MomentumAttack):
    """MI-FGSM whose gradient is the mean over copies of the image with ever less contrast and light.

    Args:
        scales: copies; copy i is the image over 2^i.
    """

    scales: int = 5

    def _check_params(self) -> None:
        super()._check_params()
        whole("scales", self.scales)

    def gradient(self, images: torch.Tensor) -> Gradient:
        return scaled(loss_gradient(self.model), self.scales)

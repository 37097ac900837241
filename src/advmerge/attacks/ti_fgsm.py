"""TI-FGSM with momentum, Dong et al. 2019 (arXiv:1904.02884), equation 7."""

from __future__ import annotations

from typing import ClassVar

import torch
from art.estimators.classification import PyTorchClassifier
from torch.nn import functional

from advmerge.attacks.ascent import ASCENT, Gradient, ascend, check_ascent, loss_gradient
from advmerge.attacks.base import TorchAttack, whole


def smoothed(gradient: Gradient, kernel_size: int) -> Gradient:
    """The gradient, each channel convolved with a Gaussian of ``kernel_size`` pixels that ends at three sigma.

    To first order that is the mean gradient over translated images. The width is the authors' code's.
    """
    line = torch.linspace(-3, 3, kernel_size).square().div(-2).exp()
    kernel = torch.outer(line, line) / line.sum().square()

    def smooth(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        weight = kernel.to(x.device).expand(x.shape[1], 1, -1, -1)
        return functional.conv2d(gradient(x, labels), weight, padding="same", groups=x.shape[1])

    return smooth


def check_kernel(size: int) -> None:
    """Refuse, with ValueError, a kernel without a middle."""
    whole("kernel_size", size)
    if size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, not {size}")


class TIFGSM(TorchAttack):
    """MI-FGSM whose gradient is convolved with a Gaussian: that of the image moved by a few pixels.

    Args:
        eps: radius of the L-infinity ball, in [0, 1] pixels.
        eps_step: length of a step; ``eps / max_iter`` if not given.
        max_iter: steps.
        decay: of the momentum.
        kernel_size: side of the Gaussian, in pixels, odd; the paper's 15 is for images of 299.
    """

    attack_params: ClassVar[list[str]] = [*TorchAttack.attack_params, *ASCENT, "kernel_size"]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        eps: float,
        eps_step: float | None = None,
        max_iter: int = 10,
        decay: float = 1.0,
        kernel_size: int = 15,
        batch_size: int = 128,
    ) -> None:
        super().__init__(estimator, batch_size)
        self.eps = eps
        self.eps_step = eps_step
        self.max_iter = max_iter
        self.decay = decay
        self.kernel_size = kernel_size
        self._check_params()

    def _check_params(self) -> None:
        check_ascent(self.eps, self.eps_step, self.max_iter, self.decay)
        check_kernel(self.kernel_size)

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        gradient = smoothed(loss_gradient(self.model), self.kernel_size)
        return ascend(
            images,
            labels,
            gradient,
            eps=self.eps,
            eps_step=self.eps_step,
            max_iter=self.max_iter,
            decay=self.decay,
        )

"""TI-FGSM with momentum, Dong et al. 2019 (arXiv:1904.02884), equation 7."""

from __future__ import annotations

import torch
from torch.nn import functional

from advmerge.attacks.ascent import Gradient, MomentumAttack, loss_gradient
from advmerge.attacks.base import whole


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


class TIFGSM(MomentumAttack):
    """MI-FGSM whose gradient is convolved with a Gaussian: that of the image moved by a few pixels.

    Args:
        kernel_size: side of the Gaussian, in pixels, odd; the paper's 15 is for images of 299.
    """

    kernel_size: int = 15

    def _check_params(self) -> None:
        super()._check_params()
        check_kernel(self.kernel_size)

    def gradient(self, images: torch.Tensor) -> Gradient:
        return smoothed(loss_gradient(self.model), self.kernel_size)

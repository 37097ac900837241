"""DI-FGSM with momentum (M-DI2-FGSM), Xie et al. 2019 (arXiv:1803.06978), equations 4 and 5."""

from __future__ import annotations

import torch
from torch.nn import functional

from advmerge.attacks.ascent import Gradient, Model, MomentumAttack, loss_gradient
from advmerge.attacks.base import fraction, per_image


def diverse(model: Model, probability: float, resize: float) -> Model:
    """The model, seeing each image with ``probability`` shrunk, bilinearly, and put somewhere on black.

    Side and place are drawn once a call for the whole batch, as in the authors' code, whether to use them for
    each image. The image keeps its size, which many models demand: the authors shrink from a larger one.
    """

    def viewed(x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        tall = int(torch.randint(max(1, int(resize * height)), height + 1, ()))
        wide = max(1, round(width * tall / height))
        top = int(torch.randint(height - tall + 1, ()))
        left = int(torch.randint(width - wide + 1, ()))
        small = functional.interpolate(x, size=(tall, wide), mode="bilinear", align_corners=False)
        view = functional.pad(small, (left, width - wide - left, top, height - tall - top))
        chosen = (torch.rand(len(x)) < probability).to(x.device)
        return model(torch.where(per_image(chosen, x), view, x))

    return viewed


class DIFGSM(MomentumAttack):
    """MI-FGSM whose gradient is that of a randomly resized and padded view of each image.

    Args:
        diversity: probability that a step sees such a view.
        resize: least side of the view, as a share of the image's.
    """

    diversity: float = 0.5
    resize: float = 0.9

    def _check_params(self) -> None:
        super()._check_params()
        fraction("diversity", self.diversity, inclusive=True)
        fraction("resize", self.resize)

    def gradient(self, images: torch.Tensor) -> Gradient:
        return loss_gradient(diverse(self.model, self.diversity, self.resize))

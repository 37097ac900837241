"""DI-FGSM with momentum (M-DI2-FGSM), Xie et al. 2019 (arXiv:1803.06978), equations 4 and 5."""

from __future__ import annotations

from typing import ClassVar

import torch
from art.estimators.classification import PyTorchClassifier
from torch.nn import functional

from advmerge.attacks.ascent import ASCENT, Model, ascend, check_ascent, loss_gradient
from advmerge.attacks.base import TorchAttack, number, per_image


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


def check_diversity(probability: float, resize: float) -> None:
    """Refuse, with ValueError, what :func:`diverse` cannot do with."""
    number("diversity", probability, inclusive=True)
    number("resize", resize)
    if probability > 1 or resize > 1:
        raise ValueError(f"diversity and resize must be at most 1, not {probability!r} and {resize!r}")


class DIFGSM(TorchAttack):
    """MI-FGSM whose gradient is that of a randomly resized and padded view of each image.

    Args:
        eps: radius of the L-infinity ball, in [0, 1] pixels.
        eps_step: length of a step; ``eps / max_iter`` if not given.
        max_iter: steps.
        decay: of the momentum.
        diversity: probability that a step sees such a view.
        resize: least side of the view, as a share of the image's.
    """

    attack_params: ClassVar[list[str]] = [*TorchAttack.attack_params, *ASCENT, "diversity", "resize"]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        eps: float,
        eps_step: float | None = None,
        max_iter: int = 10,
        decay: float = 1.0,
        diversity: float = 0.5,
        resize: float = 0.9,
        batch_size: int = 128,
    ) -> None:
        super().__init__(estimator, batch_size)
        self.eps = eps
        self.eps_step = eps_step
        self.max_iter = max_iter
        self.decay = decay
        self.diversity = diversity
        self.resize = resize
        self._check_params()

    def _check_params(self) -> None:
        check_ascent(self.eps, self.eps_step, self.max_iter, self.decay)
        check_diversity(self.diversity, self.resize)

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        gradient = loss_gradient(diverse(self.model, self.diversity, self.resize))
        return ascend(
            images,
            labels,
            gradient,
            eps=self.eps,
            eps_step=self.eps_step,
            max_iter=self.max_iter,
            decay=self.decay,
        )

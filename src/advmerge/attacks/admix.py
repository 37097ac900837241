"""Admix with momentum, Wang et al. 2021 (arXiv:2102.00436), equations 4 and 5."""

from __future__ import annotations

from typing import ClassVar

import torch
from art.estimators.classification import PyTorchClassifier

from advmerge.attacks.ascent import ASCENT, Gradient, ascend, check_ascent, loss_gradient
from advmerge.attacks.base import TorchAttack, number, whole
from advmerge.attacks.si_fgsm import scaled


def admixed(gradient: Gradient, mixes: int, portion: float) -> Gradient:
    """The mean of the gradients at x + ``portion`` x', for ``mixes`` images x' of other classes.

    x' is drawn from the iterates of the same batch, as in the authors' code; where the batch has no other class,
    it is any image of it.
    """

    def mean(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        other = (labels[:, None] != labels).float()
        total = torch.zeros_like(x)
        for _ in range(mixes):
            partner = (other + torch.rand(other.shape).to(x.device)).argmax(1)
            total += gradient(x + portion * x[partner], labels)
        return total / mixes

    return mean


class Admix(TorchAttack):
    """MI-FGSM whose gradient is the mean over copies, as in SI-FGSM, of the image mixed with a little of others.

    Args:
        eps: radius of the L-infinity ball, in [0, 1] pixels.
        eps_step: length of a step; ``eps / max_iter`` if not given.
        max_iter: steps.
        decay: of the momentum.
        mixes: other images a step draws for each (the paper's m_2).
        portion: of the other image (eta).
        scales: copies of each mixture (m_1).
    """

    attack_params: ClassVar[list[str]] = [*TorchAttack.attack_params, *ASCENT, "mixes", "portion", "scales"]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        eps: float,
        eps_step: float | None = None,
        max_iter: int = 10,
        decay: float = 1.0,
        mixes: int = 3,
        portion: float = 0.2,
        scales: int = 5,
        batch_size: int = 128,
    ) -> None:
        super().__init__(estimator, batch_size)
        self.eps = eps
        self.eps_step = eps_step
        self.max_iter = max_iter
        self.decay = decay
        self.mixes = mixes
        self.portion = portion
        self.scales = scales
        self._check_params()

    def _check_params(self) -> None:
        check_ascent(self.eps, self.eps_step, self.max_iter, self.decay)
        whole("mixes", self.mixes)
        number("portion", self.portion, inclusive=True)
        whole("scales", self.scales)

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        gradient = admixed(scaled(loss_gradient(self.model), self.scales), self.mixes, self.portion)
        return ascend(
            images,
            labels,
            gradient,
            eps=self.eps,
            eps_step=self.eps_step,
            max_iter=self.max_iter,
            decay=self.decay,
        )

"""Admix with momentum, Wang et al. 2021 (arXiv:2102.00436), equations 4 and 5."""

from __future__ import annotations

import torch

from advmerge.attacks.ascent import Gradient, MomentumAttack, loss_gradient
from advmerge.attacks.base import number, whole
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


class Admix(MomentumAttack):
    """MI-FGSM whose gradient is the mean over copies, as in SI-FGSM, of the image mixed with a little of others.

    Args:
        mixes: other images a step draws for each (the paper's m_2).
        portion: of the other image (eta).
        scales: copies of each mixture (m_1).
    """

    mixes: int = 3
    portion: float = 0.2
    scales: int = 5

    def _check_params(self) -> None:
        super()._check_params()
        whole("mixes", self.mixes)
        number("portion", self.portion, inclusive=True)
        whole("scales", self.scales)

    def gradient(self, images: torch.Tensor) -> Gradient:
        return admixed(scaled(loss_gradient(self.model), self.scales), self.mixes, self.portion)

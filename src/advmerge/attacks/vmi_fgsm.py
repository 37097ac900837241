"""VMI-FGSM, Wang & He 2021 (arXiv:2103.15571), algorithm 1."""

from __future__ import annotations

import torch

from advmerge.attacks.ascent import Gradient, MomentumAttack, draw, loss_gradient
from advmerge.attacks.base import number, whole


def variance_tuned(gradient: Gradient, reach: float, neighbours: int) -> Gradient:
    """The gradient plus the variance of the step before, for one batch.

    The variance, equation 6, is the mean gradient at ``neighbours`` points within ``reach`` of x in each value,
    less that at x.
    """
    variance: torch.Tensor | None = None

    def tuned(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        nonlocal variance
        here = gradient(x, labels)
        around = torch.zeros_like(here)
        for _ in range(neighbours):
            around += gradient(x + draw(x, reach), labels)
        before, variance = variance, around / neighbours - here
        return here if before is None else here + before

    return tuned


class VMIFGSM(MomentumAttack):
    """MI-FGSM whose gradient is corrected by how it differed, a step before, from those nearby.

    Args:
        neighbours: points near each iterate.
        beta: their greatest distance, times eps, in each value.
    """

    neighbours: int = 20
    beta: float = 1.5

    def _check_params(self) -> None:
        super()._check_params()
        whole("neighbours", self.neighbours)
        number("beta", self.beta, inclusive=True)

    def gradient(self, images: torch.Tensor) -> Gradient:
        return variance_tuned(loss_gradient(self.model), self.beta * self.eps, self.neighbours)

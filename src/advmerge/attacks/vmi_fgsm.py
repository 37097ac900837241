"""VMI-FGSM, Wang & He 2021 (arXiv:2103.15571), algorithm 1."""

from __future__ import annotations

from typing import ClassVar

import torch
from art.estimators.classification import PyTorchClassifier

from advmerge.attacks.ascent import ASCENT, Gradient, ascend, check_ascent, draw, loss_gradient
from advmerge.attacks.base import TorchAttack, number, whole


def variance_tuned(gradient: Gradient, reach: float, neighbours: int) -> Gradient:
    """The gradient plus the variance of the step before, for one run of :func:`ascend`.

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


class VMIFGSM(TorchAttack):
    """MI-FGSM whose gradient is corrected by how it differed, a step before, from those nearby.

    Args:
        eps: radius of the L-infinity ball, in [0, 1] pixels.
        eps_step: length of a step; ``eps / max_iter`` if not given.
        max_iter: steps.
        decay: of the momentum.
        neighbours: points near each iterate.
        beta: their greatest distance, times eps, in each value.
    """

    attack_params: ClassVar[list[str]] = [*TorchAttack.attack_params, *ASCENT, "neighbours", "beta"]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        eps: float,
        eps_step: float | None = None,
        max_iter: int = 10,
        decay: float = 1.0,
        neighbours: int = 20,
        beta: float = 1.5,
        batch_size: int = 128,
    ) -> None:
        super().__init__(estimator, batch_size)
        self.eps = eps
        self.eps_step = eps_step
        self.max_iter = max_iter
        self.decay = decay
        self.neighbours = neighbours
        self.beta = beta
        self._check_params()

    def _check_params(self) -> None:
        check_ascent(self.eps, self.eps_step, self.max_iter, self.decay)
        whole("neighbours", self.neighbours)
        number("beta", self.beta, inclusive=True)

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        gradient = variance_tuned(loss_gradient(self.model), self.beta * self.eps, self.neighbours)
        return ascend(
            images,
            labels,
            gradient,
            eps=self.eps,
            eps_step=self.eps_step,
            max_iter=self.max_iter,
            decay=self.decay,
        )

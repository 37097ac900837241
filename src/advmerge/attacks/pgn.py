"""PGN, Ge et al. 2023 (arXiv:2306.05225), algorithm 1."""

from __future__ import annotations

from typing import ClassVar

import torch
from art.estimators.classification import PyTorchClassifier

from advmerge.attacks.ascent import ASCENT, Gradient, ascend, check_ascent, draw, loss_gradient, unit
from advmerge.attacks.base import TorchAttack, number, whole


def penalised(gradient: Gradient, reach: float, step: float, neighbours: int, balance: float) -> Gradient:
    """The gradient of a loss that is penalised for its gradient's norm, so as to end on flat maxima.

    Its Hessian term is a finite difference: at each of ``neighbours`` points x' within ``reach`` of x the
    gradient there and the one a ``step`` down from there are mixed, (1 - balance) and balance. As in the authors'
    code, the step down is divided by the gradient's mean, not its L1 norm.
    """

    def mean(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(x)
        for _ in range(neighbours):
            near = x + draw(x, reach)
            there = gradient(near, labels)
            below = gradient(near - step * unit(there), labels)
            total += (1 - balance) * there + balance * below
        return total / neighbours

    return mean


class PGN(TorchAttack):
    """MI-FGSM whose loss is penalised for its gradient's norm around the iterate.

    Args:
        eps: radius of the L-infinity ball, in [0, 1] pixels.
        eps_step: length of a step; ``eps / max_iter`` if not given.
        max_iter: steps.
        decay: of the momentum.
        neighbours: points near each iterate, at two gradients each.
        zeta: their greatest distance, times eps, in each value.
        balance: weight of the gradients a step down (delta).
    """

    attack_params: ClassVar[list[str]] = [*TorchAttack.attack_params, *ASCENT, "neighbours", "zeta", "balance"]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        eps: float,
        eps_step: float | None = None,
        max_iter: int = 10,
        decay: float = 1.0,
        neighbours: int = 20,
        zeta: float = 3.0,
        balance: float = 0.5,
        batch_size: int = 128,
    ) -> None:
        super().__init__(estimator, batch_size)
        self.eps = eps
        self.eps_step = eps_step
        self.max_iter = max_iter
        self.decay = decay
        self.neighbours = neighbours
        self.zeta = zeta
        self.balance = balance
        self._check_params()

    def _check_params(self) -> None:
        check_ascent(self.eps, self.eps_step, self.max_iter, self.decay)
        whole("neighbours", self.neighbours)
        number("zeta", self.zeta, inclusive=True)
        number("balance", self.balance, inclusive=True)
        if self.balance > 1:
            raise ValueError(f"balance must be at most 1, not {self.balance!r}")

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        step = self.eps / self.max_iter if self.eps_step is None else self.eps_step
        gradient = penalised(loss_gradient(self.model), self.zeta * self.eps, step, self.neighbours, self.balance)
        return ascend(
            images,
            labels,
            gradient,
            eps=self.eps,
            eps_step=self.eps_step,
            max_iter=self.max_iter,
            decay=self.decay,
        )

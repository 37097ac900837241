"""PGN, Ge et al. 2023 (arXiv:2306.05225), algorithm 1."""

from __future__ import annotations

import torch

from advmerge.attacks.ascent import Gradient, MomentumAttack, draw, loss_gradient, unit
from advmerge.attacks.base import fraction, number, whole


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


class PGN(MomentumAttack):
    """MI-FGSM whose loss is penalised for its gradient's norm around the iterate.

    Args:
        neighbours: points near each iterate, at two gradients each.
        zeta: their greatest distance, times eps, in each value.
        balance: weight of the gradients a step down (delta).
    """

    neighbours: int = 20
    zeta: float = 3.0
    balance: float = 0.5

    def _check_params(self) -> None:
        super()._check_params()
        whole("neighbours", self.neighbours)
        number("zeta", self.zeta, inclusive=True)
        fraction("balance", self.balance, inclusive=True)

    def gradient(self, images: torch.Tensor) -> Gradient:
        reach = self.zeta * self.eps
        return penalised(loss_gradient(self.model), reach, self.step, self.neighbours, self.balance)

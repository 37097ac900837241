"""NI-FGSM, Lin et al. 2020 (arXiv:1908.06281), section 3.2."""

from __future__ import annotations

from typing import ClassVar

import torch
from art.estimators.classification import PyTorchClassifier

from advmerge.attacks.ascent import ASCENT, ascend, check_ascent, loss_gradient
from advmerge.attacks.base import TorchAttack


class NIFGSM(TorchAttack):
    """MI-FGSM that takes its gradient ahead, at x + eps_step * decay * g (equation 6, Nesterov's).

    g is divided by means, not L1 norms, as in the authors' code: with the paper's norm the look-ahead would be a
    step divided by the number of pixels, that is none.

    Args:
        eps: radius of the L-infinity ball, in [0, 1] pixels.
        eps_step: length of a step; ``eps / max_iter`` if not given.
        max_iter: steps.
        decay: of the momentum.
    """

    attack_params: ClassVar[list[str]] = [*TorchAttack.attack_params, *ASCENT]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        eps: float,
        eps_step: float | None = None,
        max_iter: int = 10,
        decay: float = 1.0,
        batch_size: int = 128,
    ) -> None:
        super().__init__(estimator, batch_size)
        self.eps = eps
        self.eps_step = eps_step
        self.max_iter = max_iter
        self.decay = decay
        self._check_params()

    def _check_params(self) -> None:
        check_ascent(self.eps, self.eps_step, self.max_iter, self.decay)

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        gradient = loss_gradient(self.model)
        return ascend(
            images,
            labels,
            gradient,
            eps=self.eps,
            eps_step=self.eps_step,
            max_iter=self.max_iter,
            decay=self.decay,
            nesterov=True,
        )

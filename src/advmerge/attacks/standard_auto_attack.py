"""AutoAttack's standard ensemble, Croce & Hein 2020 (arXiv:2003.01690)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from advmerge.attacks.auto_pgd import into_ball
from advmerge.attacks.auto_pgd_targeted import AutoPGDTargeted, four_classes, keep_lowest
from advmerge.attacks.base import TorchAttack, euclidean_or_largest, number, whole
from advmerge.attacks.batched_auto_pgd import BatchedAutoPGD
from advmerge.attacks.batched_square import BatchedSquare
from advmerge.attacks.fast_adaptive_boundary import FastAdaptiveBoundary


class StandardAutoAttack(TorchAttack):
    """APGD on cross-entropy, APGD-T, FAB-T and Square, each on the images that those before it left unfooled.

    The members and their order, and by default their steps, are the published ones: 100 steps, nine targets, one
    run each, 5000 queries. For an image never fooled the example of lowest margin comes back, of all that the
    members found inside the ball; the published one gives the clean image.

    Args:
        eps: radius of the ball, in [0, 1] pixels.
        norm: inf (also "inf") or 2.
        max_iter: steps of a run of APGD and FAB.
        nb_targets: most classes that APGD-T and FAB-T drive an image to.
        queries: of Square.
    """

    usual_share: ClassVar[float] = 0.70

    eps: float
    norm: float | str = np.inf
    max_iter: int = 100
    nb_targets: int = 9
    queries: int = 5000

    def _check_params(self) -> None:
        super()._check_params()
        number("eps", self.eps)
        euclidean_or_largest("norm", self.norm)
        for name in ("max_iter", "nb_targets", "queries"):
            whole(name, getattr(self, name))
        four_classes(self.estimator.nb_classes)

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        ball: dict[str, Any] = {"eps": self.eps, "norm": self.norm}
        apgd = BatchedAutoPGD(self.estimator, **ball, max_iter=self.max_iter)
        targeted = AutoPGDTargeted(self.estimator, **ball, max_iter=self.max_iter, nb_targets=self.nb_targets)
        square = BatchedSquare(self.estimator, **ball, max_iter=self.queries)
        fab = FastAdaptiveBoundary(self.estimator, norm=self.norm, max_iter=self.max_iter, nb_targets=self.nb_targets)

        def boundary(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            """FAB's smallest success, drawn into the ball where it lies outside."""
            return into_ball(fab.smallest(x, y, self.eps), x, self.eps, self.norm)

        best = images.clone()
        lowest = torch.full_like(labels, torch.inf, dtype=images.dtype)
        for member in (apgd.perturb, targeted.perturb, boundary, square.perturb):
            rows = (lowest >= 0).nonzero()[:, 0]
            if len(rows):
                keep_lowest(self.model, best, lowest, rows, member(images[rows], labels[rows]), labels)
        return best

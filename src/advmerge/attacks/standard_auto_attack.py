"""AutoAttack's standard ensemble, Croce & Hein 2020 (arXiv:2003.01690), in L-infinity."""

from __future__ import annotations

import torch

from advmerge.attacks.auto_pgd_targeted import AutoPGDTargeted, four_classes, keep_lowest
from advmerge.attacks.base import TorchAttack, number, whole
from advmerge.attacks.batched_auto_pgd import BatchedAutoPGD
from advmerge.attacks.batched_square import BatchedSquare
from advmerge.attacks.fast_adaptive_boundary import FastAdaptiveBoundary


class StandardAutoAttack(TorchAttack):
    """APGD on cross-entropy, APGD-T, FAB-T and Square, each on the images that those before it left unfooled.

    The members and their order, and by default their steps, are the published ones: 100 steps, nine targets, one
    run each, 5000 queries. For an image never fooled the example of lowest margin comes back, of all that the
    members found inside the ball; the published one gives the clean image.

    Args:
        eps: radius of the L-infinity ball, in [0, 1] pixels.
        max_iter: steps of a run of APGD and FAB.
        nb_targets: most classes that APGD-T and FAB-T drive an image to.
        queries: of Square.
    """

    eps: float
    max_iter: int = 100
    nb_targets: int = 9
    queries: int = 5000

    def _check_params(self) -> None:
        super()._check_params()
        number("eps", self.eps)
        for name in ("max_iter", "nb_targets", "queries"):
            whole(name, getattr(self, name))
        four_classes(self.estimator.nb_classes)

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        apgd = BatchedAutoPGD(self.estimator, eps=self.eps, max_iter=self.max_iter)
        targeted = AutoPGDTargeted(self.estimator, eps=self.eps, max_iter=self.max_iter, nb_targets=self.nb_targets)
        fab = FastAdaptiveBoundary(self.estimator, max_iter=self.max_iter, nb_targets=self.nb_targets)
        square = BatchedSquare(self.estimator, eps=self.eps, max_iter=self.queries)

        def boundary(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            """FAB's smallest success, drawn into the ball where it lies outside."""
            return (x + (fab.smallest(x, y, self.eps) - x).clamp(-self.eps, self.eps)).clamp(0, 1)

        best = images.clone()
        lowest = torch.full_like(labels, torch.inf, dtype=images.dtype)
        for member in (apgd.perturb, targeted.perturb, boundary, square.perturb):
            rows = (lowest >= 0).nonzero()[:, 0]
            if len(rows):
                keep_lowest(self.model, best, lowest, rows, member(images[rows], labels[rows]), labels)
        return best

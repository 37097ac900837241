"""APGD-T, Croce & Hein 2020 (arXiv:2003.01690), section 5: APGD towards one class after the other."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier

from advmerge.attacks.base import TorchAttack, margin, number, per_image, whole
from advmerge.attacks.batched_auto_pgd import BatchedAutoPGD


class AutoPGDTargeted(TorchAttack):
    """A run of APGD, on the targeted ratio of logits, towards each of an image's likeliest other classes.

    The targets of an image are the classes after its own in the order of its clean logits; once it is fooled, by
    whatever class, the others are left out. What comes back for an image never fooled is, of the best points of
    its runs, that of lowest margin.

    Args:
        eps: radius of the ball, in [0, 1] pixels.
        norm: inf (also "inf") or 2.
        max_iter: gradient steps a run.
        nb_targets: most classes an image is driven to.
    """

    attack_params: ClassVar[list[str]] = [*TorchAttack.attack_params, "eps", "norm", "max_iter", "nb_targets"]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        eps: float,
        norm: float | str = np.inf,
        max_iter: int = 100,
        nb_targets: int = 9,
        batch_size: int = 128,
    ) -> None:
        super().__init__(estimator, batch_size)
        self.eps = eps
        self.norm = norm
        self.max_iter = max_iter
        self.nb_targets = nb_targets
        self._check_params()

    def _check_params(self) -> None:
        number("eps", self.eps)
        whole("max_iter", self.max_iter)
        whole("nb_targets", self.nb_targets)
        if self.norm not in (np.inf, "inf", 2):
            raise ValueError(f"norm must be inf or 2, not {self.norm!r}")
        if self.estimator.nb_classes < 4:
            raise ValueError("the targeted ratio of logits needs at least four classes")

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        targets = likeliest_others(self.model(images), labels, self.nb_targets)
        best = images.clone()
        lowest = torch.full_like(labels, torch.inf, dtype=images.dtype)
        for target in targets.unbind(1):
            rows = (lowest >= 0).nonzero()[:, 0]
            if not len(rows):
                break
            run = _Towards(self.estimator, target[rows], self.eps, self.norm, self.max_iter)
            keep_lowest(self.model, best, lowest, rows, run.perturb(images[rows], labels[rows]), labels)
        return best


def likeliest_others(logits: torch.Tensor, labels: torch.Tensor, count: int) -> torch.Tensor:
    """The ``count`` classes of greatest logit other than the label, likeliest first, or all if there are fewer."""
    others = logits.detach().scatter(1, labels[:, None], -torch.inf)
    return others.topk(min(count, logits.shape[1] - 1)).indices


@torch.no_grad()
def keep_lowest(
    model: torch.nn.Module,
    best: torch.Tensor,
    lowest: torch.Tensor,
    rows: torch.Tensor,
    found: torch.Tensor,
    labels: torch.Tensor,
) -> None:
    """Put what was ``found`` for the images ``rows`` into ``best``, and its margin into ``lowest``, where it is lower."""
    gap = margin(model(found), labels[rows])
    lower = gap < lowest[rows]
    best[rows] = torch.where(per_image(lower, found), found, best[rows])
    lowest[rows] = torch.where(lower, gap, lowest[rows])


class _Towards(BatchedAutoPGD):
    """One run on the targeted ratio, equation 7; an image is fooled when it leaves its class, for whichever."""

    def __init__(
        self, estimator: PyTorchClassifier, targets: torch.Tensor, eps: float, norm: float | str, max_iter: int
    ) -> None:
        super().__init__(estimator, eps, norm, max_iter)
        self.targets = targets

    def _evaluate(
        self, x: torch.Tensor, labels: torch.Tensor, with_gradient: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = x.detach().requires_grad_(with_gradient)
        with torch.set_grad_enabled(with_gradient):
            logits = self.model(x)
            ordered = logits.sort(dim=1, descending=True).values
            lead = logits.gather(1, self.targets[:, None]) - logits.gather(1, labels[:, None])
            loss = lead[:, 0] / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + 1e-12)
        gradient = torch.autograd.grad(loss.sum(), x)[0] if with_gradient else torch.zeros_like(x)
        return loss.detach(), margin(logits.detach(), labels) < 0, gradient

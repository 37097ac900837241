"""APGD-T, Croce & Hein 2020 (arXiv:2003.01690), section 5: APGD towards one class after the other."""

from __future__ import annotations

from typing import ClassVar

import torch

from advmerge.attacks.auto_pgd import AutoPGD, Loss
from advmerge.attacks.base import margin, per_image, whole


class AutoPGDTargeted(AutoPGD):
    """A run of APGD, on the targeted ratio of logits, towards each of an image's likeliest other classes.

    The targets of an image are the classes after its own in the order of its clean logits; once it is fooled, by
    whatever class, the others are left out. What comes back for an image never fooled is, of the best points of
    its runs, that of lowest margin.

    Args:
        nb_random_init: runs towards each class.
        nb_targets: most classes an image is driven to.
    """

    usual_share: ClassVar[float] = 0.64

    max_iter: int = 100
    nb_targets: int = 9

    def _check_params(self) -> None:
        super()._check_params()
        whole("nb_targets", self.nb_targets)
        four_classes(self.estimator.nb_classes)

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        targets = likeliest_others(self.model(images), labels, self.nb_targets)
        best = images.clone()
        lowest = torch.full_like(labels, torch.inf, dtype=images.dtype)
        for target in targets.unbind(1) * self.nb_random_init:
            rows = (lowest >= 0).nonzero()[:, 0]
            if not len(rows):
                break
            found, _, _ = self.run(images[rows], labels[rows], towards(target[rows]))
            keep_lowest(self.model, best, lowest, rows, found, labels)
        return best


def four_classes(classes: int) -> None:
    """Refuse, with ValueError, a classifier that has no fourth logit."""
    if classes < 4:
        raise ValueError("the targeted ratio of logits needs at least four classes")


def towards(targets: torch.Tensor) -> Loss:
    """The targeted ratio of logits, equation 7, for a class of each image [N]."""

    def ratio(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        ordered = logits.sort(dim=1, descending=True).values
        lead = logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])
        return lead[:, 0] / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + 1e-12)

    return ratio


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

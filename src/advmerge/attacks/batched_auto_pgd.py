"""APGD on cross-entropy or the ratio of logits, Croce & Hein 2020 (arXiv:2003.01690), for a batch at a time."""

from __future__ import annotations

import torch

from advmerge.attacks.ascent import cross_entropy
from advmerge.attacks.auto_pgd import AutoPGD, Loss
from advmerge.attacks.base import margin


def difference_logits_ratio(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Equation 6: minus the margin over the gap between first and third logit; blind to the logits' scale."""
    ordered = logits.sort(dim=1, descending=True).values
    return -margin(logits, labels) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


_LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "difference_logits_ratio": difference_logits_ratio}


class BatchedAutoPGD(AutoPGD):
    """APGD away from the true class, as many runs as asked for.

    An image that the model already gets wrong is attacked too, because leaving it clean would understate transfer to
    a model that gets it right.

    Args:
        loss_type: cross_entropy or difference_logits_ratio (needs three classes).
    """

    max_iter: int = 20
    loss_type: str = "cross_entropy"

    def _check_params(self) -> None:
        super()._check_params()
        if self.loss_type not in _LOSSES:
            raise ValueError(f"loss_type must be one of {', '.join(_LOSSES)}, not {self.loss_type!r}")
        if self.loss_type == "difference_logits_ratio" and self.estimator.nb_classes < 3:
            raise ValueError("loss_type difference_logits_ratio needs at least three classes")

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        rise = _LOSSES[self.loss_type]
        best, loss, fooled = self.run(images, labels, rise)
        for _ in range(self.nb_random_init - 1):
            left = (~fooled).nonzero()[:, 0]
            if not len(left):
                break
            again, its_loss, its_fooled = self.run(images[left], labels[left], rise)
            better = its_fooled | (its_loss > loss[left])
            rows = left[better]
            best[rows], loss[rows], fooled[rows] = again[better], its_loss[better], its_fooled[better]
        return best

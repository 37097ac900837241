"""The L-infinity attack of Carlini & Wagner 2017 (arXiv:1608.04644), section VI-C, for a batch at a time."""

from __future__ import annotations

import torch

from advmerge.attacks.base import margin, per_image, whole
from advmerge.attacks.carlini import Adam, CarliniAttack
from advmerge.attacks.smallest import Smallest


class BatchedCarliniLInf(CarliniAttack):
    """Minimise c * max(Z_y - max_{i != y} Z_i + confidence, 0) + sum_j max(|delta_j| - tau, 0), by Adam.

    Each image has its own tau and c. The paper lowers tau by a tenth from 1 while the image is fooled; here, for
    speed, tau is bisected between what failed and the smallest success, and each failure raises c tenfold. A
    round starts at the smallest success, brought to within tau. Pixels are kept in [0, 1] by projection (the
    paper's section V-B). The smallest success in L-infinity comes back.

    Args:
        learning_rate: Adam's, in pixels, but never more than a thirtieth of the smallest success.
        search_steps: values of tau an image tries.
    """

    learning_rate: float = 0.01
    search_steps: int = 8
    initial_const: float = 1.0

    def _check_params(self) -> None:
        super()._check_params()
        whole("search_steps", self.search_steps)

    def _search(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        best = Smallest(images)
        tau = torch.ones_like(best.size)
        const = torch.full_like(tau, self.initial_const)
        failed = torch.zeros_like(tau)
        for _ in range(self.search_steps):
            before = best.size.clone()
            self._descend(images, labels, tau, const, best)
            better = best.size < before
            never = best.size.isinf()
            const = torch.where(better, const, const * 10)
            failed = torch.where(better | never, failed, tau)
            tau = torch.where(never, tau, (failed + best.size) / 2)
        return best.images

    def _descend(
        self, images: torch.Tensor, labels: torch.Tensor, tau: torch.Tensor, const: torch.Tensor, best: Smallest
    ) -> None:
        """Adam for one tau and c an image [N]; notes what it passes in ``best``."""
        every = torch.arange(len(images), device=images.device)
        limit = per_image(tau, images)
        started = best.size.isfinite()
        x = torch.where(per_image(started, images), images + (best.images - images).clamp(-limit, limit), images)
        rate = per_image((best.size / 30).clamp_max(self.learning_rate), images)
        adam = Adam(x)
        for step in range(1, self.max_iter + 2):
            x = x.detach().requires_grad_()
            gap = margin(self.model(x), labels)
            delta = (x.detach() - images).abs().flatten(1)
            best.note(every, x.detach(), self._fooled(gap.detach()), delta.amax(1), gap.detach())
            if step > self.max_iter:
                break
            excess = ((x - images).abs() - limit).clamp_min(0).flatten(1).sum(1)
            (gradient,) = torch.autograd.grad((const * self._hinge(gap) + excess).sum(), x)
            adam.take(gradient)
            x = (x.detach() - rate * adam.mean / adam.share / adam.size).clamp(0, 1)

"""The L-infinity attack of Carlini & Wagner 2017 (arXiv:1608.04644), section VI-C, for a batch at a time."""

from __future__ import annotations

from typing import ClassVar

import torch
from art.estimators.classification import PyTorchClassifier

from advmerge.attacks.base import TorchAttack, margin, number, per_image, whole


class BatchedCarliniLInf(TorchAttack):
    """Minimise c * max(Z_y - max_{i != y} Z_i + confidence, 0) + sum_j max(|delta_j| - tau, 0), by Adam.

    Each image has its own tau and c. The paper lowers tau by a tenth from 1 while the image is fooled; here, for
    speed, tau is bisected between what failed and the smallest success, and each failure raises c tenfold. A
    round starts at the smallest success, brought to within tau. Pixels are kept in [0, 1] by projection (the
    paper's section V-B). No ball. The smallest success in L-infinity comes back; for an image never fooled, the
    iterate with the lowest margin. An image that the model already gets wrong (by ``confidence``) comes back
    unchanged, its smallest perturbation being none.

    Args:
        confidence: by how many logits the wrong class must lead.
        learning_rate: Adam's, in pixels, but never more than a thirtieth of the smallest success.
        search_steps: values of tau an image tries.
        max_iter: Adam steps for each.
        initial_const: the first c.
    """

    attack_params: ClassVar[list[str]] = [
        *TorchAttack.attack_params,
        "confidence",
        "learning_rate",
        "search_steps",
        "max_iter",
        "initial_const",
    ]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        confidence: float = 0.0,
        learning_rate: float = 0.01,
        search_steps: int = 8,
        max_iter: int = 30,
        initial_const: float = 1.0,
        batch_size: int = 128,
    ) -> None:
        super().__init__(estimator, batch_size)
        self.confidence = confidence
        self.learning_rate = learning_rate
        self.search_steps = search_steps
        self.max_iter = max_iter
        self.initial_const = initial_const
        self._check_params()

    def _check_params(self) -> None:
        number("confidence", self.confidence, inclusive=True)
        number("learning_rate", self.learning_rate)
        whole("search_steps", self.search_steps)
        whole("max_iter", self.max_iter)
        number("initial_const", self.initial_const)

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            todo = (~self._fooled(margin(self.model(images), labels))).nonzero()[:, 0]
        result = images.clone()
        if len(todo):
            result[todo] = self._search(images[todo], labels[todo])
        return result

    def _fooled(self, gap: torch.Tensor) -> torch.Tensor:
        return (gap < 0) & (gap <= -self.confidence)

    def _search(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        best = _Best(images)
        tau = torch.ones_like(best.reach)
        const = torch.full_like(tau, self.initial_const)
        failed = torch.zeros_like(tau)
        for _ in range(self.search_steps):
            before = best.reach.clone()
            self._descend(images, labels, tau, const, best)
            better = best.reach < before
            never = best.reach.isinf()
            const = torch.where(better, const, const * 10)
            failed = torch.where(better | never, failed, tau)
            tau = torch.where(never, tau, (failed + best.reach) / 2)
        return best.images

    def _descend(
        self, images: torch.Tensor, labels: torch.Tensor, tau: torch.Tensor, const: torch.Tensor, best: _Best
    ) -> None:
        """Adam for one tau and c an image [N]; notes what it passes in ``best``."""
        limit = per_image(tau, images)
        started = best.reach.isfinite()
        x = torch.where(per_image(started, images), images + (best.images - images).clamp(-limit, limit), images)
        rate = per_image((best.reach / 30).clamp_max(self.learning_rate), images)
        mean, square = torch.zeros_like(x), torch.zeros_like(x)
        for step in range(1, self.max_iter + 2):
            x = x.detach().requires_grad_()
            gap = margin(self.model(x), labels)
            best.note(x.detach(), gap.detach(), self._fooled(gap.detach()))
            if step > self.max_iter:
                break
            excess = ((x - images).abs() - limit).clamp_min(0).flatten(1).sum(1)
            loss = const * (gap + self.confidence).clamp_min(0) + excess
            (gradient,) = torch.autograd.grad(loss.sum(), x)
            with torch.no_grad():
                mean = mean.lerp(gradient, 0.1)
                square = square.lerp(gradient.square(), 0.001)
                size = (square / (1 - 0.999**step)).sqrt() + 1e-8
                x = (x - rate * mean / (1 - 0.9**step) / size).clamp(0, 1)


class _Best:
    """For each image the smallest success so far, or, before there is one, the iterate of lowest margin."""

    def __init__(self, images: torch.Tensor) -> None:
        self.clean = images
        self.images = images.clone()
        self.reach = torch.full((len(images),), torch.inf, dtype=images.dtype, device=images.device)
        self.gap = self.reach.clone()

    def note(self, x: torch.Tensor, gap: torch.Tensor, fooled: torch.Tensor) -> None:
        """Take in an iterate x [N, ...]; a clean image is none."""
        reach = (x - self.clean).abs().flatten(1).amax(1)
        smaller = fooled & (reach < self.reach)
        stronger = ~fooled & self.reach.isinf() & (gap < self.gap) & (reach > 0)
        self.images = torch.where(per_image(smaller | stronger, x), x, self.images)
        self.reach = torch.where(smaller, reach, self.reach)
        self.gap = torch.where(stronger, gap, self.gap)

"""The L2 attack of Carlini & Wagner 2017 (arXiv:1608.04644), section VI-A, for a batch at a time."""

from __future__ import annotations

from typing import ClassVar

import torch
from art.estimators.classification import PyTorchClassifier

from advmerge.attacks.base import TorchAttack, margin, number, whole

# Black and white lie at infinity in tanh space, and with the usual .999999 so far out that tens of steps do
# not move them, though many images are mostly black or white. So they are put at tanh(w) = -.95 and .95, and
# what that lets beyond [0, 1] is clamped before the model sees it. Digits' median L2 falls by a quarter.
_WITHIN = 0.95


class BatchedCarliniL2(TorchAttack):
    """Minimise ||x' - x||^2 + c * max(Z_y - max_{i != y} Z_i + confidence, 0) over tanh space, by Adam.

    Each image has its own c: tenfold until it is fooled, then bisected between the greatest that failed and
    the least that succeeded. No ball. The smallest success in L2 comes back; for an image never fooled, the
    iterate with the lowest margin. An image that the model already gets wrong (by ``confidence``) comes
    back unchanged, its smallest perturbation being none.

    Args:
        confidence: by how many logits the wrong class must lead.
        learning_rate: Adam's, in tanh space.
        binary_search_steps: values of c an image tries.
        max_iter: Adam steps for each c, at least 2; an image stops early when a tenth of them, but at least
            ten, do not lower its loss.
        initial_const: the first c.
    """

    attack_params: ClassVar[list[str]] = [
        *TorchAttack.attack_params,
        "confidence",
        "learning_rate",
        "binary_search_steps",
        "max_iter",
        "initial_const",
    ]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        confidence: float = 0.0,
        learning_rate: float = 0.05,
        binary_search_steps: int = 4,
        max_iter: int = 30,
        initial_const: float = 0.1,
        batch_size: int = 128,
    ) -> None:
        super().__init__(estimator, batch_size)
        self.confidence = confidence
        self.learning_rate = learning_rate
        self.binary_search_steps = binary_search_steps
        self.max_iter = max_iter
        self.initial_const = initial_const
        self._check_params()

    def _check_params(self) -> None:
        number("confidence", self.confidence, inclusive=True)
        number("learning_rate", self.learning_rate)
        whole("binary_search_steps", self.binary_search_steps)
        whole("max_iter", self.max_iter, least=2)
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
        lower = torch.zeros(len(images), dtype=images.dtype, device=images.device)
        upper = torch.full_like(lower, torch.inf)
        const = torch.full_like(lower, self.initial_const)
        for _ in range(self.binary_search_steps):
            found = self._descend(images, labels, const, best)
            upper = torch.where(found, const, upper)
            lower = torch.where(found, lower, const)
            const = torch.where(upper.isinf(), const * 10, (lower + upper) / 2)
        return best.images

    def _descend(self, images: torch.Tensor, labels: torch.Tensor, const: torch.Tensor, best: _Best) -> torch.Tensor:
        """Adam for one c an image [N]; notes what it passes in ``best`` and returns which succeeded [N]."""
        found = torch.zeros_like(labels, dtype=torch.bool)
        active = torch.arange(len(images), device=images.device)
        w = torch.atanh((2 * images - 1) * _WITHIN)
        mean, square = torch.zeros_like(w), torch.zeros_like(w)
        checked = torch.full_like(const, torch.inf)
        interval = max(10, self.max_iter // 10)
        for step in range(1, self.max_iter + 1):
            w.requires_grad_()
            wide = (torch.tanh(w) / _WITHIN + 1) / 2
            # The clamp hides nothing from the gradient, else a pixel at its limit could not come back.
            x = wide.detach().clamp(0, 1) + (wide - wide.detach())
            gap = margin(self.model(x), labels[active])
            distance = (wide - images[active]).square().flatten(1).sum(1)
            loss = distance + const[active] * (gap + self.confidence).clamp_min(0)
            (gradient,) = torch.autograd.grad(loss.sum(), w)
            with torch.no_grad():
                fooled = self._fooled(gap)
                if step > 1:  # the first x is the clean image
                    best.note(active, x, fooled, (x - images[active]).square().flatten(1).sum(1), gap)
                found[active] |= fooled
                mean = mean.lerp(gradient, 0.1)
                square = square.lerp(gradient.square(), 0.001)
                rate = self.learning_rate / (1 - 0.9**step)
                w = w - rate * mean / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
                if step % interval == 0:
                    left = loss <= 0.9999 * checked
                    checked = loss[left]
                    active, w, mean, square = active[left], w[left], mean[left], square[left]
                    if not len(active):
                        break
        return found


class _Best:
    """For each image the smallest success so far, or, before there is one, the lowest margin."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images.clone()
        self.distance = torch.full((len(images),), torch.inf, dtype=images.dtype, device=images.device)
        self.gap = self.distance.clone()

    def note(
        self,
        rows: torch.Tensor,
        x: torch.Tensor,
        fooled: torch.Tensor,
        distance: torch.Tensor,
        gap: torch.Tensor,
    ) -> None:
        """Take in candidates x [M, ...] for the images ``rows`` [M], with what is known of each [M]."""
        closer = fooled & (distance < self.distance[rows])
        stronger = ~fooled & self.distance[rows].isinf() & (gap < self.gap[rows])
        take = closer | stronger
        self.images[rows[take]] = x[take]
        self.distance[rows[closer]] = distance[closer]
        self.gap[rows[stronger]] = gap[stronger]

"""The L2 attack of Carlini & Wagner 2017 (arXiv:1608.04644), section VI-A, for a batch at a time."""

from __future__ import annotations

import torch

from advmerge.attacks.base import margin, per_image, whole
from advmerge.attacks.carlini import Adam, CarliniAttack
from advmerge.attacks.smallest import Smallest

# Black and white lie at infinity in tanh space, and with the usual .999999 so far out that tens of steps do
# not move them, though many images are mostly black or white. So they are put at tanh(w) = -.95 and .95, and
# what that lets beyond [0, 1] is clamped before the model sees it. Digits' median L2 falls by a quarter.
_WITHIN = 0.95


class BatchedCarliniL2(CarliniAttack):
    """Minimise ||x' - x||^2 + c * max(Z_y - max_{i != y} Z_i + confidence, 0) over tanh space, by Adam.

    Each image has its own c: tenfold until it is fooled, then bisected between the greatest that failed and
    the least that succeeded. The smallest success in L2 comes back.

    Args:
        learning_rate: Adam's, in tanh space.
        binary_search_steps: values of c an image tries.
        max_iter: Adam steps for each c, at least 2; an image stops early when a tenth of them, but at least
            ten, do not lower its loss.
        halvings: of the way from the clean image to the smallest success, to the nearest point on it that fools: a
            forward pass each. Adam moves every pixel alike, so that its first step is the longer the more there are: at
            224 pixels far longer than the way to the boundary, and tens of steps do not bring it back.
    """

    learning_rate: float = 0.05
    binary_search_steps: int = 4
    initial_const: float = 0.1
    halvings: int = 0

    def _check_params(self) -> None:
        super()._check_params()
        whole("binary_search_steps", self.binary_search_steps)
        whole("max_iter", self.max_iter, least=2)
        whole("halvings", self.halvings, least=0)

    def _search(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        best = Smallest(images)
        lower = torch.zeros_like(best.size)
        upper = torch.full_like(lower, torch.inf)
        const = torch.full_like(lower, self.initial_const)
        for _ in range(self.binary_search_steps):
            found = self._descend(images, labels, const, best)
            upper = torch.where(found, const, upper)
            lower = torch.where(found, lower, const)
            const = torch.where(upper.isinf(), const * 10, (lower + upper) / 2)
        return self._nearest(images, labels, best) if self.halvings else best.images

    @torch.no_grad()
    def _nearest(self, images: torch.Tensor, labels: torch.Tensor, best: Smallest) -> torch.Tensor:
        """The successes, each moved towards its clean image by bisection; what fools nothing stays."""
        rows = best.size.isfinite().nonzero()[:, 0]
        clean, nearest = images[rows], best.images[rows]
        way = nearest - clean
        fooled, failed = torch.ones_like(best.size[rows]), torch.zeros_like(best.size[rows])
        for _ in range(self.halvings if len(rows) else 0):
            middle = (fooled + failed) / 2
            x = clean + per_image(middle, way) * way
            good = self._fooled(margin(self.model(x), labels[rows]))
            nearest = torch.where(per_image(good, x), x, nearest)
            fooled, failed = torch.where(good, middle, fooled), torch.where(good, failed, middle)
        best.images[rows] = nearest
        return best.images

    def _descend(self, images: torch.Tensor, labels: torch.Tensor, const: torch.Tensor, best: Smallest) -> torch.Tensor:
        """Adam for one c an image [N]; notes what it passes in ``best`` and returns which succeeded [N]."""
        found = torch.zeros_like(labels, dtype=torch.bool)
        active = torch.arange(len(images), device=images.device)
        w = torch.atanh((2 * images - 1) * _WITHIN)
        adam = Adam(w)
        checked = torch.full_like(const, torch.inf)
        interval = max(10, self.max_iter // 10)
        for step in range(1, self.max_iter + 1):
            w.requires_grad_()
            wide = (torch.tanh(w) / _WITHIN + 1) / 2
            # The clamp hides nothing from the gradient, else a pixel at its limit could not come back.
            x = wide.detach().clamp(0, 1) + (wide - wide.detach())
            gap = margin(self.model(x), labels[active])
            distance = (wide - images[active]).square().flatten(1).sum(1)
            loss = distance + const[active] * self._hinge(gap)
            (gradient,) = torch.autograd.grad(loss.sum(), w)
            with torch.no_grad():
                fooled = self._fooled(gap)
                if step > 1:  # the first x is the clean image
                    best.note(active, x, fooled, (x - images[active]).square().flatten(1).sum(1), gap)
                found[active] |= fooled
                adam.take(gradient)
                w = w - self.learning_rate / adam.share * adam.mean / adam.size
                if step % interval == 0:
                    left = loss <= 0.9999 * checked
                    checked = loss[left]
                    active, w = active[left], w[left]
                    adam.keep(left)
                    if not len(active):
                        break
        return found

"""FAB-T, Croce & Hein 2020 (arXiv:1907.02044), targeted as in AutoAttack (arXiv:2003.01690)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from advmerge.attacks.auto_pgd_targeted import likeliest_others
from advmerge.attacks.base import TorchAttack, euclidean_or_largest, margin, number, per_image, whole
from advmerge.attacks.smallest import Smallest


class FastAdaptiveBoundary(TorchAttack):
    """Step to the linearised boundary with each likely class, biased towards the clean image.

    No ball: the smallest perturbation found comes back; for an image never fooled, the iterate with the lowest
    margin. An image that the model already gets wrong comes back unchanged, its smallest perturbation being none.
    One run towards each class, from the clean image: AutoAttack's standard version gives FAB-T one restart, and the
    authors' code draws random starts for the second and later ones alone.

    Args:
        norm: inf (also "inf") or 2, of the perturbation that is minimised.
        max_iter: steps towards each class.
        nb_targets: most classes an image is driven to.
        alpha_max: greatest weight of the clean image's own projection.
        eta: lengthening of the steps.
        beta: share of a success that the next step starts from.
    """

    usual_share: ClassVar[float] = 0.74

    norm: float | str = np.inf
    max_iter: int = 100
    nb_targets: int = 9
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def _check_params(self) -> None:
        super()._check_params()
        euclidean_or_largest("norm", self.norm)
        whole("max_iter", self.max_iter)
        whole("nb_targets", self.nb_targets)
        number("alpha_max", self.alpha_max, inclusive=True)
        number("eta", self.eta)
        number("beta", self.beta)

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.smallest(images, labels, 0.0)

    def smallest(self, images: torch.Tensor, labels: torch.Tensor, enough: float) -> torch.Tensor:
        """As :meth:`perturb`, but an image fooled within ``enough`` is spared the classes that are left."""
        with torch.no_grad():
            logits = self.model(images)
        best = Smallest(images)
        best.size[margin(logits, labels) < 0] = 0
        for target in likeliest_others(logits, labels, self.nb_targets).unbind(1):
            rows = (best.size > enough).nonzero()[:, 0]
            if not len(rows):
                break
            x = images[rows]
            for _ in range(self.max_iter):
                x = self._step(x, images[rows], labels[rows], target[rows])
                with torch.no_grad():
                    gap = margin(self.model(x), labels[rows])
                best.note(rows, x, gap < 0, self._size(x - images[rows]), gap)
                x = torch.where(per_image(gap < 0, x), images[rows] + self.beta * (x - images[rows]), x)
        return best.images

    def _step(self, x: torch.Tensor, images: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Between the projections of x and of the clean image on the linearised boundary, equation 8."""
        x = x.detach().requires_grad_()
        logits = self.model(x)
        lead = (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None]))[:, 0]
        (slope,) = torch.autograd.grad(lead.sum(), x)
        # A little beyond the boundary: a point that rounding puts on it would stay there.
        x, rise = x.detach(), 1e-4 - lead.detach()
        here = self._project(x, slope, rise)
        clean = self._project(images, slope, rise + (slope * (x - images)).flatten(1).sum(1))
        near, far = self._size(here), self._size(clean)
        alpha = per_image((near / (near + far).clamp_min(1e-12)).clamp_max(self.alpha_max), x)
        return ((1 - alpha) * (x + self.eta * here) + alpha * (images + self.eta * clean)).clamp(0, 1)

    def _size(self, delta: torch.Tensor) -> torch.Tensor:
        return torch.linalg.vector_norm(delta.flatten(1), ord=float(self.norm), dim=1)

    def _project(self, x: torch.Tensor, slope: torch.Tensor, rise: torch.Tensor) -> torch.Tensor:
        """The smallest d with <slope, d> = ``rise`` [N] and x + d in [0, 1], or the nearest to it there is.

        A value moves by min(r, room) in L-infinity, min(r |slope|, room) in L2; r is found by sorting the places
        where values run out of room, between which <slope, d> is linear in r.
        """
        point, w = x.flatten(1), slope.flatten(1) * rise.sign()[:, None]
        room = torch.where(w > 0, 1 - point, point)
        speed = w.abs() if self.norm == 2 else torch.ones_like(w)
        steep = w.abs() * speed
        order = (room / speed.clamp_min(1e-30)).masked_fill(steep == 0, torch.inf).sort(1)
        ends, gains = order.values, steep.gather(1, order.indices)
        free = gains.flip(1).cumsum(1).flip(1)  # what still moves before each end
        before = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], 1)
        width = (ends - before).masked_fill(gains == 0, 0).nan_to_num(0, 0, 0)
        reached = (width * free).cumsum(1)
        index = (reached < rise.abs()[:, None]).sum(1, keepdim=True).clamp_max(w.shape[1] - 1)
        short = rise.abs()[:, None] - (reached - width * free).gather(1, index)
        r = before.gather(1, index).nan_to_num(0, 0, 0) + short / free.gather(1, index).clamp_min(1e-30)
        moved = torch.minimum(r * speed, room).masked_fill(w == 0, 0)
        return (w.sign() * moved).reshape(x.shape)

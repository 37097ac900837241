"""APGD, Croce & Hein 2020 (arXiv:2003.01690), algorithm 1, with a step size for each image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch.nn import functional

from advmerge.attacks.base import TorchAttack, margin, number, per_image, whole


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """As log(1 + sum_{i != y} exp(Z_i - Z_y)): torch's own is zero in float32 once the margin is 17, and
    then no point would beat the random start."""
    column = labels[:, None]
    others = logits.scatter(1, column, -torch.inf).logsumexp(1)
    return functional.softplus(others - logits.gather(1, column)[:, 0])


def _difference_logits_ratio(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Equation 6: minus the margin over the gap between first and third logit; blind to the logits' scale."""
    ordered = logits.sort(dim=1, descending=True).values
    return -margin(logits, labels) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross_entropy": _cross_entropy,
    "difference_logits_ratio": _difference_logits_ratio,
}


class BatchedAutoPGD(TorchAttack):
    """Gradient ascent in a ball with momentum .75; the step starts at 2 eps and halves where it stops paying.

    At each checkpoint an image halves its step and returns to its best point if fewer than ``rho`` of the
    steps raised the loss, or if neither step nor best loss changed since the last checkpoint. What comes back
    is the point of highest loss among those that fool, or among all where none fools: not the last iterate,
    not the clean image. An image that the model already gets wrong is attacked too, because leaving it clean
    would understate transfer to a model that gets it right.

    Args:
        eps: radius of the ball, in [0, 1] pixels.
        norm: inf (also "inf") or 2.
        max_iter: gradient steps a run.
        nb_random_init: runs, each from a random point of the ball's surface; the later ones are for the
            images not fooled yet.
        loss_type: cross_entropy or difference_logits_ratio (needs three classes).
        rho: share of steps that must raise the loss.
    """

    attack_params: ClassVar[list[str]] = [
        *TorchAttack.attack_params,
        "eps",
        "norm",
        "max_iter",
        "nb_random_init",
        "loss_type",
        "rho",
    ]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        eps: float,
        norm: float | str = np.inf,
        max_iter: int = 20,
        nb_random_init: int = 1,
        loss_type: str = "cross_entropy",
        rho: float = 0.75,
        batch_size: int = 128,
    ) -> None:
        super().__init__(estimator, batch_size)
        self.eps = eps
        self.norm = norm
        self.max_iter = max_iter
        self.nb_random_init = nb_random_init
        self.loss_type = loss_type
        self.rho = rho
        self._check_params()

    def _check_params(self) -> None:
        number("eps", self.eps)
        whole("max_iter", self.max_iter)
        whole("nb_random_init", self.nb_random_init)
        number("rho", self.rho)
        if self.norm not in (np.inf, "inf", 2):
            raise ValueError(f"norm must be inf or 2, not {self.norm!r}")
        if self.loss_type not in _LOSSES:
            raise ValueError(f"loss_type must be one of {', '.join(_LOSSES)}, not {self.loss_type!r}")
        if self.loss_type == "difference_logits_ratio" and self.estimator.nb_classes < 3:
            raise ValueError("loss_type difference_logits_ratio needs at least three classes")

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        best, loss, fooled = self._run(images, labels)
        for _ in range(self.nb_random_init - 1):
            left = (~fooled).nonzero()[:, 0]
            if not len(left):
                break
            again, its_loss, its_fooled = self._run(images[left], labels[left])
            better = its_fooled | (its_loss > loss[left])
            rows = left[better]
            best[rows], loss[rows], fooled[rows] = again[better], its_loss[better], its_fooled[better]
        return best

    def _run(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One run: the best points, their losses [N], and which of them fool [N]."""
        x = self._project(images + self._start(images), images)
        loss, fooled, gradient = self._evaluate(x, labels, True)
        before, peak, peak_loss, peak_gradient = x, x, loss, gradient  # the paper's x^(k-1) and x_max
        best, best_loss, best_fooled = x.clone(), loss, fooled
        size = torch.full_like(loss, 2 * self.eps)
        raised = torch.zeros_like(loss)
        last_peak, halved = peak_loss, torch.zeros_like(fooled)
        checkpoints = _checkpoints(self.max_iter)
        window = 0
        for step in range(1, self.max_iter + 1):
            ahead = self._project(x + per_image(size, x) * self._direction(gradient), images)
            if step > 1:
                ahead = self._project(x + 0.75 * (ahead - x) + 0.25 * (x - before), images)
            before, x = x, ahead
            old = loss
            loss, fooled, gradient = self._evaluate(x, labels, step < self.max_iter)
            raised += loss > old
            window += 1

            higher = loss > peak_loss
            peak = torch.where(per_image(higher, x), x, peak)
            peak_gradient = torch.where(per_image(higher, x), gradient, peak_gradient)
            peak_loss = torch.where(higher, loss, peak_loss)
            better = (fooled & ~best_fooled) | ((fooled == best_fooled) & (loss > best_loss))
            best = torch.where(per_image(better, x), x, best)
            best_loss = torch.where(better, loss, best_loss)
            best_fooled = best_fooled | fooled

            if step in checkpoints:
                stuck = ~halved & (peak_loss <= last_peak)
                halved = (raised < self.rho * window) | stuck
                size = torch.where(halved, size / 2, size)
                x = torch.where(per_image(halved, x), peak, x)
                gradient = torch.where(per_image(halved, x), peak_gradient, gradient)
                loss = torch.where(halved, peak_loss, loss)
                last_peak = peak_loss
                raised = torch.zeros_like(raised)
                window = 0
        return best, best_loss, best_fooled

    def _evaluate(
        self, x: torch.Tensor, labels: torch.Tensor, with_gradient: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss [N], fooled [N], and the loss's gradient of x's shape (zero unless asked for)."""
        x = x.detach().requires_grad_(with_gradient)
        with torch.set_grad_enabled(with_gradient):
            logits = self.model(x)
            loss = _LOSSES[self.loss_type](logits, labels)
        gradient = torch.autograd.grad(loss.sum(), x)[0] if with_gradient else torch.zeros_like(x)
        return loss.detach(), margin(logits.detach(), labels) < 0, gradient

    def _start(self, images: torch.Tensor) -> torch.Tensor:
        """A random point of the ball's surface; drawn on the CPU, so that a GPU starts at the same one."""
        if self.norm == 2:
            noise = torch.randn(images.shape)
            scale = noise.flatten(1).norm(dim=1)
        else:
            noise = torch.rand(images.shape) * 2 - 1
            scale = noise.flatten(1).abs().amax(1)
        return (noise * per_image(self.eps / scale, noise)).to(images.device)

    def _direction(self, gradient: torch.Tensor) -> torch.Tensor:
        if self.norm == 2:
            return gradient / per_image(gradient.flatten(1).norm(dim=1).clamp_min(1e-12), gradient)
        return gradient.sign()

    def _project(self, x: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Into the ball, then into [0, 1]: the second never leaves the first, the images being in [0, 1]."""
        delta = x - images
        if self.norm == 2:
            delta = delta * per_image((self.eps / delta.flatten(1).norm(dim=1).clamp_min(1e-12)).clamp_max(1), x)
        else:
            delta = delta.clamp(-self.eps, self.eps)
        return (images + delta).clamp(0, 1)


def _checkpoints(steps: int) -> set[int]:
    """Section 3.2: w_j = ceil(p_j steps), p_1 = .22, p_{j+1} = p_j + max(p_j - p_{j-1} - .03, .06)."""
    before, now, found = 0.0, 0.22, set()
    while now <= 1:
        found.add(math.ceil(now * steps))
        before, now = now, now + max(now - before - 0.03, 0.06)
    return found

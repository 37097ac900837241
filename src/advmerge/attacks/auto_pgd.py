"""APGD, Croce & Hein 2020 (arXiv:2003.01690), algorithm 1, with a step size for each image."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable

import numpy as np
import torch

from advmerge.attacks.base import TorchAttack, euclidean_or_largest, margin, number, per_image, whole

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits [N, classes] and labels [N] -> what is to rise, [N]."""
Run = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Of a run: the best points [N, ...], their losses [N], and which of them fool [N]."""


class AutoPGD(TorchAttack, ABC):
    """Gradient ascent in a ball with momentum .75; the step starts at 2 eps and halves where it stops paying.

    At each checkpoint an image halves its step and returns to its best point if fewer than ``rho`` of the
    steps raised the loss, or if neither step nor best loss changed since the last checkpoint. The best of a run is
    the point of highest loss among those that fool, or among all where none fools: not the last iterate, not the
    clean image.

    Args:
        eps: radius of the ball, in [0, 1] pixels.
        norm: inf (also "inf") or 2.
        max_iter: gradient steps a run.
        nb_random_init: runs, each from a random point of the ball's surface; the later ones are for the
            images not fooled yet.
        rho: share of steps that must raise the loss.
    """

    eps: float
    norm: float | str = np.inf
    max_iter: int
    nb_random_init: int = 1
    rho: float = 0.75

    def _check_params(self) -> None:
        super()._check_params()
        number("eps", self.eps)
        whole("max_iter", self.max_iter)
        whole("nb_random_init", self.nb_random_init)
        number("rho", self.rho)
        euclidean_or_largest("norm", self.norm)

    def run(self, images: torch.Tensor, labels: torch.Tensor, rise: Loss) -> Run:
        """One run, from a random point of the ball's surface."""
        x = self._project(images + self._start(images), images)
        loss, fooled, gradient = self._evaluate(x, labels, rise, True)
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
            loss, fooled, gradient = self._evaluate(x, labels, rise, step < self.max_iter)
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

    def _evaluate(self, x: torch.Tensor, labels: torch.Tensor, rise: Loss, with_gradient: bool) -> Run:
        """Loss [N], fooled [N], and the loss's gradient of x's shape (zero unless asked for)."""
        x = x.detach().requires_grad_(with_gradient)
        with torch.set_grad_enabled(with_gradient):
            logits = self.model(x)
            loss = rise(logits, labels)
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
        return into_ball(x, images, self.eps, self.norm)


def into_ball(x: torch.Tensor, images: torch.Tensor, eps: float, norm: float | str) -> torch.Tensor:
    """x [N, ...], moved into the ball of ``eps`` around the images and into [0, 1]; norm is inf or 2."""
    delta = x - images
    if norm == 2:
        delta = delta * per_image((eps / delta.flatten(1).norm(dim=1).clamp_min(1e-12)).clamp_max(1), x)
    else:
        delta = delta.clamp(-eps, eps)
    return (images + delta).clamp(0, 1)


def _checkpoints(steps: int) -> set[int]:
    """Section 3.2: w_j = ceil(p_j steps), p_1 = .22, p_{j+1} = p_j + max(p_j - p_{j-1} - .03, .06)."""
    before, now, found = 0.0, 0.22, set()
    while now <= 1:
        found.add(math.ceil(now * steps))
        before, now = now, now + max(now - before - 0.03, 0.06)
    return found

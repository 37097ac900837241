"""A universal perturbation by gradient ascent, Shafahi et al. 2020 (arXiv:1811.11304), algorithm 2."""

from __future__ import annotations

import torch

from advmerge.attacks.ascent import Ascent, cross_entropy
from advmerge.attacks.base import margin, number


class BatchedUniversal(Ascent):
    """One perturbation for all images of a batch: ascend their mean cross-entropy, cut off at ``cutoff`` each.

    The cut-off keeps images that are fooled by far from steering. Each step is taken on the whole batch, so the
    perturbation is as universal as ``batch_size`` is large. That of the step which fools the most images comes
    back, of these that of the greatest mean; an image it does not fool has it too.

    Args:
        eps_step: length of a step; a tenth of ``eps`` if not given.
        cutoff: of each image's cross-entropy (beta).
    """

    max_iter: int = 50
    cutoff: float = 9.0

    def _check_params(self) -> None:
        super()._check_params()
        number("cutoff", self.cutoff)

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        step = self.eps / 10 if self.eps_step is None else self.eps_step
        delta = torch.zeros_like(images[0])
        best, record = images, (-1, 0.0)
        for iteration in range(self.max_iter + 1):
            delta.requires_grad_()
            x = (images + delta).clamp(0, 1)
            logits = self.model(x)
            loss = cross_entropy(logits, labels).clamp_max(self.cutoff)
            score = int((margin(logits, labels) < 0).sum()), float(loss.detach().mean())
            if iteration and score > record:  # the first is none
                best, record = x.detach(), score
            if iteration < self.max_iter:
                (gradient,) = torch.autograd.grad(loss.sum(), delta)
                delta = (delta.detach() + step * gradient.sign()).clamp(-self.eps, self.eps)
        return best

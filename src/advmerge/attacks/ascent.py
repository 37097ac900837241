"""What attacks by steps of one length share, and the iteration of the momentum family.

Its members differ in where and how they take the gradient. A member is a gradient, a function of images and labels, put
together from parts: the model may see a random view of each image, gradients may be averaged over copies or
neighbours, tuned or smoothed. A part takes a model or a gradient and returns one, so parts combine; each lies in
the file of the attack that introduced it.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn import functional

from advmerge.attacks.base import TorchAttack, number, per_image, whole

Model = Callable[[torch.Tensor], torch.Tensor]
"""Images [N, ...] -> logits [N, classes]."""
Gradient = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Images [N, ...] and labels [N] -> the direction of a rising loss, of the images' shape."""


class Ascent(TorchAttack, ABC):
    """Steps of one length in an L-infinity ball.

    Args:
        eps: radius of the ball, in [0, 1] pixels.
        eps_step: length of a step; what the paper takes, see the attack, if not given.
        max_iter: steps.
    """

    eps: float
    eps_step: float | None = None
    max_iter: int = 10

    def _check_params(self) -> None:
        super()._check_params()
        number("eps", self.eps)
        if self.eps_step is not None:
            number("eps_step", self.eps_step)
        whole("max_iter", self.max_iter)


class MomentumAttack(Ascent, ABC):
    """MI-FGSM, Dong et al. 2018 (arXiv:1710.06081), equations 6 and 7, from the clean images.

    g <- decay g + gradient / mean |gradient|; x <- clip(x + eps_step sign(g)) to the ball and to [0, 1]. The
    paper divides by the L1 norm, the authors' code by the mean: the same steps, unless the gradient is taken
    ahead. A member says how the gradient is taken (:meth:`gradient`), where (:meth:`where`), and what the model
    must be told meanwhile (:meth:`prepared`). What comes back is the last iterate, as in the papers: for transfer
    it is the one that counts, fooled or not.

    Args:
        eps_step: length of a step; ``eps / max_iter``, as in the papers, if not given.
        decay: of the momentum.
    """

    decay: float = 1.0

    def _check_params(self) -> None:
        super()._check_params()
        number("decay", self.decay, inclusive=True)

    @property
    def step(self) -> float:
        """Length of a step."""
        return self.eps / self.max_iter if self.eps_step is None else self.eps_step

    def gradient(self, images: torch.Tensor) -> Gradient:
        """What a batch of clean images is attacked with, asked for once."""
        return loss_gradient(self.model)

    def where(self, x: torch.Tensor, momentum: torch.Tensor) -> torch.Tensor:
        """The point whose gradient is the next."""
        return x

    def prepared(self) -> AbstractContextManager[None]:
        """What the model is put into for the length of an attack."""
        return nullcontext()

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        gradient = self.gradient(images)
        x, momentum = images, torch.zeros_like(images)
        with self.prepared():
            for _ in range(self.max_iter):
                momentum = self.decay * momentum + unit(gradient(self.where(x, momentum), labels))
                x = (images + (x + self.step * momentum.sign() - images).clamp(-self.eps, self.eps)).clamp(0, 1)
        return x


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of each image, [N], as log(1 + sum_{i != y} exp(Z_i - Z_y)).

    Torch's own is zero in float32 once the margin is 17, and then has no direction and no better point.
    """
    column = labels[:, None]
    others = logits.scatter(1, column, -torch.inf).logsumexp(1)
    return functional.softplus(others - logits.gather(1, column)[:, 0])


def loss_gradient(model: Model) -> Gradient:
    """The input gradient of the cross-entropy of each image."""

    def gradient(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(cross_entropy(model(x), labels).sum(), x)[0]

    return gradient


def unit(gradient: torch.Tensor) -> torch.Tensor:
    """Divide each image's gradient by its mean absolute value; a gradient of zero stays zero."""
    size = gradient.flatten(1).abs().mean(1)
    return gradient / per_image(size.where(size > 0, torch.ones_like(size)), gradient)


def draw(images: torch.Tensor, reach: float) -> torch.Tensor:
    """Noise of the images' shape, uniform in [-reach, reach]; drawn on the CPU, so that a GPU gets the same."""
    return torch.empty(images.shape).uniform_(-reach, reach).to(images.device)

"""The iteration that the momentum family shares: its members differ in where and how they take the gradient.

A member is a gradient, a function of images and labels, put together from parts: the model may see a random
view of each image, gradients may be averaged over copies or neighbours, tuned or smoothed. A part takes a model
or a gradient and returns one, so parts combine; each lies in the file of the attack that introduced it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from advmerge.attacks.base import number, per_image, whole

Model = Callable[[torch.Tensor], torch.Tensor]
"""Images [N, ...] -> logits [N, classes]."""
Gradient = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Images [N, ...] and labels [N] -> the direction of a rising loss, of the images' shape."""


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of each image, [N], as log(1 + sum_{i != y} exp(Z_i - Z_y)): exact where torch's own is zero in float32."""
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


def ascend(
    images: torch.Tensor,
    labels: torch.Tensor,
    gradient: Gradient,
    *,
    eps: float,
    eps_step: float | None,
    max_iter: int,
    decay: float,
    nesterov: bool = False,
) -> torch.Tensor:
    """MI-FGSM, Dong et al. 2018 (arXiv:1710.06081), equations 6 and 7, from the clean images.

    g <- decay g + gradient / mean |gradient|; x <- clip(x + eps_step sign(g)) to the ball and to [0, 1]. The
    paper divides by the L1 norm, the authors' code by the mean: the same steps, but for ``nesterov``.

    Args:
        eps_step: ``eps / max_iter`` if None, as in the papers.
        nesterov: take the gradient at x + eps_step decay g.

    Returns:
        The last iterate, as the papers do: for transfer it is the one that counts, fooled or not.
    """
    step = eps / max_iter if eps_step is None else eps_step
    x, momentum = images, torch.zeros_like(images)
    for _ in range(max_iter):
        ahead = x + step * decay * momentum if nesterov else x
        momentum = decay * momentum + unit(gradient(ahead, labels))
        x = (images + (x + step * momentum.sign() - images).clamp(-eps, eps)).clamp(0, 1)
    return x


ASCENT = ["eps", "eps_step", "max_iter", "decay"]
"""The options that every member has."""


def check_ascent(eps: float, eps_step: float | None, max_iter: int, decay: float) -> None:
    """Refuse, with ValueError, what no member can do with."""
    number("eps", eps)
    if eps_step is not None:
        number("eps_step", eps_step)
    whole("max_iter", max_iter)
    number("decay", decay, inclusive=True)


def draw(images: torch.Tensor, reach: float) -> torch.Tensor:
    """Noise of the images' shape, uniform in [-reach, reach]; drawn on the CPU, so that a GPU gets the same."""
    return torch.empty(images.shape).uniform_(-reach, reach).to(images.device)

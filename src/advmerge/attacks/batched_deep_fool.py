"""DeepFool, Moosavi-Dezfooli et al. 2016 (arXiv:1511.04599), algorithm 2, for a batch at a time."""

from __future__ import annotations

from typing import ClassVar

import torch

from advmerge.attacks.base import TorchAttack, margin, number, per_image, whole

# Classes are tried from the closest in logits on, until the next would be nearest only with a boundary half as steep
# again as the steepest seen. Of 256 digits that left 253 examples as they were, and their mean L2 within .2 %.
_STEEPER = 1.5


class BatchedDeepFool(TorchAttack):
    """Step to the nearest boundary of the linearised classifier until the image is no longer its true class.

    No ball: the perturbation is as small in L2 as the linearisation makes it. An image that the model already
    gets wrong comes back unchanged, its smallest perturbation being none. One that is not fooled after
    ``max_iter`` steps comes back as the iterate with the lowest margin. A step goes without the gradients of classes
    that trail too far to be nearest.

    Args:
        max_iter: most steps an image.
        overshoot: relative lengthening of the perturbation (the paper's eta). It does not make an example
            survive 8-bit rounding: most of a perturbation this small may lie below half a level.
        nb_grads: classes an image considers, its own and the likeliest others when clean; at least 2.
    """

    usual_share: ClassVar[float] = 0.019

    max_iter: int = 50
    overshoot: float = 0.02
    nb_grads: int = 10

    def _check_params(self) -> None:
        super()._check_params()
        whole("max_iter", self.max_iter)
        number("overshoot", self.overshoot, inclusive=True)
        whole("nb_grads", self.nb_grads, least=2)

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        best, x = images.clone(), images
        active = torch.arange(len(images), device=images.device)
        for taken in range(self.max_iter + 1):
            # One forward pass tells which images are fooled and begins the next step of those that are not.
            x = x.detach().requires_grad_()
            logits = self.model(x)
            gap = margin(logits.detach(), labels)
            if not taken:
                count = min(self.nb_grads, logits.shape[1]) - 1
                others = logits.scatter(1, labels[:, None], -torch.inf).topk(count).indices
                lowest = torch.full_like(gap, torch.inf)
            else:
                lower = gap < lowest[active]
                best[active[lower]] = x.detach()[lower]
                lowest[active[lower]] = gap[lower]
            left = gap >= 0
            if taken == self.max_iter or not left.any():
                break
            step = self._step(x, logits, labels, others, left)
            active, x, labels, others = active[left], x.detach()[left], labels[left], others[left]
            clean = images[active]
            total = (x - clean) / (1 + self.overshoot) + step
            x = (clean + (1 + self.overshoot) * total).clamp(0, 1)
        return best

    def _step(
        self, x: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, others: torch.Tensor, left: torch.Tensor
    ) -> torch.Tensor:
        """The shortest step to a boundary of the images ``left``.

        Args:
            x: [N, ...], from which ``logits`` [N, classes] were calculated.
            labels: [N].
            others: classes to step to, [N, K].
            left: bool [N], M of them true.

        Returns:
            [M, ...].
        """
        leads = (logits.gather(1, labels[:, None]) - logits.gather(1, others))[left]
        order = leads.argsort(1)
        (gradient,) = torch.autograd.grad(leads.gather(1, order[:, :1]).sum(), x)
        leads, x, gradient, labels, others = (
            leads.detach(),
            x.detach()[left],
            gradient[left],
            labels[left],
            others[left],
        )
        norm = gradient.flatten(1).norm(dim=1).clamp_min(1e-12)
        distance, steepest = leads.amin(1) / norm, norm.clone()
        for column in order[:, 1:].unbind(1):
            trails = leads.gather(1, column[:, None])[:, 0]
            row = (trails < _STEEPER * steepest * distance).nonzero()[:, 0]
            if not len(row):
                break
            again = x[row].requires_grad_()
            logits = self.model(again)
            lead = logits.gather(1, labels[row, None]) - logits.gather(1, others[row, column[row], None])
            (slope,) = torch.autograd.grad(lead.sum(), again)
            size = slope.flatten(1).norm(dim=1).clamp_min(1e-12)
            steepest[row] = torch.maximum(steepest[row], size)
            nearer = trails[row] / size < distance[row]
            row = row[nearer]
            gradient[row], norm[row], distance[row] = slope[nearer], size[nearer], trails[row] / size[nearer]
        # The authors' code adds the same 1e-4: a step of length zero would stay on the boundary.
        return -per_image((distance + 1e-4) / norm, x) * gradient

"""DeepFool, Moosavi-Dezfooli et al. 2016 (arXiv:1511.04599), algorithm 2, for a batch at a time."""

from __future__ import annotations

from typing import ClassVar

import torch

from advmerge.attacks.base import TorchAttack, margin, number, per_image, whole

# A class that trails by twice as much as the closest one is nearer only if its boundary is twice as steep. On seven
# small networks that was so in 2 of 9,071 steps, and the gradients of such classes were four fifths of all.
_STEEPEST = 2.0


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

    usual_share: ClassVar[float] = 0.021

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
        row, column = torch.arange(len(leads), device=x.device), leads.argmin(1)
        gradients = [torch.autograd.grad(leads[row, column].sum(), x)[0][left]]
        batch = len(x)
        leads, x, labels, others = leads.detach(), x.detach()[left], labels[left], others[left]
        likely = leads < _STEEPEST * leads.amin(1, keepdim=True)
        likely[row, column] = False
        pairs = likely.nonzero()
        for part in pairs.split(batch) if len(pairs) else ():  # else there would be a pass of no image
            rows, columns = part.unbind(1)
            again = x[rows].requires_grad_()
            logits = self.model(again)
            lead = logits.gather(1, labels[rows, None]) - logits.gather(1, others[rows, columns, None])
            gradients.append(torch.autograd.grad(lead.sum(), again)[0])
        row, column, gradient = torch.cat([row, pairs[:, 0]]), torch.cat([column, pairs[:, 1]]), torch.cat(gradients)
        norm = gradient.flatten(1).norm(dim=1).clamp_min(1e-12)
        distance = leads[row, column] / norm
        distances = distance.new_full(leads.shape, torch.inf).index_put((row, column), distance)
        nearest = column == distances.argmin(1)[row]
        # The authors' code adds the same 1e-4: a step of length zero would stay on the boundary.
        length = per_image((distance[nearest] + 1e-4) / norm[nearest], x)
        return torch.zeros_like(x).index_put((row[nearest],), -length * gradient[nearest])

"""DeepFool, Moosavi-Dezfooli et al. 2016 (arXiv:1511.04599), algorithm 2, for a batch at a time."""

from __future__ import annotations

import torch

from advmerge.attacks.base import TorchAttack, margin, number, per_image, whole


class BatchedDeepFool(TorchAttack):
    """Step to the nearest boundary of the linearised classifier until the image is no longer its true class.

    No ball: the perturbation is as small in L2 as the linearisation makes it. An image that the model already
    gets wrong comes back unchanged, its smallest perturbation being none. One that is not fooled after
    ``max_iter`` steps comes back as the iterate with the lowest margin.

    Args:
        max_iter: most steps an image.
        overshoot: relative lengthening of the perturbation (the paper's eta). It does not make an example
            survive 8-bit rounding: most of a perturbation this small may lie below half a level.
        nb_grads: classes an image considers, its own and the likeliest others when clean; at least 2.
    """

    max_iter: int = 50
    overshoot: float = 0.02
    nb_grads: int = 10

    def _check_params(self) -> None:
        super()._check_params()
        whole("max_iter", self.max_iter)
        number("overshoot", self.overshoot, inclusive=True)
        whole("nb_grads", self.nb_grads, least=2)

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits = self.model(images)
        lowest = margin(logits, labels)
        count = min(self.nb_grads, logits.shape[1]) - 1
        others = logits.scatter(1, labels[:, None], -torch.inf).topk(count).indices

        best = images.clone()
        lowest[lowest >= 0] = torch.inf  # any iterate is stronger than a clean image that is not fooled
        active = lowest.isinf().nonzero()[:, 0]
        x = images[active]
        for _ in range(self.max_iter):
            if not len(active):
                break
            clean, label = images[active], labels[active]
            total = (x - clean) / (1 + self.overshoot) + self._step(x, label, others[active])
            x = (clean + (1 + self.overshoot) * total).clamp(0, 1)
            # A forward pass of its own finds the fooled, so that the backward passes, one a class, are spent
            # on the others alone.
            with torch.no_grad():
                gap = margin(self.model(x), label)
            lower = gap < lowest[active]
            best[active[lower]] = x[lower]
            lowest[active[lower]] = gap[lower]
            left = gap >= 0
            active, x = active[left], x[left]
        return best

    def _step(self, x: torch.Tensor, labels: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """The shortest step to a boundary: x [N, ...], labels [N], other classes [N, K] -> [N, ...]."""
        x = x.detach().requires_grad_()
        logits = self.model(x)
        gaps = logits.gather(1, others) - logits.gather(1, labels[:, None])
        sums = gaps.sum(0)
        shortest = torch.full_like(labels, torch.inf, dtype=x.dtype)
        step = torch.zeros_like(x)
        for index, value in enumerate(sums):
            (gradient,) = torch.autograd.grad(value, x, retain_graph=index + 1 < len(sums))
            norm = gradient.flatten(1).norm(dim=1).clamp_min(1e-12)
            distance = gaps[:, index].detach().abs() / norm
            # The authors' code adds the same 1e-4: a step of length zero would stay on the boundary.
            candidate = gradient * per_image((distance + 1e-4) / norm, x)
            nearer = distance < shortest
            step = torch.where(per_image(nearer, x), candidate, step)
            shortest = torch.where(nearer, distance, shortest)
        return step

"""The Square attack, Andriushchenko et al. 2020 (arXiv:1912.00049), algorithm 1 with L-infinity sampling."""

from __future__ import annotations

import torch

from advmerge.attacks.base import TorchAttack, fraction, margin, number, per_image, whole

# Where, in ten thousand queries, the share of the image that a square covers is halved (section 4.2).
_HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


class BatchedSquare(TorchAttack):
    """Random search without gradients: squares of +-eps, kept where they lower the margin.

    It starts from random vertical stripes of +-eps, so every example lies on the ball's surface. One forward pass
    a query, for the images that are still right; stock ART spends three. An image that the model already gets
    wrong is driven on through all queries, as leaving it clean would understate transfer.

    Args:
        eps: radius of the L-infinity ball, in [0, 1] pixels.
        max_iter: queries an image.
        p_init: share of the image that the first squares cover.
    """

    eps: float
    max_iter: int = 5000
    p_init: float = 0.8

    def _check_params(self) -> None:
        super()._check_params()
        number("eps", self.eps)
        whole("max_iter", self.max_iter)
        fraction("p_init", self.p_init)

    @torch.no_grad()
    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        count, channels, height, width = images.shape
        wrong = margin(self.model(images), labels) < 0
        best = (images + self.eps * _signs(count, channels, 1, width).to(images.device)).clamp(0, 1)
        lowest = margin(self.model(best), labels)
        for query in range(1, self.max_iter):
            rows = ((lowest >= 0) | wrong).nonzero()[:, 0]
            if not len(rows):
                break
            side = self._side(query, height, width)
            square = _squares(len(rows), height, width, side).to(images.device)
            colour = self.eps * _signs(len(rows), channels, 1, 1).to(images.device)
            x = torch.where(square, (images[rows] + colour).clamp(0, 1), best[rows])
            gap = margin(self.model(x), labels[rows])
            lower = gap < lowest[rows]
            best[rows] = torch.where(per_image(lower, x), x, best[rows])
            lowest[rows] = torch.where(lower, gap, lowest[rows])
        return best

    def _side(self, query: int, height: int, width: int) -> int:
        """Of the squares of a query, in pixels."""
        halvings = sum(query * 10000 > past * self.max_iter for past in _HALVED)
        side = round((self.p_init * 0.5**halvings * height * width) ** 0.5)
        return max(1, min(side, height, width))


def _signs(*shape: int) -> torch.Tensor:
    """-1 or 1; drawn on the CPU, so that a GPU gets the same."""
    return torch.randint(2, shape) * 2.0 - 1


def _squares(count: int, height: int, width: int, side: int) -> torch.Tensor:
    """A random square for each image, bool [count, 1, height, width]."""
    top = torch.randint(height - side + 1, (count, 1))
    left = torch.randint(width - side + 1, (count, 1))
    down, across = torch.arange(height) - top, torch.arange(width) - left
    inside = ((down >= 0) & (down < side))[:, :, None] & ((across >= 0) & (across < side))[:, None]
    return inside[:, None]

"""The Square attack, Andriushchenko et al. 2020 (arXiv:1912.00049), algorithms 1 to 3."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from advmerge.attacks.base import TorchAttack, euclidean_or_largest, fraction, margin, number, per_image, whole

# Where, in ten thousand queries, the share of the image that a square covers is halved (section 4.2).
_HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


class BatchedSquare(TorchAttack):
    """Random search without gradients: squares are changed, and kept where they lower the margin.

    In L-infinity a square is +-eps, and the start random vertical stripes of +-eps. In L2 a square is given a bump and
    its antipode, at the cost of another's perturbation and of what is left of eps, and the start is a grid of such.
    Every example lies on the ball's surface, but for the limits of pixels. One forward pass a query, for the images
    that are still right; stock ART spends three. An image that the model already gets wrong is driven on through
    all queries, as leaving it clean would understate transfer.

    Args:
        eps: radius of the ball, in [0, 1] pixels.
        norm: inf (also "inf") or 2.
        max_iter: queries an image.
        p_init: share of the image that the first squares cover.
    """

    usual_share: ClassVar[float] = 0.87

    eps: float
    norm: float | str = np.inf
    max_iter: int = 5000
    p_init: float = 0.8

    def _check_params(self) -> None:
        super()._check_params()
        number("eps", self.eps)
        euclidean_or_largest("norm", self.norm)
        whole("max_iter", self.max_iter)
        fraction("p_init", self.p_init)

    @torch.no_grad()
    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        wrong = margin(self.model(images), labels) < 0
        best = self._grid(images) if self.norm == 2 else self._stripes(images)
        lowest = margin(self.model(best), labels)
        for query in range(1, self.max_iter):
            rows = ((lowest >= 0) | wrong).nonzero()[:, 0]
            if not len(rows):
                break
            side = self._side(query, height, width)
            x = (self._bumped if self.norm == 2 else self._coloured)(images[rows], best[rows], side)
            gap = margin(self.model(x), labels[rows])
            lower = gap < lowest[rows]
            best[rows] = torch.where(per_image(lower, x), x, best[rows])
            lowest[rows] = torch.where(lower, gap, lowest[rows])
        return best

    def _stripes(self, images: torch.Tensor) -> torch.Tensor:
        """The start in L-infinity."""
        count, channels, _, width = images.shape
        return (images + self.eps * _signs(count, channels, 1, width).to(images.device)).clamp(0, 1)

    def _coloured(self, images: torch.Tensor, best: torch.Tensor, side: int) -> torch.Tensor:
        """Algorithm 2: a square of +-eps in each channel."""
        count, channels, height, width = images.shape
        square = _squares(count, height, width, side).to(images.device)
        colour = self.eps * _signs(count, channels, 1, 1).to(images.device)
        return torch.where(square, (images + colour).clamp(0, 1), best)

    def _grid(self, images: torch.Tensor) -> torch.Tensor:
        """The start in L2: five by five bumps."""
        count, channels, height, width = images.shape
        side = max(1, min(height, width) // 5)
        delta = torch.zeros(images.shape)
        for top in range(0, height - side + 1, side):
            for left in range(0, width - side + 1, side):
                tile = _bump(side) * _signs(count, channels, 1, 1)
                delta[:, :, top : top + side, left : left + side] = tile
        return self._scaled(images, delta.to(images.device))

    def _bumped(self, images: torch.Tensor, best: torch.Tensor, side: int) -> torch.Tensor:
        """Algorithm 3: what two squares hold, and what is unused, goes into the first."""
        count, channels, height, width = images.shape
        side = min(max(3, side), height, width)
        delta = best - images
        there, other = (_corners(count, height, width, side) for _ in range(2))
        taken = _inside(*there, height, width, side) | _inside(*other, height, width, side)
        held = delta.square().mul(taken.to(delta.device)).sum((2, 3))
        unused = (self.eps**2 - delta.square().flatten(1).sum(1)).clamp_min(0)
        available = (held + unused[:, None] / channels).sqrt()

        bump = (_bump(side) * _signs(count, channels, 1, 1)).to(delta.device)
        top, left = (corner.to(delta.device) for corner in there)
        reach = torch.arange(side, device=delta.device)
        at = torch.arange(count, device=delta.device)[:, None, None], (top + reach)[:, :, None], (left + reach)[:, None]
        old = delta[at[0], :, at[1], at[2]].permute(0, 3, 1, 2)
        new = _unit(bump + _unit(old)) * available[:, :, None, None]
        delta = delta.masked_fill(taken.to(delta.device), 0)
        delta[at[0], :, at[1], at[2]] = new.permute(0, 2, 3, 1)
        return self._scaled(images, delta)

    def _scaled(self, images: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        """The images, moved by eps in the direction of delta, in [0, 1]."""
        size = delta.flatten(1).norm(dim=1).clamp_min(1e-12)
        return (images + delta * per_image(self.eps / size, delta)).clamp(0, 1)

    def _side(self, query: int, height: int, width: int) -> int:
        """Of the squares of a query, in pixels."""
        halvings = sum(query * 10000 > past * self.max_iter for past in _HALVED)
        side = round((self.p_init * 0.5**halvings * height * width) ** 0.5)
        return max(1, min(side, height, width))


def _signs(*shape: int) -> torch.Tensor:
    """-1 or 1; drawn on the CPU, so that a GPU gets the same."""
    return torch.randint(2, shape) * 2.0 - 1


def _corners(count: int, height: int, width: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Top and left of a random square for each image, [count, 1] each."""
    return torch.randint(height - side + 1, (count, 1)), torch.randint(width - side + 1, (count, 1))


def _inside(top: torch.Tensor, left: torch.Tensor, height: int, width: int, side: int) -> torch.Tensor:
    """Which pixels lie in the squares, bool [count, 1, height, width]."""
    down, across = torch.arange(height) - top, torch.arange(width) - left
    inside = ((down >= 0) & (down < side))[:, :, None] & ((across >= 0) & (across < side))[:, None]
    return inside[:, None]


def _squares(count: int, height: int, width: int, side: int) -> torch.Tensor:
    """A random square for each image, bool [count, 1, height, width]."""
    return _inside(*_corners(count, height, width, side), height, width, side)


def _unit(windows: torch.Tensor) -> torch.Tensor:
    """Windows [N, C, H, W], each channel of length one; of no length if it was of none."""
    return windows / windows.square().sum((2, 3), keepdim=True).sqrt().clamp_min(1e-12)


def _bump(side: int) -> torch.Tensor:
    """Two peaks of opposite sign, one above or beside the other, [side, side] of length one; equation 2."""

    def peak(height: int, width: int) -> torch.Tensor:
        middle = height // 2, width // 2
        far = torch.maximum((torch.arange(height) - middle[0]).abs()[:, None], (torch.arange(width) - middle[1]).abs())
        rings = 1 / torch.arange(1, max(middle) + 2).float().square()
        found = rings.flip(0).cumsum(0).flip(0)[far]  # each pixel is in the rings from its own outwards
        return found / found.norm()

    half = side // 2
    found = torch.cat([peak(half, side), -peak(side - half, side)]) if half else torch.ones(1, 1)
    found /= found.norm()
    return found.T if torch.rand(()) > 0.5 else found

"""Keeping the smallest perturbation that fools, for the attacks that have no ball."""

from __future__ import annotations

import torch


class Smallest:
    """For each image the smallest success so far, or, before there is one, the iterate of lowest margin.

    Attributes:
        images: [N, ...], the clean ones until something is noted.
        size: of the smallest success, [N]; infinity before there is one.
    """

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images.clone()
        self.size = torch.full((len(images),), torch.inf, dtype=images.dtype, device=images.device)
        self.gap = self.size.clone()

    def note(
        self, rows: torch.Tensor, x: torch.Tensor, fooled: torch.Tensor, size: torch.Tensor, gap: torch.Tensor
    ) -> None:
        """Take in iterates x [M, ...] of the images ``rows`` [M]; a clean image is none.

        Args:
            fooled: which of them succeed, bool [M].
            size: of their perturbations, [M].
            gap: their margins, [M].
        """
        smaller = fooled & (size < self.size[rows])
        stronger = ~fooled & self.size[rows].isinf() & (gap < self.gap[rows]) & (size > 0)
        take = smaller | stronger
        self.images[rows[take]] = x[take]
        self.size[rows[smaller]] = size[smaller]
        self.gap[rows[stronger]] = gap[stronger]

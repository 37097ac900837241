"""What the tests attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from advmerge.attacks.bridge import craft


@dataclass
class Victim:
    """A trained model and images it has not seen: [N, 1, 8, 8] on the 8-bit grid, labels [N]."""

    model: nn.Module
    images: torch.Tensor
    labels: torch.Tensor

    def attacked(self, method: str, batch_size: int = 120, **options: Any) -> torch.Tensor:
        """What an attack makes of the images, [N, 1, 8, 8]."""
        every = self.model, self.images, self.labels
        return craft(*every, method, options, seed=(0,), classes=10, batch_size=batch_size)

    def right(self, count: int) -> Victim:
        """With so many of the images that the model gets right."""
        rows = (~self.fooled(self.images)).nonzero()[:count, 0]
        return Victim(self.model, self.images[rows], self.labels[rows])

    def fooled(self, images: torch.Tensor) -> torch.Tensor:
        """Which images are not their true class, [N]."""
        with torch.no_grad():
            return self.model(images).argmax(1) != self.labels

    def odds(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Log-odds of an error, [N]: orders images as cross-entropy does, but is never zero in float32."""
        column = (self.labels if labels is None else labels)[:, None]
        with torch.no_grad():
            logits = self.model(images)
        return logits.scatter(1, column, -torch.inf).logsumexp(1) - logits.gather(1, column)[:, 0]

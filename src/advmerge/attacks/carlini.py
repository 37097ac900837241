"""What the two attacks of Carlini & Wagner 2017 (arXiv:1608.04644) share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from advmerge.attacks.base import TorchAttack, margin, number, whole


class CarliniAttack(TorchAttack, ABC):
    """Minimise a distance + c * max(Z_y - max_{i != y} Z_i + confidence, 0) by Adam, with a c for each image.

    No ball. The smallest success comes back; for an image never fooled, the iterate with the lowest margin. An image
    that the model already gets wrong (by ``confidence``) comes back unchanged, its smallest perturbation being none.

    Args:
        confidence: by how many logits the wrong class must lead.
        learning_rate: Adam's.
        max_iter: Adam steps a round of the search.
        initial_const: the first c.
    """

    usual_share: ClassVar[float] = 0.78

    confidence: float = 0.0
    learning_rate: float
    max_iter: int = 30
    initial_const: float

    def _check_params(self) -> None:
        super()._check_params()
        number("confidence", self.confidence, inclusive=True)
        number("learning_rate", self.learning_rate)
        whole("max_iter", self.max_iter)
        number("initial_const", self.initial_const)

    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            todo = (~self._fooled(margin(self.model(images), labels))).nonzero()[:, 0]
        result = images.clone()
        if len(todo):
            result[todo] = self._search(images[todo], labels[todo])
        return result

    def _fooled(self, gap: torch.Tensor) -> torch.Tensor:
        return (gap < 0) & (gap <= -self.confidence)

    def _hinge(self, gap: torch.Tensor) -> torch.Tensor:
        """max(margin + confidence, 0), [N]."""
        return (gap + self.confidence).clamp_min(0)

    @abstractmethod
    def _search(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The best for images that are not fooled yet."""


class Adam:
    """Adam's moments, Kingma & Ba 2015 (arXiv:1412.6980), for a batch from which images may drop out.

    A step is rate / ``share`` * ``mean`` / ``size``.

    Attributes:
        mean: of the gradients, running, [N, ...].
        size: root of their running mean square, corrected for its start at zero.
        share: of its full size that ``mean`` has grown to.
    """

    def __init__(self, x: torch.Tensor) -> None:
        self.mean, self._square = torch.zeros_like(x), torch.zeros_like(x)
        self._steps = 0

    def take(self, gradient: torch.Tensor) -> None:
        """Take in a gradient [N, ...]."""
        self._steps += 1
        self.mean = self.mean.lerp(gradient, 0.1)
        self._square = self._square.lerp(gradient.square(), 0.001)
        self.size = (self._square / (1 - 0.999**self._steps)).sqrt() + 1e-8
        self.share = 1 - 0.9**self._steps

    def keep(self, left: torch.Tensor) -> None:
        """Drop all images but those ``left``, bool [N]."""
        self.mean, self._square = self.mean[left], self._square[left]

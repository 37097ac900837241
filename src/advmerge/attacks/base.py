"""What the attacks of ours share: an ART attack that sees torch batches instead of numpy arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import InitVar, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, ClassVar, dataclass_transform

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.estimators.classification import PyTorchClassifier
from torch import nn


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(field,))
@dataclass(kw_only=True, eq=False, repr=False)
class TorchAttack(EvasionAttack, ABC):
    """An untargeted attack on a ``PyTorchClassifier`` with clip values (0, 1) and no ART preprocessing.

    A subclass is a dataclass without being told to: its fields are its options, by keyword, and ART's
    ``attack_params``. It gives :meth:`perturb`, and :meth:`_check_params` where options can be wrong. It calls the
    torch module itself: ART's numpy interface costs copies, its class gradients a backward pass of the batch per
    class. A class that names ``ABC`` among its bases, as this one does, is what attacks share and none itself.

    Args:
        classifier: what is attacked.
        batch_size: images a call of :meth:`perturb`.
    """

    classifier: InitVar[PyTorchClassifier] = field(kw_only=False)
    batch_size: int = 128

    attack_params: ClassVar[list[str]]
    # Of the most passes that it could make, the share that it makes as a rule; measured by benchmarks/plan.py.
    usual_share: ClassVar[float] = 1.0
    _estimator_requirements: ClassVar[tuple[type, ...]] = (PyTorchClassifier,)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(kw_only=True, eq=False, repr=False)(cls)
        cls.attack_params = [*EvasionAttack.attack_params, *(option.name for option in fields(cls))]

    def __post_init__(self, classifier: PyTorchClassifier) -> None:
        super().__init__(estimator=classifier)
        if list(np.ravel(classifier.clip_values)) != [0, 1] or classifier.preprocessing_operations:
            raise ValueError("the classifier must have clip_values (0, 1) and no preprocessing")
        self._check_params()

    def _check_params(self) -> None:
        """Refuse, with ValueError, options that the attack cannot do with; a subclass calls its base's first."""
        whole("batch_size", self.batch_size)

    @classmethod
    def check_model(cls, model: nn.Module) -> None:
        """Refuse, with StudyError, a model that :meth:`perturb` cannot attack: none."""

    @property
    def model(self) -> nn.Module:
        """The module under attack: [N, C, H, W] in [0, 1] -> logits [N, classes]."""
        model = self.estimator.model
        return getattr(model, "whole", model)

    @abstractmethod
    def perturb(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Attack one batch: float32 [N, C, H, W] in [0, 1] and int64 [N] -> float32 of the images' shape."""

    def generate(self, x: np.ndarray, y: np.ndarray | None = None, **kwargs: object) -> np.ndarray:
        """Attack images of any number, ``batch_size`` at a time.

        Args:
            x: [N, C, H, W] in [0, 1].
            y: true labels [N], or one-hot [N, classes]; the model's own predictions if None, as in ART.

        Returns:
            float32, of x's shape, in [0, 1].
        """
        if kwargs:
            raise ValueError(f"{type(self).__name__} does not take {', '.join(kwargs)}")
        if y is None:
            y = self.estimator.predict(x, batch_size=self.batch_size)
        device = self.estimator.device
        images = torch.as_tensor(np.asarray(x, np.float32)).to(device)
        labels = torch.as_tensor(np.asarray(y if np.ndim(y) == 1 else np.argmax(y, axis=1), np.int64)).to(device)
        return self.attack(images, labels).cpu().numpy()

    def attack(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """As :meth:`generate`, for tensors on the classifier's device, which stay there."""
        self.model.eval()
        batches = zip(images.split(self.batch_size), labels.split(self.batch_size), strict=True)
        parts = [self.perturb(*batch).detach().clamp(0, 1) for batch in batches]
        return torch.cat(parts) if len(images) else images


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """True logit less the greatest other, [N, classes] -> [N]; an image is fooled when it is below zero."""
    column = labels[:, None]
    others = logits.scatter(1, column, -torch.inf)
    return logits.gather(1, column)[:, 0] - others.amax(1)


def per_image(values: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Values [N] shaped to broadcast over images [N, ...]."""
    return values.reshape(-1, *[1] * (images.ndim - 1))


def whole(name: str, value: object, least: int = 1) -> None:
    """Refuse, with ValueError, what is not a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")


def number(name: str, value: object, above: float = 0.0, inclusive: bool = False) -> None:
    """Refuse, with ValueError, what is not a finite number above ``above`` (or equal to it, if inclusive)."""
    good = isinstance(value, Real) and not isinstance(value, bool) and np.isfinite(float(value))
    if not good or value < above or (value == above and not inclusive):  # type: ignore[operator]
        raise ValueError(f"{name} must be a number {'of at least' if inclusive else 'above'} {above:g}, not {value!r}")


def fraction(name: str, value: object, inclusive: bool = False) -> None:
    """Refuse, with ValueError, what is not a number in (0, 1] (or [0, 1], if inclusive)."""
    number(name, value, inclusive=inclusive)
    if value > 1:  # type: ignore[operator]
        raise ValueError(f"{name} must be at most 1, not {value!r}")


def euclidean_or_largest(name: str, value: object) -> None:
    """Refuse, with ValueError, a norm other than L2 and L-infinity."""
    if value not in (np.inf, "inf", 2):
        raise ValueError(f"{name} must be inf or 2, not {value!r}")

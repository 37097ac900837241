"""From a torch module and a study's options to adversarial examples, through ART."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from art.attacks.evasion.projected_gradient_descent import projected_gradient_descent_pytorch
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.nn import functional

from advmerge.attacks.base import TorchAttack
from advmerge.attacks.registry import resolve
from advmerge.errors import StudyError
from advmerge.passes import InParts, fitted
from advmerge.seeding import derive

if TYPE_CHECKING:
    from art.attacks.attack import EvasionAttack


class Leaf(nn.Module):
    """A model whose parts ART does not see: it would walk through them all before and after every gradient.

    Attributes:
        whole: the model.
    """

    whole: nn.Module

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.__dict__["whole"] = model  # not as a submodule

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.whole(images)


def art_classifier(
    model: nn.Module, shape: tuple[int, ...], classes: int, device: torch.device | str = "cpu"
) -> PyTorchClassifier:
    """Wrap a module for ART: cross-entropy, pixels in [0, 1], on ``device``.

    The module is changed: put in evaluation mode, and its parameters frozen, because ART would otherwise spend
    about a third of its time on gradients of parameters.

    Args:
        model: [N, *shape] in [0, 1] -> logits [N, classes]; normalisation is inside.
        shape: of one image, (C, H, W).
        device: any of torch's.
    """
    device = torch.device(device)
    if next((parameter.device for parameter in model.parameters()), device) != device:
        model.to(device)  # ART sees no module that it could move; a move to where it is takes as long as any
    model.eval().requires_grad_(False)
    cuda = device.type == "cuda"
    # ART's "gpu" is the current device, whichever that is.
    with torch.cuda.device(device) if cuda else nullcontext():
        classifier = PyTorchClassifier(
            model=Leaf(model),
            loss=nn.CrossEntropyLoss(),
            input_shape=shape,
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            preprocessing=None,
            device_type="gpu" if cuda else "cpu",
        )
    if device.type not in ("cpu", "cuda"):  # which are all that ART has words for: it then took the CPU
        classifier._device = device
    return classifier


def build(method: str, classifier: PyTorchClassifier, options: Mapping[str, Any], **defaults: Any) -> EvasionAttack:
    """Construct an attack, silent; ``defaults`` are given where it takes them and the options do not."""
    attack = resolve(method)
    keywords = signature(attack).parameters
    given = {"verbose": False, **defaults}
    return attack(classifier, **{key: given[key] for key in given if key in keywords} | dict(options))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, numpy and torch, and put back their states afterwards.

    ART takes no generator: its random starts come from numpy's global one, a few attacks use the others.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        if devices:  # else torch would trace the stack, in case there is a GPU some day
            torch.cuda.manual_seed(seed)
        if torch.backends.mps.is_available():
            torch.mps.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def unlogged() -> Iterator[None]:
    """Spare ART's PGD the two forward passes of every image that it makes for one log line, logged or not."""
    success = projected_gradient_descent_pytorch.compute_success
    projected_gradient_descent_pytorch.compute_success = lambda *args, **kwargs: float("nan")
    try:
        yield
    finally:
        projected_gradient_descent_pytorch.compute_success = success


def craft(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    method: str,
    options: Mapping[str, Any],
    *,
    seed: tuple[Any, ...],
    classes: int,
    batch_size: int,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> torch.Tensor:
    """Attack a model with the true labels, a chunk at a time.

    Args:
        model: see :func:`art_classifier`, which changes it; attacked on the device of its parameters.
        images: float32 [N, C, H, W] in [0, 1].
        labels: int64 [N].
        method: the name of an attack, see :func:`advmerge.attacks.resolve`.
        options: keywords of its constructor.
        seed: the study's seed and what is drawn for; chunk i draws from ``derive(*seed, i)``, so a chunk's
            result depends on no other, but a random attack's does on ``batch_size``.
        batch_size: images a chunk, and the attack's own ``batch_size`` unless the options give one; passes through
            the model are of fewer where memory is short, see :mod:`advmerge.passes`.
        progress: wraps the sequence of chunks, such as ``tqdm``.

    Returns:
        float32 on the CPU, of the images' shape, in [0, 1]. NaNs pass through, for :func:`check_budget`.

    Raises:
        StudyError: not even one image a pass fits into memory.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    images, labels = images.detach().to(device, torch.float32), labels.to(device)

    @cache
    def classify(most: int) -> PyTorchClassifier:
        limited = model if most == batch_size else InParts(model, most)
        return art_classifier(limited, tuple(images.shape[1:]), classes, device)

    def pair() -> None:
        two = images[:2].clone().requires_grad_()
        torch.autograd.grad(model(two).sum(), two)

    classify(batch_size)  # which freezes the model, before a pass of it is measured
    result = torch.empty(images.shape, dtype=torch.float32)
    for chunk in progress(range(-(-len(images) // batch_size))):
        part = slice(chunk * batch_size, (chunk + 1) * batch_size)

        def attacked(most: int, part: slice = part, chunk: int = chunk) -> torch.Tensor:
            classifier = classify(most)
            with seeded(derive(*seed, chunk)):
                attack = build(method, classifier, options, batch_size=batch_size)
                if isinstance(attack, TorchAttack):
                    return attack.attack(images[part], labels[part])
                # One-hot, because ART guesses at the meaning of plain labels when there are two classes.
                y = functional.one_hot(labels[part], classes).float().cpu().numpy()
                with unlogged():
                    return torch.from_numpy(attack.generate(x=images[part].cpu().numpy(), y=y))

        result[part] = fitted(model, batch_size, attacked, pair)
    return result.clamp_(0, 1)


def check_budget(
    clean: torch.Tensor, adversarial: torch.Tensor, eps: float | None = None, norm: float | str = np.inf
) -> None:
    """Hold examples to what they claim: finite, in [0, 1], and within ``eps`` of the clean images.

    Args:
        clean, adversarial: [N, ...] of one shape.
        eps: radius of the ball, in [0, 1] pixels; None for an attack that has none.
        norm: p of the ball, inf or "inf" or a number of at least 1.

    Raises:
        StudyError: a sentence with the number of images at fault and the worst value.
    """
    if clean.shape != adversarial.shape:
        raise StudyError(f"examples have shape {tuple(adversarial.shape)}, images {tuple(clean.shape)}")
    flat = adversarial.flatten(1)
    if bad := int((~flat.isfinite()).any(1).sum()):
        raise StudyError(f"{bad} of {len(flat)} adversarial examples are not finite")
    if bad := int(((flat < 0) | (flat > 1)).any(1).sum()):
        raise StudyError(f"{bad} of {len(flat)} adversarial examples leave [0, 1]")
    if eps is None or not len(flat):
        return
    distance = torch.linalg.vector_norm(flat.double() - clean.flatten(1).double(), ord=float(norm), dim=1)
    if bad := int((distance > eps + 1e-6).sum()):
        raise StudyError(
            f"{bad} of {len(flat)} adversarial examples leave the L{norm} ball of {eps:g}; "
            f"the farthest is at {distance.max():g}"
        )

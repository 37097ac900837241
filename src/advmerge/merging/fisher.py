"""Fisher merging: each parameter weighted by how much the expert's predictions depend on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from advmerge.merging import Adaptation, Count, Range, Seen, Shapes, register
from advmerge.merging.files import floating
from advmerge.models import to_unit
from advmerge.seeding import torch_generator


def diagonal(
    classifier: nn.Module, state: Mapping[str, Tensor], images: Iterable[Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """Mean over images of the squared gradient of log p(y | x), y drawn from the model's own p.

    Args:
        classifier: its ``encoder`` is run with ``state``.
        state: parameter name → tensor.
        images: uint8 [C, H, W] each.
        generator: of the draws of y.
    """
    place = next(classifier.parameters()).device
    leaves = {name: tensor.detach().float().to(place).requires_grad_() for name, tensor in state.items()}
    found = {name: torch.zeros_like(leaf, requires_grad=False) for name, leaf in leaves.items()}
    count = 0
    for image in images:
        inputs = to_unit(image[None]).to(place)
        logits = functional_call(classifier, {f"encoder.{n}": t for n, t in leaves.items()}, (inputs,))
        chances = logits.log_softmax(1)[0]
        drawn = int(torch.multinomial(chances.detach().exp().cpu(), 1, generator=generator))
        gradients = torch.autograd.grad(chances[drawn], list(leaves.values()), allow_unused=True)
        for name, gradient in zip(leaves, gradients, strict=True):
            if gradient is not None:
                found[name] += gradient.square()
        count += 1
    return {name: (tensor / count).cpu() for name, tensor in found.items()}


def passed(tasks: int, shapes: Shapes, *, images: int, **_: Any) -> Seen:
    """What :func:`fisher` passes, one image at a time."""
    del shapes
    return Seen(images * tasks, images * tasks)


@register("fisher", data="labelled", seen=passed)
def fisher(
    pretrained: Mapping[str, Tensor],
    finetuned: Mapping[str, Mapping[str, Tensor]],
    tasks: Mapping[str, Adaptation],
    seed: int,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    *,
    images: Count = 256,
    floor: Annotated[float, Range(1e-30, 1)] = 1e-6,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Fisher merging: Σ_t F_t ⊙ θ_t / Σ_t F_t with F_t the diagonal of expert t's Fisher information.

    Matena & Raffel, "Merging Models with Fisher-Weighted Averaging", NeurIPS 2022. F = E_x E_{y~p(y|x)} of the
    squared gradient of log p(y|x), one y drawn an image. The images are training images; their labels are not used.

    Args:
        pretrained: gives names and types.
        finetuned: task → θ_t.
        tasks: task → its images.
        seed: of the draws of images and of y.
        progress: wraps the images of all tasks.
        images: a task.
        floor: added to every F, so that a parameter that no task depends on is averaged.

    Returns:
        The merged tensors, and the mean of each task's F.
    """
    names = floating(pretrained)
    weighted = {name: torch.zeros(pretrained[name].shape) for name in names}
    weights = {name: torch.zeros(pretrained[name].shape) for name in names}
    facts = {}
    for task, seen in tasks.items():
        generator = torch_generator(seed, "fisher", task)
        chosen = torch.randperm(len(seen.images), generator=generator)[:images].tolist()
        state = {name: finetuned[task][name] for name in names}
        found = diagonal(seen.classifier, state, (seen.images[i] for i in progress(chosen)), generator)
        facts[task] = float(torch.cat([tensor.flatten() for tensor in found.values()]).mean())
        for name in names:
            weights[name] += found[name] + floor
            weighted[name] += (found[name] + floor) * state[name].float()
    merged = {name: tensor.clone() for name, tensor in pretrained.items()}
    merged |= {name: (weighted[name] / weights[name]).to(pretrained[name].dtype) for name in names}
    return merged, {"mean_fisher": facts}

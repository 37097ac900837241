"""Representation surgery on top of any merged encoder: on its features, or after each of its blocks too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advmerge.errors import StudyError
from advmerge.merging import Count, Rate, Seen, Steps, options_of
from advmerge.models import Surgery, blocks_of, operate_blocks, predict, to_unit
from advmerge.passes import in_parts, slopes
from advmerge.seeding import torch_generator

Kind = Literal["final", "deep"]
Answers = Callable[[Tensor], list[Tensor]]
Progress = Callable[[Iterable[int]], Iterable[int]]


@contextmanager
def pooled(encoder: nn.Module) -> Iterator[list[Tensor]]:
    """Collects, while it is open, the mean over tokens of what each block gives, [N, width], surgery included."""
    found: list[Tensor] = []

    def keep(block: nn.Module, _: object, tokens: Tensor) -> None:
        if tokens.ndim != 3:
            raise StudyError(
                f"deep surgery goes on tokens [N, L, width]; {type(block).__name__} gives {tokens.ndim} axes"
            )
        found.append(tokens.mean(1))

    hooks = [block.register_forward_hook(keep) for block in blocks_of(encoder)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def depths(encoder: nn.Module, normalise: nn.Module, images: Tensor) -> list[Tensor]:
    """The pooled tokens after each block and the features, [N, width] each, of uint8 images."""
    place = next(encoder.parameters()).device
    with pooled(encoder) as found:
        features = encoder(normalise(to_unit(images.to(place))))
    return [*found, features]


def distance(answers: Answers, targets: list[Tensor], index: Tensor) -> Tensor:
    """Σ over depths of the mean absolute difference, of the images of these indices."""
    pairs = zip(answers(index), targets, strict=True)
    return torch.stack([F.l1_loss(answer, target[index]) for answer, target in pairs]).sum()


@torch.inference_mode()
def whole_distance(model: nn.Module, answers: Answers, targets: list[Tensor]) -> float:
    """:func:`distance` of all images, some at a time."""
    every = torch.arange(len(targets[0]))

    def summed(parts: list[slice]) -> float:
        return sum(float(distance(answers, targets, every[part])) * len(every[part]) for part in parts)

    return in_parts(model, len(every), 256, summed) / len(every)


def operate(
    merged: nn.Module,
    expert: nn.Module,
    normalise: nn.Module,
    images: Tensor,
    seed: int,
    task: str,
    progress: Progress = iter,
    *,
    kind: Kind = "final",
    rank: Count = 16,
    steps: Steps = 500,
    lr: Rate = 1e-3,
    batch: Count = 16,
) -> tuple[dict[str, Surgery], dict[str, float]]:
    """Train one task's surgery modules to pull the merged representation onto the expert's: L1 distance, Adam.

    Yang et al., "Representation Surgery for Multi-Task Model Merging", ICML 2024, eq. 4–5: one module on the
    features. Yang et al., "SurgeryV2: Bridging the Gap Between Model Merging and Multi-Task Learning with Deep
    Representation Surgery", 2024: one after every block too, on all tokens, and what it gives goes on to the next
    block; the loss adds up the distances of the features and, as in the authors' code, of each block's mean token.

    Args:
        merged: the merged encoder; deep surgery freezes it and leaves its modules in it.
        expert: the task's expert.
        normalise: what comes before the encoders; on their device.
        images: uint8 [N, C, H, W], unlabelled.
        seed: of the initial weights and the draws of batches.
        task: whose modules these are; part of the seed.
        progress: wraps the steps.
        kind: ``final`` (the features alone) or ``deep``.
        rank: width of a module.
        steps: of Adam.
        lr: Adam's learning rate.
        batch: images a step.

    Returns:
        The modules on the CPU: "" on the features, "blocks.<i>." after a block; the distance before and after.

    Raises:
        StudyError: deep surgery on an encoder that has no blocks of tokens.
    """
    generator = torch_generator(seed, "surgery", task)
    place = next(merged.parameters()).device
    if kind == "final":
        features = predict(nn.Sequential(normalise, merged), images, 256)
        targets = [predict(nn.Sequential(normalise, expert), images, 256)]
        modules = {"": Surgery(features.shape[1], rank, generator)}

        def answers(index: Tensor) -> list[Tensor]:
            return [modules[""](features[index])]
    else:
        with torch.no_grad():
            every = in_parts(
                expert, len(images), 256, lambda parts: [depths(expert, normalise, images[part]) for part in parts]
            )
        targets = [torch.cat(depth) for depth in zip(*every, strict=True)]
        names = [*(f"blocks.{index}." for index in range(len(targets) - 1)), ""]
        modules = {n: Surgery(t.shape[1], rank, generator).to(place) for n, t in zip(names, targets, strict=True)}
        operate_blocks(merged.requires_grad_(False), [modules[name] for name in names[:-1]])

        def answers(index: Tensor) -> list[Tensor]:
            *hidden, features = depths(merged, normalise, images[index])
            return [*hidden, modules[""](features)]

    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=lr)
    before = whole_distance(merged, answers, targets)
    for _ in progress(range(steps)):
        index = torch.randint(len(images), (batch,), generator=generator)

        def loss(part: slice, index: Tensor = index) -> Iterator[Tensor]:
            yield len(index[part]) / batch * distance(answers, targets, index[part])

        slopes(merged, parameters, batch, loss)
        optimiser.step()
    facts = {"distance_before": before, "distance_after": whole_distance(merged, answers, targets)}
    return {name: module.cpu().requires_grad_(False) for name, module in modules.items()}, facts


def passed(images: int, tasks: int, options: Mapping[str, Any]) -> Seen:
    """What :func:`operate` passes of all tasks, each of so many images; training on features passes none."""
    chosen = {**{name: option.default for name, option in options_of(operate).items()}, **options}
    if chosen["kind"] == "final":
        return Seen(2 * images * tasks, 0)
    steps = chosen["steps"] * chosen["batch"]
    return Seen((3 * images + steps) * tasks, steps * tasks)

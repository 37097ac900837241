"""Selective learning: which entries of each expert take part is learned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from advmerge.errors import StudyError
from advmerge.merging import Adaptation, Count, Rate, Seen, Shapes, Share, Steps, register
from advmerge.merging.files import floating
from advmerge.merging.selection import largest
from advmerge.merging.sparse import thresholds
from advmerge.models import to_unit
from advmerge.passes import slopes
from advmerge.seeding import torch_generator

Tensors = Mapping[str, Tensor]
START = 5.0  # sigmoid(±5) is 0.993 and 0.007


def localise(
    classifier: nn.Module,
    pretrained: Tensors,
    vector: Tensors,
    scores: Tensors,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    *,
    steps: Iterable[int],
    lr: float,
    batch: int,
) -> dict[str, Tensor]:
    """S that lowers the cross-entropy of θ_0 + sigmoid(S) ⊙ τ, by Adam.

    Args:
        classifier: of the task; its ``encoder`` runs with the masked weights.
        pretrained: θ_0, float32.
        vector: τ.
        scores: S at the start.
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        generator: of the draws of batches.
        steps: one of Adam each.
        lr: Adam's learning rate.
        batch: images a step.
    """
    place = next(classifier.parameters()).device
    learned = {name: score.clone().to(place).requires_grad_() for name, score in scores.items()}
    base, direction = ({n: tensors[n].to(place) for n in learned} for tensors in (pretrained, vector))
    optimiser = torch.optim.Adam(list(learned.values()), lr=lr)
    for _ in steps:
        index = torch.randint(len(images), (batch,), generator=generator)

        def loss(part: slice, index: Tensor = index) -> Iterator[Tensor]:
            state = {f"encoder.{n}": base[n] + score.sigmoid() * direction[n] for n, score in learned.items()}
            logits = functional_call(classifier, state, (to_unit(images[index[part]]).to(place),))
            yield functional.cross_entropy(logits, labels[index[part]].to(place), reduction="sum") / batch

        slopes(classifier, learned.values(), batch, loss)
        optimiser.step()
    return {name: score.detach().cpu() for name, score in learned.items()}


def kth_largest(scores: Tensors, count: int) -> float:
    """The ``count``-th largest entry of a whole model; infinite for none."""
    return largest(lambda: ([tensor] for tensor in scores.values()), [[count]])[0][0] if count else float("inf")


def passed(tasks: int, shapes: Shapes, *, steps: int, batch: int, **_: Any) -> Seen:
    """What :func:`localise` passes, of all tasks."""
    del shapes
    return Seen(steps * batch * tasks, steps * batch * tasks)


@register("selective_learning", data="labelled", seen=passed)
def selective_learning(
    pretrained: Tensors,
    finetuned: Mapping[str, Tensors],
    tasks: Mapping[str, Adaptation],
    seed: int,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    *,
    keep: Share = 0.05,
    images: Count = 512,
    steps: Steps = 100,
    lr: Rate = 0.1,
    batch: Count = 64,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Selective learning, read as Localize-and-Stitch: θ_0 + Σ_t m_t ⊙ τ_t / max(1, Σ_t m_t), the masks m_t learned.

    Our reading of a name that has no paper of its own: an expert gives only the entries that it was learned to need.
    He et al., "Localize-and-Stitch: Efficient Model Merging via Sparse Task Arithmetic", TMLR 2024, eq. 2–4: S_t
    minimises the cross-entropy of θ_0 + sigmoid(S_t) ⊙ τ_t on a few labelled images; it starts at 5 for the entries of
    greatest magnitude and at −5 for the rest. m_t is the ``keep`` share of greatest S_t over the whole model, where the
    paper rounds sigmoid(S_t) and an L1 penalty sets the share. Without steps it is the paper's version without data.

    Args:
        pretrained: θ_0.
        finetuned: task → θ_t.
        tasks: task → its labelled training images.
        seed: of the draws of images and batches.
        progress: wraps the steps of each task.
        keep: share of each expert's entries that take part; 0.01 in the paper, 0.05 without data.
        images: a task.
        steps: of Adam a task.
        lr: Adam's learning rate for S.
        batch: images a step.

    Returns:
        The merged tensors, and the share of entries of each task's mask that magnitude alone would have chosen too.

    Raises:
        StudyError: a task has no labels.
    """
    names = floating(pretrained)
    base = {name: pretrained[name].float() for name in names}
    count = int(-(-keep * sum(tensor.numel() for tensor in base.values()) // 1))
    summed = {name: torch.zeros_like(tensor) for name, tensor in base.items()}
    taken = {name: torch.zeros_like(tensor) for name, tensor in base.items()}
    agreed = {}
    for task, seen in tasks.items():
        if seen.labels is None:
            raise StudyError(f"merging method 'selective_learning' needs labels; the task '{task}' has none")
        vector = {name: finetuned[task][name].float() - base[name] for name in names}
        (least,) = thresholds(pretrained, {task: finetuned[task]}, seed, keep=keep)["thresholds"]
        scores = {name: torch.where(vector[name].abs() >= least, START, -START) for name in names}
        generator = torch_generator(seed, "selective_learning", task)
        chosen = torch.randperm(len(seen.images), generator=generator)[:images]
        pixels, labels = seen.images[chosen], seen.labels[chosen]
        each = progress(range(steps))
        learned = localise(
            seen.classifier, base, vector, scores, pixels, labels, generator, steps=each, lr=lr, batch=batch
        )
        bound = kth_largest(learned, count)
        both = 0
        for name in names:
            mask = learned[name] >= bound
            summed[name] += vector[name].where(mask, 0)
            taken[name] += mask
            both += int((mask & (scores[name] > 0)).sum())
        agreed[task] = both / max(count, 1)
    merged = {name: tensor.clone() for name, tensor in pretrained.items()}
    merged |= {n: (base[n] + summed[n] / taken[n].clamp(min=1)).to(pretrained[n].dtype) for n in names}
    return merged, {"chosen_by_magnitude_too": agreed}

"""AdaMerging: coefficients learned by minimising the entropy of predictions on unlabelled images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call

from advmerge.merging import Adaptation, Count, Range, Rate, Seen, Shapes, Share, Steps, register
from advmerge.merging.sparse import task_vectors, thresholds, trim
from advmerge.models import to_unit
from advmerge.passes import slopes
from advmerge.seeding import torch_generator

Coefficients = Literal["layer", "task"]
Tensors = Mapping[str, Tensor]
Merged = tuple[dict[str, Tensor], dict[str, Any]]
Progress = Callable[[Iterable[int]], Iterable[int]]


def learn(
    pretrained: Tensors,
    vectors: Mapping[str, Tensor],
    tasks: Mapping[str, Adaptation],
    generator: torch.Generator,
    progress: Progress,
    sigmoid: bool,
    *,
    coefficients: Coefficients = "layer",
    initial: Share = 0.3,
    lr: Rate = 1e-3,
    steps: Steps = 500,
    batch: Count = 16,
) -> Merged:
    """θ_0 + Σ_t λ_t v_t with λ minimising Σ_t of the mean prediction entropy on unlabelled images, by Adam.

    Args:
        pretrained: θ_0.
        vectors: tensor name → v [T, …], float32, in the order of ``tasks``.
        tasks: task → what may be seen of it.
        generator: of the draws of batches.
        progress: wraps the steps.
        sigmoid: learn w with λ = sigmoid(w); else learn λ itself, clamped to [0, 1] after each step.
        coefficients: one λ per ``layer`` (tensor) and task, or one per ``task``.
        initial: first value of every λ.
        lr: Adam's learning rate.
        steps: of Adam, each on ``batch`` images of every task.
        batch: images a task a step.

    Returns:
        The merged tensors, and the learned ``coefficients``: task → one value a tensor, or one in all.
    """
    model = next(iter(tasks.values())).classifier
    device = next(model.parameters()).device
    names = list(vectors)
    base = {name: pretrained[name].float().to(device) for name in names}
    directions = {name: vector.to(device) for name, vector in vectors.items()}
    shape = (len(tasks), len(names) if coefficients == "layer" else 1)
    first = torch.full(shape, initial, device=device)
    weights = (first.logit() if sigmoid else first).requires_grad_()
    optimiser = torch.optim.Adam([weights], lr=lr)

    def merged() -> dict[str, Tensor]:
        columns = (weights.sigmoid() if sigmoid else weights).expand(len(tasks), len(names))
        return {n: base[n] + torch.tensordot(columns[:, i], directions[n], 1) for i, n in enumerate(names)}

    for _ in progress(range(steps)):
        # Leaves cut the graph at the merged weights: the encoder's backward runs once a task, the merge's once.
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in merged().items()}
        drawn = [(t, torch.randint(len(t.images), (batch,), generator=generator)) for t in tasks.values()]

        def entropies(
            part: slice, leaves: Tensors = leaves, drawn: list[tuple[Adaptation, Tensor]] = drawn
        ) -> Iterator[Tensor]:
            for task, index in drawn:
                images = to_unit(task.images[index[part]]).to(device)
                logits = functional_call(task.classifier, {f"encoder.{n}": t for n, t in leaves.items()}, (images,))
                probabilities = logits.log_softmax(1)
                yield -(probabilities.exp() * probabilities).sum() / batch

        slopes(model, leaves.values(), batch, entropies)
        optimiser.zero_grad(set_to_none=True)
        outputs = merged()
        used = [name for name in names if leaves[name].grad is not None]
        torch.autograd.backward([outputs[n] for n in used], [leaves[n].grad for n in used])
        optimiser.step()
        if not sigmoid:
            with torch.no_grad():
                weights.clamp_(0, 1)
    result = {name: tensor.clone() for name, tensor in pretrained.items()}
    with torch.no_grad():
        result |= {name: tensor.to(pretrained[name].dtype).cpu() for name, tensor in merged().items()}
        learned = (weights.sigmoid() if sigmoid else weights).cpu()
    return result, {"coefficients": {task: learned[i].tolist() for i, task in enumerate(tasks)}}


def passed(tasks: int, shapes: Shapes, *, steps: int, batch: int, **_: Any) -> Seen:
    """What :func:`learn` passes."""
    del shapes
    return Seen(steps * batch * tasks, steps * batch * tasks)


def plain_vectors(pretrained: Tensors, finetuned: Mapping[str, Tensors], tasks: Iterable[str]) -> dict[str, Tensor]:
    """Tensor name → τ [T, …], in the order of ``tasks``."""
    ordered = {task: finetuned[task] for task in tasks}
    return {name: torch.stack(vectors) for name, vectors in task_vectors(pretrained, ordered)}


@register("adamerging", data="unlabelled", rest=learn, seen=passed)
def adamerging(
    pretrained: Tensors,
    finetuned: Mapping[str, Tensors],
    tasks: Mapping[str, Adaptation],
    seed: int,
    progress: Progress = iter,
    **options: Any,
) -> Merged:
    """AdaMerging: θ_0 + Σ_t λ_t τ_t with λ minimising Σ_t of the mean prediction entropy on unlabelled images.

    Yang et al., "AdaMerging: Adaptive Model Merging for Multi-Task Learning", ICLR 2024, eq. 5–7. The paper adapts
    on the test images; here the images are disjoint from those tested and attacked.

    Args:
        pretrained: θ_0.
        finetuned: task → θ_t.
        tasks: task → what may be seen of it.
        seed: of the draws of batches.
        progress: wraps the steps.
        options: of :func:`learn`.

    Returns:
        The merged tensors, and the learned ``coefficients``: task → one value a tensor.
    """
    vectors = plain_vectors(pretrained, finetuned, tasks)
    return learn(pretrained, vectors, tasks, torch_generator(seed, "adamerging"), progress, False, **options)


@register("adamerging_plus", data="unlabelled", rest=learn, seen=passed)
def adamerging_plus(
    pretrained: Tensors,
    finetuned: Mapping[str, Tensors],
    tasks: Mapping[str, Adaptation],
    seed: int,
    progress: Progress = iter,
    *,
    keep: Share = 0.2,
    **options: Any,
) -> Merged:
    """AdaMerging++: AdaMerging on the task vectors that TIES leaves, trimmed and of the elected sign.

    Yang et al., "AdaMerging: Adaptive Model Merging for Multi-Task Learning", ICLR 2024, section 3.3. With every
    coefficient equal to λ it is TIES' sum. Arguments as in :func:`adamerging`, and:

    Args:
        keep: share of each task vector's entries that TIES keeps, over the whole model.
    """
    ordered = {task: finetuned[task] for task in tasks}
    limits = thresholds(pretrained, ordered, seed, keep=keep)["thresholds"]
    vectors = {}
    for name, parts in task_vectors(pretrained, ordered):
        stacked = torch.stack([trim(part, limit) for part, limit in zip(parts, limits, strict=True)])
        vectors[name] = stacked.where(stacked.sign() == stacked.sum(0).sign(), 0)
    return learn(pretrained, vectors, tasks, torch_generator(seed, "adamerging"), progress, False, **options)


@register("sigmoid_weighted", data="unlabelled", rest=learn, seen=passed)
def sigmoid_weighted(
    pretrained: Tensors,
    finetuned: Mapping[str, Tensors],
    tasks: Mapping[str, Adaptation],
    seed: int,
    progress: Progress = iter,
    *,
    coefficients: Coefficients = "task",
    initial: Annotated[float, Range(0.001, 0.999)] = 0.3,
    lr: Rate = 1e-2,
    **options: Any,
) -> Merged:
    """Sigmoid-weighted averaging: AdaMerging with λ = sigmoid(w), w free, in place of the clamp to [0, 1].

    Our reading of the name; the objective is that of Yang et al., ICLR 2024, eq. 5–7. Arguments as in
    :func:`adamerging`, with other defaults:

    Args:
        coefficients: one per ``task``, or one per ``layer`` (tensor) and task.
        initial: first value of every λ; w starts at its logit.
        lr: Adam's learning rate for w.
    """
    vectors, generator = plain_vectors(pretrained, finetuned, tasks), torch_generator(seed, "sigmoid_weighted")
    options |= {"coefficients": coefficients, "initial": initial, "lr": lr}
    return learn(pretrained, vectors, tasks, generator, progress, True, **options)

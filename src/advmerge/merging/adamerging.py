"""AdaMerging: coefficients learned by minimising the entropy of predictions on unlabelled images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from advmerge.merging import Adaptation, register
from advmerge.models import to_unit
from advmerge.seeding import torch_generator


@register("adamerging", data="unlabelled")
def adamerging(
    pretrained: Mapping[str, Tensor],
    finetuned: Mapping[str, Mapping[str, Tensor]],
    tasks: Mapping[str, Adaptation],
    seed: int,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    *,
    coefficients: str = "layer",
    initial: float = 0.3,
    lr: float = 1e-3,
    steps: int = 500,
    batch: int = 16,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """AdaMerging: θ_0 + Σ_t λ_t τ_t with λ minimising Σ_t of the mean prediction entropy on unlabelled images.

    Yang et al., "AdaMerging: Adaptive Model Merging for Multi-Task Learning", ICLR 2024, eq. 5–7. The paper adapts
    on the test images; here the images are disjoint from those tested and attacked.

    Args:
        pretrained: θ_0.
        finetuned: task → θ_t.
        tasks: task → what may be seen of it.
        seed: of the draws of batches.
        progress: wraps the steps.
        coefficients: one per ``layer`` (tensor) and task, or one per ``task``.
        initial: first value of every coefficient; they stay in [0, 1].
        lr: Adam's learning rate.
        steps: of Adam, each on ``batch`` images of every task.
        batch: images a task a step.

    Returns:
        The merged tensors, and the learned ``coefficients``: task → one value a tensor.
    """
    device = next(iter(next(iter(tasks.values())).classifier.parameters())).device
    names = [name for name, tensor in pretrained.items() if tensor.is_floating_point()]
    base = {name: pretrained[name].float().to(device) for name in names}
    vectors = {name: torch.stack([finetuned[t][name].float().to(device) - base[name] for t in tasks]) for name in names}
    shape = (len(tasks), len(names) if coefficients == "layer" else 1)
    weights = torch.full(shape, initial, device=device, requires_grad=True)
    optimiser = torch.optim.Adam([weights], lr=lr)
    generator = torch_generator(seed, "adamerging")

    def merged() -> dict[str, Tensor]:
        columns = weights.expand(len(tasks), len(names))
        return {n: base[n] + torch.tensordot(columns[:, i], vectors[n], 1) for i, n in enumerate(names)}

    for _ in progress(range(steps)):
        # Leaves cut the graph at the merged weights: the encoder's backward runs once a task, the merge's once.
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in merged().items()}
        for task in tasks.values():
            index = torch.randint(len(task.images), (batch,), generator=generator)
            images = to_unit(task.images[index]).to(device)
            logits = functional_call(task.classifier, {f"encoder.{n}": t for n, t in leaves.items()}, (images,))
            probabilities = logits.log_softmax(1)
            (-(probabilities.exp() * probabilities).sum(1).mean()).backward()
        optimiser.zero_grad(set_to_none=True)
        outputs = merged()
        used = [name for name in names if leaves[name].grad is not None]
        torch.autograd.backward([outputs[n] for n in used], [leaves[n].grad for n in used])
        optimiser.step()
        with torch.no_grad():
            weights.clamp_(0, 1)
    result = {name: tensor.clone() for name, tensor in pretrained.items()}
    with torch.no_grad():
        result |= {name: tensor.to(pretrained[name].dtype).cpu() for name, tensor in merged().items()}
    learned = weights.detach().cpu()
    return result, {"coefficients": {task: learned[i].tolist() for i, task in enumerate(tasks)}}

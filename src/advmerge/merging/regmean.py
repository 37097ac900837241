"""RegMean and RegMean++: linear layers that answer as the experts' do, in least squares."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from advmerge.merging import Adaptation, Count, Seen, Shapes, Share, register
from advmerge.merging.files import floating
from advmerge.merging.linear import total
from advmerge.models import to_unit
from advmerge.passes import in_parts
from advmerge.seeding import torch_generator

Tensors = Mapping[str, Tensor]
Merged = tuple[dict[str, Tensor], dict[str, Any]]
Progress = Callable[[Iterable[str]], Iterable[str]]


def linear_layers(encoder: nn.Module, names: Iterable[str]) -> dict[str, nn.Linear]:
    """Weight's name → module, of every ``nn.Linear`` whose weight is merged.

    timm's fused query-key-value projection is one of them. A weight that its module uses in another way (that of
    ``nn.MultiheadAttention``, a convolution's) is not: it is averaged.
    """
    merged = set(names)
    found = {f"{name}.weight": module for name, module in encoder.named_modules() if isinstance(module, nn.Linear)}
    return {name: module for name, module in found.items() if name in merged}


@torch.no_grad()
def grams(
    classifier: nn.Module, state: Tensors, images: Tensor, layers: Mapping[str, nn.Module], batch: int = 64
) -> dict[str, Tensor]:
    """XᵀX of the inputs X of each layer, per image, float64 [in, in], with the encoder's tensors set to ``state``.

    Args:
        classifier: holds the layers in its ``encoder``.
        state: tensor name → tensor.
        images: uint8 [N, C, H, W].
        layers: name → module whose inputs are wanted.
        batch: images at a time.
    """
    place = next(classifier.parameters()).device
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].reshape(-1, inputs[0].shape[-1])
            gram = (rows.T @ rows).cpu().double() / len(images)  # Apple's GPUs have no float64
            found[name] = found[name] + gram if name in found else gram

        return add

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    wide = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    tensors = {f"encoder.{name}": tensor.to(place) for name, tensor in wide.items()}

    def passed(parts: list[slice]) -> None:
        found.clear()
        for part in parts:
            functional_call(classifier, tensors, (to_unit(images[part]).to(place),))

    try:
        in_parts(classifier, len(images), batch, passed)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def solve(weights: list[Tensor], found: list[Tensor], shrink: float) -> Tensor:
    """argmin_W Σ_t ‖X_t (Wᵀ − W_tᵀ)‖² with each Gram matrix's off-diagonal entries times ``shrink``.

    A millionth of the mean diagonal is added to each diagonal, so that directions that no input has are averaged.

    Args:
        weights: W_t, [out, in] each.
        found: X_tᵀX_t, float64 [in, in] each.
        shrink: in [0, 1].
    """
    left, right = torch.zeros_like(found[0]), torch.zeros(found[0].shape[0], weights[0].shape[0], dtype=torch.float64)
    for weight, gram in zip(weights, found, strict=True):
        diagonal = gram.diagonal()
        ridge = max(float(diagonal.mean()) * 1e-6, 1e-12)
        kept = shrink * gram + torch.diag((1 - shrink) * diagonal + ridge)
        left += kept
        right += kept @ weight.double().T
    return torch.linalg.solve(left, right).T.float()


def averages(pretrained: Tensors, finetuned: Mapping[str, Tensors]) -> dict[str, Tensor]:
    """The mean of every floating tensor in float32; the rest from the pretrained model."""
    merged = {name: tensor.clone() for name, tensor in pretrained.items()}
    for name in floating(pretrained):
        merged[name] = total(tensors[name].float().clone() for tensors in finetuned.values()) / len(finetuned)
    return merged


def sample(tasks: Mapping[str, Adaptation], seed: int, count: int) -> dict[str, Tensor]:
    """``count`` images of each task, or all it has."""
    return {
        task: seen.images[torch.randperm(len(seen.images), generator=torch_generator(seed, "regmean", task))[:count]]
        for task, seen in tasks.items()
    }


def block_of(name: str) -> str:
    """The block a tensor belongs to: its name up to the first number, ``blocks.3.attn.qkv.weight`` → ``blocks.3``."""
    found = re.match(r".*?\.\d+(?=\.)", name)
    return found.group() if found else name.rpartition(".")[0]


def regress(
    pretrained: Tensors,
    finetuned: Mapping[str, Tensors],
    tasks: Mapping[str, Adaptation],
    seed: int,
    progress: Progress,
    part_of: Callable[[str], str],
    *,
    images: Count = 256,
    shrink: Share = 0.95,
) -> Merged:
    """W = (Σ_t G_t)⁻¹ Σ_t G_t W_t of each linear layer, part by part, each fed by the parts that are already merged.

    Args:
        pretrained: gives names and types.
        finetuned: task → θ_t.
        tasks: task → its images.
        seed: of the draw of images.
        progress: wraps the parts.
        part_of: tensor name → the part of the encoder that it belongs to.
        images: a task.
        shrink: factor on the off-diagonal entries of G_t.

    Returns:
        The merged tensors, and the names of those that were regressed.
    """
    chosen = sample(tasks, seed, images)
    merged = averages(pretrained, finetuned)
    layers = {task: linear_layers(seen.classifier.encoder, floating(pretrained)) for task, seen in tasks.items()}
    # Gram matrices of one image tell which layers run, and in which order.
    first = next(iter(tasks))
    order = list(grams(tasks[first].classifier, merged, chosen[first][:1], layers[first]))
    for part in progress(list(dict.fromkeys(part_of(name) for name in order))):
        own = [name for name in order if part_of(name) == part]
        found = {}
        for task, seen in tasks.items():
            state = merged | {name: t for name, t in finetuned[task].items() if part_of(name) == part}
            found[task] = grams(seen.classifier, state, chosen[task], {name: layers[task][name] for name in own})
        for name in own:
            merged[name] = solve([finetuned[t][name] for t in tasks], [found[t][name] for t in tasks], shrink)
    return {name: merged[name].to(pretrained[name].dtype) for name in pretrained}, {"regressed": order}


def passed(tasks: int, shapes: Shapes, *, images: int, **_: Any) -> Seen:
    """What :func:`regmean` passes."""
    del shapes
    return Seen(images * tasks + 1, 0)


def passed_by_blocks(tasks: int, shapes: Shapes, *, images: int, **_: Any) -> Seen:
    """What :func:`regmean_plus` passes."""
    matrices = [name for name, shape in shapes.items() if name.endswith(".weight") and len(shape) == 2]
    return Seen(images * tasks * len({block_of(name) for name in matrices}) + 1, 0)


@register("regmean", data="labelled", rest=regress, seen=passed)
def regmean(
    pretrained: Tensors,
    finetuned: Mapping[str, Tensors],
    tasks: Mapping[str, Adaptation],
    seed: int,
    progress: Progress = iter,
    **options: Any,
) -> Merged:
    """RegMean: W = (Σ_t G_t)⁻¹ Σ_t G_t W_t for each linear layer, G_t = X_tᵀX_t of expert t's inputs to it.

    Jin et al., "Dataless Knowledge Fusion by Merging Weights of Language Models", ICLR 2023. Every tensor that is
    no linear layer's weight is averaged. The images are training images; their labels are not used. Arguments as in
    :func:`regress`, the whole encoder being one part.
    """
    return regress(pretrained, finetuned, tasks, seed, progress, lambda name: "", **options)


@register("regmean_plus", data="labelled", rest=regress, seen=passed_by_blocks)
def regmean_plus(
    pretrained: Tensors,
    finetuned: Mapping[str, Tensors],
    tasks: Mapping[str, Adaptation],
    seed: int,
    progress: Progress = iter,
    **options: Any,
) -> Merged:
    """RegMean++: RegMean block by block, each expert's block fed by the blocks that are already merged.

    Nguyen et al., "RegMean++: Enhancing Effectiveness and Generalization of Regression Mean for Model Merging", 2025.
    The images of each task run through the whole encoder once a block. Arguments as in :func:`regress`.
    """
    return regress(pretrained, finetuned, tasks, seed, progress, block_of, **options)

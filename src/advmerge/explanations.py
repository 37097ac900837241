"""Why examples transfer or not: what surrogate and target have in common, and the weights in between.

Functions on classifiers, tensors and state dicts; the tables and correlations made of what they return are in
:mod:`advmerge.associations`. Every classifier maps images [N, C, H, W] in [0, 1] to logits [N, classes], and is the
one that really answers for its task (``Model.classifier``): with its surgery module, and with the task's own encoder
where the merge has one a task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advmerge.artifacts import load_tensors
from advmerge.models import Classifier, Head, Surgery, load_head, predict, to_unit
from advmerge.passes import in_parts

FEATURES = "features"
"""The last activation compared: what the head is given, after surgery where there is any."""


class Probe(NamedTuple):
    """What a classifier does with clean images.

    Attributes:
        prediction: int64 [N].
        gradient: ∂ cross-entropy(f(x), y) / ∂x for each image, float32 [N, C, H, W], per unit of pixels in [0, 1].
        activations: block's name → its output, float32 [N, …], in the order in which they run, the last being
            :data:`FEATURES` [N, features]. Blocks are those that timm lists as the architecture's feature maps. An
            ensemble has none.
    """

    prediction: Tensor
    gradient: Tensor
    activations: dict[str, Tensor]


def probe(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> Probe:
    """One forward and one backward pass over images in [0, 1], [N, C, H, W]; everything returned lies on the CPU."""
    return in_parts(model, len(images), batch_size, lambda parts: _probe(model, images, labels, parts))


def _probe(model: nn.Module, images: Tensor, labels: Tensor, parts: list[slice]) -> Probe:
    device = next(model.buffers()).device
    caught: dict[str, list[Tensor]] = {}

    def keep(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            caught.setdefault(name, []).append(value.detach().float().cpu())

    hooks = []
    if isinstance(model, Classifier):
        known = dict(model.encoder.named_modules())
        blocks = [entry["module"] for entry in getattr(model.encoder, "feature_info", None) or []]
        hooks += [
            known[name].register_forward_hook(lambda _module, _given, made, name=name: keep(name, made))
            for name in blocks
            if name in known
        ]
        hooks.append(model.head.register_forward_pre_hook(lambda _module, given: keep(FEATURES, given[0])))
    predictions, gradients = [], []
    try:
        for part in parts:
            batch = images[part].to(device).requires_grad_()
            logits = model(batch)
            # Images do not see each other in evaluation mode: the sum's gradient is each image's own.
            loss = F.cross_entropy(logits, labels[part].to(device), reduction="sum")
            gradients.append(torch.autograd.grad(loss, batch)[0].cpu())
            predictions.append(logits.argmax(1).cpu())
    finally:
        for hook in hooks:
            hook.remove()
    return Probe(
        torch.cat(predictions), torch.cat(gradients), {name: torch.cat(parts) for name, parts in caught.items()}
    )


def gradient_alignment(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """How far two models' input gradients point the same way, image by image: cosine and sign agreement.

    Cosine of the two gradients (Demontis et al., "Why Do Adversarial Attacks Transfer?", USENIX Security 2019;
    Liu et al., ICLR 2017), and the share of pixels in which they have the same sign, which is what a step
    of a sign-gradient attack sees. Independent gradients have 0 and ½.

    Args:
        one: ∂L/∂x of one model, [N, …].
        other: of the other, the same shape.

    Returns:
        Cosine in [−1, 1] and sign agreement in [0, 1], float64 [N]. NaN where a gradient is zero; a pixel counts for
        the signs where neither gradient is zero in it.
    """
    a, b = one.double().flatten(1), other.double().flatten(1)
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    product = a.sign() * b.sign()
    return cosine.clamp(-1, 1), (product > 0).sum(1) / (product != 0).sum(1).double()


def linear_cka(one: Tensor, other: Tensor, debiased: bool = True) -> float:
    """Linear centred kernel alignment of two representations of the same n inputs.

    Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019: with the Gram
    matrices K = XXᵀ and L = YYᵀ, HSIC(K, L) / √(HSIC(K, K) · HSIC(L, L)). With many more features than inputs the
    original estimator of HSIC makes any two representations look alike; ``debiased`` takes the unbiased one of
    Song et al. (JMLR 2012), as Nguyen, Raghu and Kornblith (ICLR 2021) do.

    Args:
        one: X, [n, …]; what is beyond the first dimension is flattened.
        other: Y, [n, …]; its features may be another number.
        debiased: which estimator; False gives ‖YᵀX‖²_F / (‖XᵀX‖_F · ‖YᵀY‖_F) of centred X and Y.

    Returns:
        In [0, 1], or [−1, 1] when debiased, unrelated representations having 0 on average. Invariant to rotations and
        to a common factor of either. NaN where a representation does not vary, or with fewer than four inputs.
    """
    grams = []
    for part in (one, other):
        features = part.double().flatten(1)
        features = features - features.mean(0)
        grams.append(features @ features.T)
    k, left = grams
    n = len(k)
    if n < 4:
        return float("nan")
    if debiased:
        for gram in grams:
            gram.fill_diagonal_(0)

    def hsic(a: Tensor, b: Tensor) -> Tensor:
        if not debiased:
            return (a * b).sum()
        rows = a.sum(0), b.sum(0)
        whole = rows[0].sum() * rows[1].sum() / ((n - 1) * (n - 2))
        return ((a * b).sum() + whole - 2 * (rows[0] @ rows[1]) / (n - 2)) / (n * (n - 3))

    own = hsic(k, k) * hsic(left, left)
    return float(hsic(k, left) / own.sqrt()) if own > 0 else float("nan")


def representation_bias(merged: Tensor, expert: Tensor) -> Tensor:
    """L1 distance of two models' features, averaged over the features: ‖z_merged − z_expert‖₁ / k, [N].

    Yang et al., "Representation Surgery for Multi-Task Model Merging", ICML 2024, before it is averaged over
    images; what surgery is trained to lower.

    Args:
        merged: features of the merged model, [N, k].
        expert: features of the task's expert on the same images, [N, k].
    """
    return (merged.double() - expert.double()).abs().mean(1)


def boundary_distance(
    model: nn.Module, images: Tensor, labels: Tensor, directions: Tensor, reach: Tensor,
    steps: int, halvings: int, batch_size: int,
) -> Tensor:  # fmt: skip
    """How far along a direction a model keeps its right answer, in L2 units of pixels in [0, 1], float64 [N].

    Tramèr et al., "The Space of Transferable Adversarial Examples", 2017: the smallest α > 0 for which the
    model's answer to x + α d/‖d‖₂ is not y. Found on ``steps`` equal steps up to ``reach``, then by ``halvings``
    halvings of the step in which the answer changes, whose middle is returned: the error is at most
    reach / steps / 2^(halvings + 1), unless the answer changes and changes back within one step. Points on the line
    are not clipped to [0, 1]; those between an image and an example of it need no clipping.

    Args:
        model: images → logits.
        images: clean images in [0, 1], [N, C, H, W].
        labels: int64 [N].
        directions: [N, C, H, W], of any length but zero.
        reach: where the search ends, [N].
        steps: of the search.
        halvings: of the step found.
        batch_size: images a forward pass.

    Returns:
        α; infinite where the answer stays right up to the reach, NaN where it is wrong at α = 0 or the direction is zero.
    """
    lengths = directions.double().flatten(1).norm(dim=1)
    unit = (directions.double() / lengths.view(-1, *[1] * (directions.dim() - 1))).float()

    def wrong(which: Tensor, at: Tensor) -> Tensor:
        points = images[which] + at.float().view(-1, *[1] * (images.dim() - 1)) * unit[which]
        return predict(model, points, batch_size).argmax(1) != labels[which]

    everything = torch.arange(len(images))
    found = torch.full((len(images),), float("nan"), dtype=torch.float64)
    usable = everything[lengths > 0]
    searching = usable[~wrong(usable, torch.zeros(len(usable)))] if len(usable) else usable
    found[searching] = float("inf")
    width = reach.double() / steps
    low = torch.zeros(len(images), dtype=torch.float64)
    crossed = []
    for step in range(1, steps + 1):
        if not len(searching):
            break
        over = wrong(searching, step * width[searching])
        low[searching[over]] = (step - 1) * width[searching[over]]
        crossed.append(searching[over])
        searching = searching[~over]
    inside = torch.cat(crossed) if crossed else everything[:0]
    for _ in range(halvings if len(inside) else 0):
        width[inside] /= 2
        low[inside] += torch.where(wrong(inside, low[inside] + width[inside]), 0, width[inside])
    found[inside] = low[inside] + width[inside] / 2
    return found


def shifted(base: Mapping[str, Tensor], moves: Iterable[tuple[float, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    """The encoder θ_0 + Σ c (θ − θ_0) over ``moves`` (c, θ), tensor by tensor in float32; the type is θ_0's.

    One move is a point of the straight line through two models (Frankle et al., ICML 2020; Ilharco et al., ICLR 2023,
    for task vectors), two are a point of the plane through three (Garipov et al., NeurIPS 2018, here in
    the affine coordinates of the three models). Tensors that are not floating (counters) stay θ_0's.
    """
    moves = list(moves)
    found = {}
    for name, tensor in base.items():
        if not tensor.is_floating_point():
            found[name] = tensor
            continue
        start = tensor.float()
        moved = start.clone()
        for coefficient, other in moves:
            moved += coefficient * (other[name].float() - start)
        found[name] = moved.to(tensor.dtype)
    return found


def dosed(tensors: Mapping[str, Tensor], dose: float) -> Surgery:
    """A task's surgery module with its correction scaled: z − dose · U·ReLU(D·z). 0 changes nothing, 1 is the module.

    Args:
        tensors: ``down`` D [rank, features] and ``up`` U [features, rank].
        dose: of the correction.
    """
    rank, features = tensors["down"].shape
    module = Surgery(features, rank)
    module.load_state_dict({"down": tensors["down"], "up": dose * tensors["up"]})
    return module.eval().requires_grad_(False)


class Task(NamedTuple):
    """What the models are asked about one task.

    Attributes:
        head: its frozen head.
        images: clean, in [0, 1], [N, C, H, W].
        labels: int64 [N].
        examples: surrogate → what one attack made of the images on it, the same shape.
        surrogate_right: surrogate → whether it is right on the clean images, bool [N].
    """

    head: Head
    images: Tensor
    labels: Tensor
    examples: dict[str, Tensor]
    surrogate_right: dict[str, Tensor]


def load_task(head: str, data: str, adversarial: Mapping[str, str], count: int) -> Task:
    """The first ``count`` attacked images of a task, out of its files; ``adversarial`` is surrogate → path."""
    found, _ = load_tensors(data)
    images, labels = to_unit(found["attack_images"][:count]), found["attack_labels"][:count]
    crafted = {surrogate: load_tensors(path)[0] for surrogate, path in adversarial.items()}
    return Task(
        load_head(head),
        images,
        labels,
        {surrogate: sets["images"][:count] for surrogate, sets in crafted.items()},
        {surrogate: sets["clean_prediction"][:count] == labels for surrogate, sets in crafted.items()},
    )


def below(name: str, named: Mapping[str, str]) -> dict[str, str]:
    """rest → path, out of "name/rest" → path; other names are left out."""
    return {key.removeprefix(f"{name}/"): path for key, path in named.items() if key.startswith(f"{name}/")}


class View(NamedTuple):
    """An encoder's features of a task's images: ``clean`` [N, k], and ``attacked``, surrogate → [N, k]."""

    clean: Tensor
    attacked: dict[str, Tensor]


def view(encoder: nn.Module, task: Task, batch_size: int) -> View:
    """How an encoder (normalisation inside) sees a task's clean and adversarial images."""
    return View(
        predict(encoder, task.images, batch_size),
        {surrogate: predict(encoder, images, batch_size) for surrogate, images in task.examples.items()},
    )


@torch.inference_mode()
def outcome(task: Task, seen: View, expert: Tensor) -> list[dict[str, Any]]:
    """What a model of these features does on a task, clean and attacked; a row a surrogate.

    Columns: ``surrogate``; ``images``; ``loss``, the mean cross-entropy of the clean images (nats); ``correct``, how
    many of them are right; ``representation_bias``, its mean over the images; ``n``, how many images surrogate and
    model both have right when clean, and ``fooled``, how many of those the model has wrong when attacked.

    Args:
        task: its head, labels and surrogates.
        seen: the features that the head is given.
        expert: those of the task's expert for the clean images, [N, k].
    """
    logits = task.head(seen.clean)
    right = logits.argmax(1) == task.labels
    common = {
        "images": len(task.labels),
        "loss": float(F.cross_entropy(logits, task.labels)),
        "correct": int(right.sum()),
        "representation_bias": float(representation_bias(seen.clean, expert).mean()),
    }
    rows = []
    for surrogate, features in seen.attacked.items():
        both = right & task.surrogate_right[surrogate]
        wrong = task.head(features).argmax(1) != task.labels
        rows.append({"surrogate": surrogate, **common, "n": int(both.sum()), "fooled": int((both & wrong).sum())})
    return rows


Found = dict[tuple[str, str | None], tuple[list[int] | None, Any]]
"""(measure, block or None) → (the images that the values are of or None, the values or one value)."""


def compare(surrogate: Probe, target: Probe, expert: Probe, alike: bool) -> Found:
    """What two models have in common on the same images.

    ``gradient_cosine``, ``sign_agreement``, ``surrogate_gradient_norm`` and ``target_gradient_norm`` (L2, per unit of
    pixels in [0, 1]), ``representation_bias`` (target to expert) and, of one architecture, ``feature_distance``
    (the same distance, target to surrogate), of every image; ``cka`` of every block.

    Args:
        surrogate: what the adversary holds.
        target: what is attacked.
        expert: the task's.
        alike: whether surrogate and target have one architecture; if not, only their features are compared, since
            blocks of two architectures do not correspond. An ensemble has no blocks and no features.
    """
    cosine, signs = gradient_alignment(surrogate.gradient, target.gradient)
    features = target.activations[FEATURES]
    values = {
        "gradient_cosine": cosine,
        "sign_agreement": signs,
        "surrogate_gradient_norm": surrogate.gradient.double().flatten(1).norm(dim=1),
        "target_gradient_norm": target.gradient.double().flatten(1).norm(dim=1),
        "representation_bias": representation_bias(features, expert.activations[FEATURES]),
    }
    if alike:
        values["feature_distance"] = representation_bias(features, surrogate.activations[FEATURES])
    images = list(range(len(cosine)))
    found: Found = {(measure, None): (images, part.numpy()) for measure, part in values.items()}
    for name, activation in target.activations.items():
        if name in surrogate.activations and (alike or name == FEATURES):
            found["cka", name] = (None, [linear_cka(surrogate.activations[name], activation)])
    return found


def boundary(
    model: nn.Module, target: Probe, task: Task, surrogate: str, *, reach: float, steps: int, halvings: int, batch_size: int
) -> Found:  # fmt: skip
    """The target's :func:`boundary_distance` along a surrogate's perturbations, of images that both have right.

    ``boundary_distance`` is in L2 units of pixels in [0, 1], ``boundary_ratio`` in lengths of the perturbation: up to
    1 the example fools the target (or an example on the way to it would have). Unchanged images are left out.

    Args:
        model: the target.
        target: what it did with the task's images.
        task: holds the surrogate's examples.
        surrogate: whose they are.
        reach: where the search ends, in lengths of the perturbation.
        steps: see :func:`boundary_distance`.
        halvings: see there.
        batch_size: images a forward pass.
    """
    moves = task.examples[surrogate] - task.images
    norms = moves.double().flatten(1).norm(dim=1)
    both = (target.prediction == task.labels) & task.surrogate_right[surrogate] & (norms > 0)
    which = both.nonzero().flatten()
    distance = boundary_distance(
        model, task.images[which], task.labels[which], moves[which], reach * norms[which], steps, halvings, batch_size
    )
    images = which.tolist()
    return {
        ("boundary_distance", None): (images, distance.numpy()),
        ("boundary_ratio", None): (images, (distance / norms[which]).numpy()),
    }

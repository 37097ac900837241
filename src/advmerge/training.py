"""Pretraining, few-shot heads, fine-tuning and joint training of the encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advmerge.errors import StudyError
from advmerge.models import Classifier, Head, Normalise, embed, predict, to_unit
from advmerge.passes import slopes

Progress = Callable[[Iterable[int]], Iterable[int]]
BATCH_NORM = nn.modules.batchnorm._BatchNorm  # timm's own are subclasses of torch's


def _optimiser(
    parameters: Iterable[nn.Parameter], recipe: Mapping[str, Any]
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with linear warm-up and a cosine to zero; weight decay on matrices only, as for ViTs."""
    kept = list(parameters)
    groups = [
        {"params": [p for p in kept if p.ndim > 1], "weight_decay": recipe["weight_decay"]},
        {"params": [p for p in kept if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=recipe["lr"], betas=(0.9, recipe.get("beta2", 0.999)), fused=True)
    steps, warmup = recipe["steps"], recipe["warmup"]

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


class Steps:
    """Steps of an optimiser over batches, each passed in parts of as many images as memory holds.

    Args:
        model: that the images pass.
        parameters: that are trained.
        recipe: see :func:`_optimiser`.
        images: of the greatest batch that is passed at a time.
        whole: its images see each other, in batch normalisation: it cannot be taken apart.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Iterable[nn.Parameter],
        recipe: Mapping[str, Any],
        images: int,
        whole: bool = False,
    ) -> None:
        self.model, self.parameters = model, list(parameters)
        self.optimiser, self.schedule = _optimiser(self.parameters, recipe)
        self.images, self.whole = images, whole

    def __call__(self, loss: Callable[[slice], Tensor]) -> float:
        """Take a step.

        Args:
            loss: of the images at these places of the batch, as their share of the whole batch's; a scalar.

        Returns:
            The batch's loss.

        Raises:
            StudyError: it is not finite, or one image's pass does not fit into memory, or not the whole.
        """
        total = float(slopes(self.model, self.parameters, self.images, lambda part: [loss(part)], self.whole))
        if not math.isfinite(total):
            raise StudyError("training diverged: the loss is not finite; lower the learning rate")
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.schedule.step()
        return total


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random affine (±15°, scale 0.8–1.2, shear, shift), contrast, inversion and noise.

    Args:
        images: float32 [N, C, H, W] in [0, 1], on the CPU.
        generator: CPU generator of the draws.

    Returns:
        The same shape and range. Borders are reflected: zeros would mark the images that had none.
    """
    count = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(count, *shape).uniform_(low, high, generator=generator)

    angle, scale, shear = uniform(-0.26, 0.26), uniform(0.8, 1.2), uniform(-0.15, 0.15)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    matrix = torch.stack(
        [cos, -sin + shear * cos, uniform(-0.1, 0.1), sin, cos + shear * sin, uniform(-0.1, 0.1)], dim=1
    ).view(count, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    images = (images - 0.5) * uniform(0.6, 1.2, 1, 1, 1) + 0.5 + uniform(-0.1, 0.1, 1, 1, 1)
    images = torch.where(uniform(0, 1, 1, 1, 1) < 0.25, 1 - images, images)
    noise = torch.empty(images.shape).normal_(generator=generator)
    return (images + uniform(0, 0.06, 1, 1, 1) * noise).clamp(0, 1)


def pretrain(
    encoder: nn.Module,
    normalise: Normalise,
    images: Tensor,
    labels: Tensor,
    weights: Tensor,
    recipe: Mapping[str, Any],
    generator: torch.Generator,
    progress: Progress = iter,
    dtype: torch.dtype = torch.float32,
) -> dict[str, float]:
    """Train an encoder from scratch, in place, by classifying the corpus; the linear classifier is dropped.

    Args:
        encoder: [N, C, H, W] → [N, features].
        normalise: the study's pixel normalisation.
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        weights: probability of drawing each image, [N].
        recipe: ``steps, batch, lr, weight_decay, warmup, label_smoothing``.
        generator: of every draw.
        progress: wraps the steps.
        dtype: of the encoder's multiplications, see :func:`~advmerge.models.embed`.

    Returns:
        Facts: training accuracy and loss over the last tenth of the steps.
    """
    device = next(encoder.parameters()).device
    classes = int(labels.max()) + 1
    # Drawn on the CPU, so that a GPU starts with the same.
    linear = nn.Linear(encoder.num_features, classes)  # type: ignore[arg-type]
    nn.init.trunc_normal_(linear.weight, std=0.02, generator=generator)
    nn.init.zeros_(linear.bias)
    linear.to(device)
    whole = any(isinstance(module, BATCH_NORM) for module in encoder.modules())
    take_step = Steps(encoder, [*encoder.parameters(), *linear.parameters()], recipe, recipe["batch"], whole)
    encoder.train()
    correct, seen, total = 0, 0, 0.0
    for step in progress(range(recipe["steps"])):
        index = torch.multinomial(weights, recipe["batch"], replacement=True, generator=generator)
        # On the CPU, so that every device gets the same pixels.
        batch = augment(to_unit(images[index]), generator).to(device)
        target = labels[index].to(device)
        right = torch.zeros(len(batch), dtype=torch.bool, device=device)

        def loss(part: slice, batch: Tensor = batch, target: Tensor = target, right: Tensor = right) -> Tensor:
            logits = linear(embed(encoder, normalise, batch[part], dtype))
            right[part] = logits.detach().argmax(1) == target[part]
            share = len(target[part]) / len(target)
            return share * F.cross_entropy(logits, target[part], label_smoothing=recipe["label_smoothing"])

        value = take_step(loss)
        if step >= recipe["steps"] * 9 // 10:
            correct += int(right.sum())
            total += value * len(target)
            seen += len(target)
    encoder.eval()
    return {"train_accuracy": correct / seen, "train_loss": total / seen}


def anchor_images(corpus: Tensor) -> Tensor:
    """4,000 images spread evenly over the pretraining corpus [N, C, H, W]: enough for its features' statistics."""
    return corpus[torch.linspace(0, len(corpus) - 1, min(4000, len(corpus))).long()]


def feature_statistics(encoder: nn.Module, normalise: Normalise, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of an encoder's features over images, each [features]."""
    features = predict(nn.Sequential(normalise, encoder), images, 256)
    return features.mean(0), features.std(0) + 1e-6


def few_shot_head(
    encoder: nn.Module,
    normalise: Normalise,
    images: Tensor,
    labels: Tensor,
    classes: int,
    statistics: tuple[Tensor, Tensor],
    shots: int,
    scale: float,
) -> dict[str, Tensor]:
    """A cosine nearest-class-mean head from the first ``shots`` images of each class.

    Few shots keep a gap between the pretrained encoder and the experts, as zero-shot heads do for CLIP; with
    heads from all the data the gap closes and merging methods cannot be told apart.

    Args:
        encoder: the pretrained encoder.
        normalise: the study's pixel normalisation.
        images: uint8 [N, C, H, W], shuffled.
        labels: int64 [N].
        classes: number of classes.
        statistics: mean and std of the pretrained features, each [features].
        shots: images a class.
        scale: logit scale.

    Returns:
        The tensors of a :class:`~advmerge.models.Head`.

    Raises:
        StudyError: a class has fewer than ``shots`` training images.
    """
    mean, std = statistics
    rows = []
    for label in range(classes):
        members = torch.nonzero(labels == label).squeeze(1)[:shots]
        if len(members) < shots:
            raise StudyError(f"class {label} has {len(members)} training images; the head needs head.shots = {shots}")
        features = predict(nn.Sequential(normalise, encoder), images[members], 256)
        rows.append(F.normalize(F.normalize((features - mean) / std, dim=1).mean(0), dim=0))
    return {"weight": scale * torch.stack(rows), "bias": torch.zeros(classes), "mean": mean, "std": std}


def probe_head(
    encoder: nn.Module,
    normalise: Normalise,
    images: Tensor,
    labels: Tensor,
    statistics: tuple[Tensor, Tensor],
    penalty: float,
) -> dict[str, Tensor]:
    """A linear probe: multinomial logistic regression on standardised, length-normalised features, by scikit-learn.

    It minimises Σ cross-entropy + penalty/2 · ‖W‖² over all training images; the bias is free.

    Args:
        encoder: the pretrained encoder.
        normalise: the study's pixel normalisation.
        images: uint8 [N, C, H, W].
        labels: int64 [N], every class among them.
        statistics: mean and std of the pretrained features, each [features].
        penalty: weight of the squared norm.

    Returns:
        The tensors of a :class:`~advmerge.models.Head`.
    """
    from sklearn.linear_model import LogisticRegression

    mean, std = statistics
    features = F.normalize((predict(nn.Sequential(normalise, encoder), images, 256) - mean) / std, dim=1)
    fitted = LogisticRegression(C=1 / penalty, max_iter=2000, tol=1e-6).fit(features.double().numpy(), labels.numpy())
    weight, bias = (torch.from_numpy(part).float() for part in (fitted.coef_, fitted.intercept_))
    if len(weight) == 1:  # of two classes it gives one row, the second's against the first's
        weight, bias = torch.cat([torch.zeros_like(weight), weight]), torch.cat([torch.zeros_like(bias), bias])
    return {"weight": weight, "bias": bias, "mean": mean, "std": std}


class Anchor:
    """Penalty that keeps an encoder's features on pretraining images where the pretrained encoder had them.

    mean(((f − f_P)/σ_P)²) over a batch. Without it the small encoder drifts so far in fine-tuning that adding
    task vectors destroys it, and every merging method collapses to plain averaging.
    """

    def __init__(self, encoder: nn.Module, normalise: Normalise, images: Tensor, batch: int) -> None:
        self.normalise, self.images, self.batch = normalise, images, batch
        self.features = predict(nn.Sequential(normalise, encoder), images, 256)
        self.std = self.features.std(0) + 1e-6

    def draw(self, generator: torch.Generator) -> Tensor:
        """The indices of a random batch."""
        return torch.randint(len(self.images), (self.batch,), generator=generator)

    def penalty(self, encoder: nn.Module, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The penalty on the images of these indices; a scalar."""
        device = next(encoder.parameters()).device
        features = embed(encoder, self.normalise, to_unit(self.images[index]).to(device), dtype)
        target = self.features[index].to(device)
        return (((features - target) / self.std.to(device)) ** 2).mean()


def finetune(
    encoder: nn.Module,
    normalise: Normalise,
    tasks: Mapping[str, tuple[Tensor, Tensor, Head]],
    anchor: Anchor | None,
    recipe: Mapping[str, Any],
    generator: torch.Generator,
    progress: Progress = iter,
    dtype: torch.dtype = torch.float32,
) -> dict[str, float]:
    """Train the whole encoder under frozen heads, in place: one task gives an expert, all tasks multi-task learning.

    Batch normalisation keeps the statistics that the encoder came with: a batch of one task is no sample of what
    they were taken over, and the frozen heads were made with them.

    Args:
        encoder: starts as the pretrained encoder.
        normalise: the study's pixel normalisation.
        tasks: task → (images uint8 [N, C, H, W], labels int64 [N], frozen head).
        anchor: the penalty, weighted by ``recipe["anchor"]``; None without one.
        recipe: ``steps, batch`` (images a task a step), ``lr, weight_decay, warmup, anchor``.
        generator: of every draw.
        progress: wraps the steps.
        dtype: of the encoder's multiplications, see :func:`~advmerge.models.embed`.

    Returns:
        Facts: mean loss of the last tenth of the steps.
    """
    device = next(encoder.parameters()).device
    models = {task: Classifier(encoder, head, normalise, dtype=dtype) for task, (_, _, head) in tasks.items()}
    held = anchor if recipe["anchor"] else None
    take_step = Steps(encoder, encoder.parameters(), recipe, max(recipe["batch"], held.batch if held else 0))
    encoder.train()
    for module in encoder.modules():
        if isinstance(module, BATCH_NORM):
            module.eval()
    losses = []
    for step in progress(range(recipe["steps"])):
        drawn = {
            task: torch.randint(len(images), (recipe["batch"],), generator=generator)
            for task, (images, _, _) in tasks.items()
        }
        anchored = held.draw(generator) if held else None

        def loss(part: slice, drawn: dict[str, Tensor] = drawn, anchored: Tensor | None = anchored) -> Tensor:
            summed = torch.zeros((), device=device)
            for task, (images, labels, _) in tasks.items():
                if len(index := drawn[task][part]):
                    logits = models[task](to_unit(images[index]).to(device))
                    share = len(index) / recipe["batch"]
                    summed = summed + share * F.cross_entropy(logits, labels[index].to(device)) / len(tasks)
            if held and anchored is not None and len(index := anchored[part]):
                summed = summed + recipe["anchor"] * (len(index) / held.batch) * held.penalty(encoder, index, dtype)
            return summed

        value = take_step(loss)
        if step >= recipe["steps"] * 9 // 10:
            losses.append(value)
    encoder.eval()
    return {"train_loss": sum(losses) / len(losses)}

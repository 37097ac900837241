"""Outcomes: what every model says of every clean and adversarial image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from advmerge.models import margin, predict
from advmerge.passes import in_parts

if TYPE_CHECKING:
    import pandas as pd


def answers(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Predicted class int64 [N] and margin float32 [N] of a model on images (uint8, or float in [0, 1])."""
    logits = predict(model, images, batch_size)
    return logits.argmax(1), margin(logits, labels)


def distances(clean: Tensor, adversarial: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L2 and L∞ norm of each perturbation in [0, 1] pixel units, and whether any pixel changed; [N] each."""
    delta = (adversarial.double() - clean.double()).flatten(1)
    return delta.norm(dim=1).float(), delta.abs().amax(1).float(), (delta != 0).any(1)


def answers_and_gradients(
    model: nn.Module, images: Tensor, labels: Tensor, batch_size: int
) -> tuple[Tensor, Tensor, float]:
    """As :func:`answers` of images in [0, 1], and the share whose cross-entropy gradient is zero everywhere.

    There a gradient attack is blind. Saturated logits do this; a share above a few per cent says that the attack, not
    the model, failed.
    """
    device = next(model.buffers()).device

    def both(part: slice) -> tuple[Tensor, Tensor]:
        batch = images[part].to(device).requires_grad_()
        logits = model(batch)
        loss = nn.functional.cross_entropy(logits, labels[part].to(device), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, batch)
        return logits.detach().float().cpu(), (gradient.flatten(1) == 0).all(1).cpu()

    made = in_parts(model, len(images), batch_size, lambda parts: [both(part) for part in parts])
    logits, zero = (torch.cat(parts) for parts in zip(*made, strict=True))
    return logits.argmax(1), margin(logits, labels), int(zero.sum()) / len(images)


def outcome_rows(
    names: dict[str, object],
    crafted: dict[str, Tensor],
    clean: pd.DataFrame,
    target: tuple[Tensor, Tensor],
) -> pd.DataFrame:
    """One row an image of one (task, surrogate, attack, target).

    Args:
        names: the constant columns: task, surrogate, in_merge (is the surrogate one of the models merged into the
            target), attack, eps, target, seed (of the target's fine-tuning).
        crafted: tensors of the adversarial artifact: ``index, label, clean_prediction, clean_margin, prediction,
            margin`` (of the surrogate) and ``l2, linf, changed``, each [n].
        clean: the target's clean answers on this task's attacked images, indexed by image: ``prediction, margin``.
        target: the target's predictions and margins on the adversarial images.
    """
    import pandas as pd

    index = crafted["index"].numpy()
    rows = clean.loc[index]
    return pd.DataFrame(
        {
            "task": names["task"],
            "image": index.astype("int32"),
            "surrogate": names["surrogate"],
            "in_merge": names["in_merge"],
            "attack": names["attack"],
            "eps": pd.Series(names["eps"], index=range(len(index)), dtype="float64"),
            "target": names["target"],
            "seed": pd.Series(names["seed"], index=range(len(index)), dtype="int32"),
            "label": crafted["label"].numpy().astype("int16"),
            "surrogate_clean": crafted["clean_prediction"].numpy().astype("int16"),
            "surrogate_adversarial": crafted["prediction"].numpy().astype("int16"),
            "target_clean": rows["prediction"].to_numpy().astype("int16"),
            "target_adversarial": target[0].numpy().astype("int16"),
            "surrogate_margin_clean": crafted["clean_margin"].numpy(),
            "surrogate_margin": crafted["margin"].numpy(),
            "target_margin_clean": rows["margin"].to_numpy().astype("float32"),
            "target_margin": target[1].numpy(),
            "l2": crafted["l2"].numpy(),
            "linf": crafted["linf"].numpy(),
            "changed": crafted["changed"].numpy(),
        }
    )

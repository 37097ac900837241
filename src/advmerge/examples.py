"""The examples that the gallery and the page show: one a task, chosen by rule, not by looks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from advmerge import artifacts, figures, statistics
from advmerge.data import words
from advmerge.errors import StudyError
from advmerge.figures_gallery import Example

if TYPE_CHECKING:
    import numpy
    import pandas


def picture(path: str, tensor: str, position: int) -> numpy.ndarray:
    """One image of a safetensors file, without reading the others or importing torch."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return file.get_slice(tensor)[position]


def example(task: str, data: str, adversarial: str, outcomes: pandas.DataFrame) -> Example:
    """The representative example of one task (:func:`statistics.representative`).

    Args:
        task: its name.
        data: path of the task's images.
        adversarial: path of the examples.
        outcomes: the study's outcomes, of one seed of fine-tuning.

    Raises:
        StudyError: the outcomes know nothing of these examples, or the images' shapes differ.
    """
    import numpy as np
    from safetensors import safe_open

    crafted = artifacts.metadata(adversarial)["slice"]
    rows = outcomes[
        (outcomes["task"] == task)
        & (outcomes["surrogate"] == crafted["surrogate"])
        & (outcomes["attack"] == crafted["attack"])
        & (outcomes["eps"].isna() if crafted["eps"] is None else outcomes["eps"] == crafted["eps"])
    ]
    if rows.empty:
        raise StudyError(f"{adversarial}: the outcomes have no rows for these examples")
    image = statistics.representative(rows)
    rows = rows[rows["image"] == image]

    with safe_open(adversarial, framework="np") as file:
        (position,) = np.flatnonzero(file.get_tensor("index") == image)
    clean = picture(data, "attack_images", image).astype(np.float32) / 255
    attacked = picture(adversarial, "images", int(position)).astype(np.float32)
    if clean.shape != attacked.shape:
        raise StudyError(f"{adversarial}: examples of shape {attacked.shape}, clean images of shape {clean.shape}")

    made = artifacts.metadata(data)
    classes = words(made["slice"]["kind"], made["classes"])
    return Example(
        task=task,
        clean=clean,
        adversarial=attacked,
        label=classes[rows["label"].iloc[0]],
        surrogate=classes[rows["surrogate_adversarial"].iloc[0]],
        targets={row.target: classes[row.target_adversarial] for row in rows.itertuples()},
        wrong_clean=frozenset(rows.loc[~statistics.target_right(rows), "target"]),
    )


def examples(
    data: Mapping[str, str], adversarial: Mapping[str, str], outcomes: pandas.DataFrame, order: figures.Order
) -> tuple[list[Example], str]:
    """One example a task, in the study's order, and a title that says what they are.

    Args:
        data: task → path of its images.
        adversarial: task → path of its examples, all of one attack on one surrogate.
        outcomes: the study's outcomes, of one seed of fine-tuning.
        order: of the tasks, and how names are written.

    Raises:
        StudyError: the examples are of several attacks or surrogates, or do not fit their images or outcomes.
    """
    crafted = [artifacts.metadata(path)["slice"] for path in adversarial.values()]
    kinds = {(c["surrogate"], c["attack"], c["eps"]) for c in crafted}
    if len(kinds) != 1:
        raise StudyError("the gallery shows one attack on one surrogate; the examples given are of several")
    ((surrogate, attack, eps),) = kinds
    found = [example(task, data[task], adversarial[task], outcomes) for task in order.among(adversarial, order.tasks)]
    within = "" if eps is None else f", ε = {figures.budget(eps)}"
    return found, f"{order.label(attack)}{within}, crafted on the {order.label(surrogate)} model"

"""Draw one adversarial example a task with every model's answer, chosen by rule, not by looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors import safe_open

from advmerge import artifacts, figures, statistics
from advmerge.errors import StudyError
from advmerge.script import arguments, run

if TYPE_CHECKING:
    import numpy
    import pandas


def picture(path: str, tensor: str, position: int) -> numpy.ndarray:
    """One image of a safetensors file, without reading the others or importing torch."""
    with safe_open(path, framework="np") as file:
        return file.get_slice(tensor)[position]


def example(task: str, data: str, adversarial: str, outcomes: pandas.DataFrame) -> figures.Example:
    """The representative example of one task."""
    import numpy as np

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

    classes = artifacts.metadata(data)["classes"]
    return figures.Example(
        task=task,
        clean=clean,
        adversarial=attacked,
        label=classes[rows["label"].iloc[0]],
        surrogate=classes[rows["surrogate_adversarial"].iloc[0]],
        targets={row.target: classes[row.target_adversarial] for row in rows.itertuples()},
        wrong_clean=frozenset(rows.loc[~statistics.target_right(rows), "target"]),
    )


def main() -> None:
    args = arguments("outcomes", "data*", "adversarial*", "output-dir")
    order = figures.Order(**args.config["order"])
    outcomes = artifacts.load_table(args["outcomes"])
    crafted = [artifacts.metadata(path)["slice"] for path in args["adversarial"].values()]
    kinds = {(c["surrogate"], c["attack"], c["eps"]) for c in crafted}
    if len(kinds) != 1:
        raise StudyError("the gallery shows one attack on one surrogate; the examples given are of several")
    ((surrogate, attack, eps),) = kinds
    examples = [
        example(task, args["data"][task], args["adversarial"][task], outcomes)
        for task in order.among(args["adversarial"], order.tasks)
    ]
    within = "" if eps is None else f", ε = {figures.budget(eps)}"
    title = f"{order.label(attack)}{within}, crafted on the {order.label(surrogate)} model"
    figures.save(figures.gallery(examples, title, order), args["output_dir"], "gallery")


run(main)

"""How the models came about, from their metadata, and what they are worth on clean images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advmerge import figures, statistics
from advmerge.page.words import percent, plain

if TYPE_CHECKING:
    import pandas

VERSIONS = ("torch", "timm", "adversarial-robustness-toolbox", "numpy", "pandas", "scipy", "statsmodels", "snakemake")
"""The packages whose versions the page names."""


def _options(options: Mapping[str, Any]) -> str:
    """Options as words: ``keep 0.4, scale 0.6``."""
    return ", ".join(f"{key.replace('_', ' ')} {plain(v) if isinstance(v, float) else v}" for key, v in options.items())


def _accuracies(tables: Mapping[str, pandas.DataFrame]) -> dict[str, Any]:
    accuracy = tables["accuracy_by_model.csv"]
    return {row.model: row for row in accuracy[accuracy["split"] == "test"].itertuples()}


def training(models: Mapping[str, Mapping[str, Any]], tables: Mapping[str, pandas.DataFrame], order: figures.Order
) -> list[dict[str, Any]]:  # fmt: skip
    """A row a trained model, from its metadata: steps, batch, rate, what it ended at, and its clean test accuracy.

    An expert's accuracy is that on its own task, none for a bait's; the others' are averaged over tasks.
    """
    by_task = tables["accuracy.csv"]
    by_task = by_task[by_task["split"] == "test"]
    own = dict(zip(zip(by_task["model"], by_task["task"], strict=True), by_task["accuracy"], strict=True))
    overall = _accuracies(tables)
    rows = []
    for name, metadata in models.items():
        if "recipe" not in metadata["slice"]:
            continue
        recipe, (kind, _, expert) = metadata["slice"]["recipe"], name.partition("/")
        other, _, task = expert.rpartition("/")
        mean = overall.get(name)
        rows.append(
            {
                "name": f"{order.label(other or kind)}: {order.label(task)}" if task else order.label(name),
                "steps": recipe["steps"],
                "batch": recipe["batch"],
                "lr": plain(recipe["lr"]),
                "loss": plain(metadata["facts"].get("train_loss")),
                "accuracy": percent(own.get((other or kind, task)) if task else mean and mean.accuracy),
            }
        )
    return rows


def _extra(facts: Mapping[str, Any]) -> list[str]:
    """Facts beside the choice, in words: a value, or the least and the largest of many."""

    def numbers(value: Any) -> list[float]:
        if isinstance(value, Mapping):
            return [number for item in value.values() for number in numbers(item)]
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [number for item in value for number in numbers(item)]
        return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []

    lines = []
    for key, value in facts.items():
        if key in ("chosen", "tried") or not (values := numbers(value)):
            continue
        words = plain(min(values)) if min(values) == max(values) else f"{plain(min(values))} to {plain(max(values))}"
        lines.append(f"{key.replace('_', ' ')} {words}")
    return lines


def merging(models: Mapping[str, Mapping[str, Any]], merged: Sequence[str], tables: Mapping[str, pandas.DataFrame],
            order: figures.Order) -> list[dict[str, Any]]:  # fmt: skip
    """A row a merged model, from its metadata: the method and options chosen, among how many, and what came of it."""
    overall = _accuracies(tables)
    rows = []
    for name in merged:
        metadata = models[name]
        facts, given, mean = metadata["facts"], metadata["slice"], overall.get(name)
        tried = [] if "method" not in given else facts.get("tried", [])
        if "method" in given:
            chosen = facts.get("chosen", {})
            best = [entry["validation_accuracy"] for entry in tried if entry["options"] == chosen]
            what, validation, more = given["method"], best[0] if best else None, _extra(facts)
        else:
            base = Path(next(path for path in metadata["inputs"] if "/merged/" in path)).stem
            chosen, validation = given["options"], None
            what = f"surgery on {order.label(base)}"
            before, after = ([fact[f"distance_{when}"] for fact in facts.values()] for when in ("before", "after"))
            more = [
                f"distance of features from the expert's: {plain(min(before))} to {plain(max(before))} before, "
                f"{plain(min(after))} to {plain(max(after))} after"
            ]
        rows.append(
            {
                "name": order.label(name),
                "method": what,
                "chosen": _options(chosen) or "none",
                "tried": [
                    {"options": _options(entry["options"]), "accuracy": percent(entry["validation_accuracy"])}
                    for entry in tried
                    if len(tried) > 1
                ],
                "validation": percent(validation),
                "accuracy": percent(mean and mean.accuracy),
                "low": percent(mean and mean.low),
                "high": percent(mean and mean.high),
                "normalised": percent(mean and mean.normalised),
                "more": more,
            }
        )
    return rows


def accuracies(tables: Mapping[str, pandas.DataFrame], order: figures.Order) -> dict[str, Any]:
    """Clean test accuracy of every model on every task."""
    table = tables["accuracy.csv"]
    table = table[table["split"] == "test"]
    tasks = order.among(table["task"], order.tasks)
    models = order.among(table["model"], ["pretrained", statistics.EXPERT, *order.targets])
    rates = {(row.model, row.task): row.accuracy for row in table.itertuples()}
    return {
        "tasks": [order.label(task) for task in tasks],
        "rows": [
            {"name": order.label(model), "values": [percent(rates.get((model, task))) for task in tasks]}
            for model in models
        ],
    }


def skipped(data: Mapping[str, Mapping[str, Any]], order: figures.Order) -> list[str]:
    """A line a task that lacks images which could not be read, from the metadata of its images: how many of each split."""
    lines = []
    for task, metadata in data.items():
        if counts := {split: len(found) for split, found in metadata.get("facts", {}).get("skipped", {}).items()}:
            of = ", ".join(f"{count} of {split}" for split, count in counts.items())
            lines.append(f"{order.label(task)} {sum(counts.values())} ({of})")
    return lines


def versions() -> dict[str, str]:
    """Package → version in this environment, of Python and :data:`VERSIONS`."""
    import platform
    from importlib import metadata

    return {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONS}}

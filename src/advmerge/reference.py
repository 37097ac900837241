"""A finished study's clean accuracy against published figures."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from advmerge.artifacts import load_table
from advmerge.errors import StudyError
from advmerge.study import load

COLUMNS = ("model", "task", "accuracy")


def compare(accuracy: pd.DataFrame, reference: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """Each model's mean accuracy over tasks, here and as published.

    Args:
        accuracy: ``model, task, split, accuracy`` of a study; its split ``test`` counts.
        reference: ``model, task, accuracy`` as published, in [0, 1].
        tolerance: largest difference of the means that is near.

    Returns:
        A row a model of the reference that the study has, in the reference's order: ``model``, ``tasks`` (how many both
        have), ``accuracy``, ``published``, ``difference``, ``near``.
    """
    ours = accuracy[accuracy["split"] == "test"][list(COLUMNS)]
    both = reference[list(COLUMNS)].merge(ours, on=["model", "task"], suffixes=("_published", ""))
    means = both.groupby("model", sort=False).agg(
        tasks=("task", "size"), accuracy=("accuracy", "mean"), published=("accuracy_published", "mean")
    )
    means["difference"] = means["accuracy"] - means["published"]
    means["near"] = means["difference"].abs() <= tolerance
    return means.reset_index()


def read_reference(path: Path) -> pd.DataFrame:
    """A CSV of published accuracies.

    Raises:
        StudyError: it is missing, lacks a column, names a pair twice, or holds something else than shares.
    """
    if not path.is_file():
        raise StudyError(f"{path}: no such file; a reference is a CSV of {', '.join(COLUMNS)}")
    table = pd.read_csv(path)
    if missing := [name for name in COLUMNS if name not in table]:
        raise StudyError(f"{path}: lacks the column {missing[0]}; expected {', '.join(COLUMNS)}")
    values = pd.to_numeric(table["accuracy"], errors="coerce")
    if not values.between(0, 1).all():
        line = int((~values.between(0, 1)).to_numpy().argmax())
        raise StudyError(
            f"{path}: line {line + 2}: accuracy is {table['accuracy'][line]}, a share of 0 to 1 is expected"
        )
    if (twice := table.duplicated(["model", "task"])).any():
        raise StudyError(f"{path}: line {int(twice.to_numpy().argmax()) + 2}: the model and task are there already")
    return table


def check_reference(study: Path, reference: Path | None, tolerance: float) -> tuple[str, bool]:
    """A table to print, and whether every model is near what was published.

    Args:
        study: a study file; its ``accuracy.parquet`` must be there.
        reference: a CSV, or None for the one beside the study: ``paper.reference.csv`` of ``paper.yaml``.
        tolerance: largest difference of the means that is near.

    Raises:
        StudyError: the study has not run, the reference is not readable, or they have nothing in common.
    """
    path = Path(load(study).results) / "accuracy.parquet"
    if not path.exists():
        raise StudyError(f"{path}: no such file; run: snakemake --configfile {study} all_outcomes")
    source = reference or study.with_suffix(".reference.csv")
    table = compare(load_table(path), read_reference(source), tolerance)
    if table.empty:
        raise StudyError(f"{source}: none of its models and tasks is in {path}")
    lines = [f"{'model':<28}{'tasks':>6}{'here':>8}{'published':>11}{'difference':>12}"]
    for row in table.to_dict("records"):
        said = "" if row["near"] else f"  more than {100 * tolerance:g} points off"
        lines.append(
            f"{row['model']:<28}{row['tasks']:>6}{100 * row['accuracy']:>8.1f}{100 * row['published']:>11.1f}"
            f"{100 * row['difference']:>+12.1f}{said}"
        )
    return "\n".join(lines), bool(table["near"].all())

"""The cells of a study, counted, and the cases that a claim makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from advmerge import statistics
from advmerge.claims.language import ANY, LEVELS, Claim, Names, fits
from advmerge.errors import StudyError

if TYPE_CHECKING:
    import numpy
    import pandas


@dataclass(frozen=True)
class Cells:
    """The cells of a study, and the counts of each under one denominator.

    Attributes:
        table: a row a cell, with every column of :data:`COLUMNS`.
        counts: [1 + resamples, 3, cells]: rows of the denominator, surrogate fooled, target fooled; the table itself
            first.
        cell, image: [rows]: the cell of each row of the outcomes, -1 outside the denominator; its image's number.
    """

    table: pandas.DataFrame
    counts: numpy.ndarray
    cell: numpy.ndarray
    image: numpy.ndarray


def described(table: pandas.DataFrame, accuracy: pandas.DataFrame, names: Names) -> pandas.DataFrame:
    """The cells of :data:`statistics.CELL` with every other column of :data:`COLUMNS`.

    Raises:
        StudyError: a model without a clean accuracy.
    """
    clean = accuracy[accuracy["split"] == "test"].astype({"model": str, "task": str})
    clean = clean.groupby(["model", "task"])[["correct", "n"]].sum().reset_index()  # seeds are pooled
    rate = dict(zip(zip(clean["model"], clean["task"], strict=True), clean["correct"] / clean["n"], strict=True))
    mean = clean.assign(_rate=clean["correct"] / clean["n"]).groupby("model")["_rate"].mean().to_dict()
    bases, architectures, ingredients = (dict(d or {}) for d in (names.bases, names.architectures, names.ingredients))
    surrogates = list(zip(table["surrogate"], table["task"], strict=True))
    for model in set(table["target"]) - set(mean):
        raise StudyError(f"the accuracy table lacks '{model}' on the test splits")
    for model, task in set(surrogates) - set(rate):
        raise StudyError(f"the accuracy table lacks '{model}' on the test split of '{task}'")
    return table.assign(
        role=["white_box" if s == t else "transfer" for s, t in zip(table["surrogate"], table["target"], strict=True)],
        control=table["attack"].isin(list(names.controls)),
        kind=["joint" if target in names.joint else "merged" for target in table["target"]],
        surgery=table["target"].isin(list(bases)),
        base=[bases.get(target, target) for target in table["target"]],
        architecture=[architectures.get(surrogate, "same") for surrogate in table["surrogate"]],  # targets: the study's
        in_merge=[s in ingredients.get(t, ()) for s, t in zip(table["surrogate"], table["target"], strict=True)],
        target_accuracy=table["target"].map(mean),
        surrogate_accuracy=[rate[key] for key in surrogates],
    )


def tally(
    outcomes: pandas.DataFrame,
    accuracy: pandas.DataFrame,
    names: Names,
    denominator: str = statistics.PRIMARY,
    bootstrap: int = 0,
    seed: int = 0,
) -> Cells:
    """Count every cell by :func:`statistics.tally`: an image comes with all its rows, in all cells."""
    counted = statistics.tally(outcomes, statistics.CELL, denominator, bootstrap, seed)
    table = described(counted.keys, accuracy, names)
    return Cells(table, counted.counts, counted.group, counted.unit)


def matching(table: pandas.DataFrame, filters: Mapping[str, Any]) -> numpy.ndarray:
    """Which cells have the values that the filters ask for."""
    import numpy as np
    import pandas as pd

    chosen = np.ones(len(table), dtype=bool)
    for column, wanted in filters.items():
        if wanted == ANY:
            continue
        place, values = pd.factorize(table[column].astype(object), use_na_sentinel=False)
        fitting = [fits(None if value != value else value, wanted) for value in values]
        chosen &= np.array(fitting, dtype=bool)[place]
    return chosen


@dataclass(frozen=True)
class Case:
    """Cells that are looked at together: those of a against those of b, or a alone. ``name`` tells rivals apart."""

    a: tuple[int, ...]
    b: tuple[int, ...] = ()
    name: str = ""


def cases(claim: Claim, table: pandas.DataFrame) -> list[Case]:
    """The cases that a claim makes of the cells; none where the study lacks what it compares."""
    import numpy as np

    selected = matching(table, claim.where)
    if claim.match is None:
        return [Case(tuple(np.flatnonzero(selected).tolist()))] if selected.any() else []
    in_a = selected & matching(table, claim.a or {})
    in_b = selected & matching(table, claim.b or {})
    groups = _groups(table, selected, claim.match)
    level = table[claim.along].tolist() if claim.along else []
    if claim.test == "extreme":
        return _rivalry(table, groups, in_a, str(claim.rivals))
    found = []
    for group in groups:
        if claim.test == "trend":
            if len({level[k] for k in group}) >= LEVELS:
                found.append(Case(tuple(group)))
        elif claim.along:
            ordered = sorted(group, key=lambda k: (level[k], k))
            found += [Case((high,), (low,)) for low, high in combinations(ordered, 2) if level[low] < level[high]]
        elif claim.a is None:
            found.append(Case(tuple(group)))
        else:
            case = Case(tuple(k for k in group if in_a[k]), tuple(k for k in group if in_b[k]))
            if case.a and case.b:
                found.append(case)
    return found


def _groups(table: pandas.DataFrame, selected: numpy.ndarray, by: Sequence[str]) -> Iterator[list[int]]:
    """The selected cells that share the columns ``by``, in the table's order."""
    found: dict[tuple[str, ...], list[int]] = {}
    columns = [table[column].astype(str).tolist() for column in by]
    for k in selected.nonzero()[0].tolist():
        found.setdefault(tuple(column[k] for column in columns), []).append(k)
    yield from found.values()


def _rivalry(table: pandas.DataFrame, groups: Iterator[list[int]], in_a: numpy.ndarray, rivals: str) -> list[Case]:
    """A case a rival, over the groups in which a and every rival are."""
    groups_of, names = list(groups), table[rivals].astype(str).tolist()
    everyone = {names[k] for group in groups_of for k in group}
    whole = [group for group in groups_of if {names[k] for k in group} == everyone]
    cells = [k for group in whole for k in group]
    a = tuple(k for k in cells if in_a[k])
    others = sorted({names[k] for k in cells if not in_a[k]})
    if not a:
        return []
    return [Case(a, tuple(k for k in cells if names[k] == name and not in_a[k]), name) for name in others]

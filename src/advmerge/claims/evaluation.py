"""The verdict on every claim of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from advmerge import statistics
from advmerge.claims.cells import Case, Cells, cases, tally
from advmerge.claims.inference import case_values, chance, interval, number, verdict, widened
from advmerge.claims.language import LEVELS, TESTS, Claim, Names, absent, check

if TYPE_CHECKING:
    import numpy
    import pandas

TABLES = {"claims.csv": "Every claim's effect, interval, p, adjusted p, n and verdict."}


def evaluate(
    claims: Sequence[Claim],
    outcomes: pandas.DataFrame,
    accuracy: pandas.DataFrame,
    names: Names,
    confidence: float = 0.95,
    bootstrap: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """The verdict on every claim, in the order of the file, ready for JSON; see docs/claims.md for its keys.

    Raises:
        StudyError: a claim asks for what the study does not have.
    """
    import numpy as np

    check(claims, names)
    used = {claim.denominator for claim in claims}
    tallies = {
        name: tally(outcomes, accuracy, names, name, bootstrap if name in used else 0, seed)
        for name in statistics.DENOMINATORS
    }
    found = [_evaluated(claim, tallies, names, confidence) for claim in claims]

    from advmerge.comparison import holm

    adjusted = holm([np.nan if entry["p"] is None else entry["p"] for entry in found])
    for claim, entry, p in zip(claims, found, adjusted, strict=True):
        if not np.isnan(p):
            entry["p_adjusted"] = _rounded(p)
            entry["verdict"] = verdict(claim, entry["low"], entry["high"], p, 1 - confidence)
            entry["reason"] = _reason(claim, entry, 1 - confidence)
    cells = {name: _cell_rows(tallies[name]) for name in sorted(used)}
    return {"confidence": confidence, "resamples": bootstrap, "claims": found, "cells": cells}


def _evaluated(claim: Claim, tallies: Mapping[str, Cells], names: Names, confidence: float) -> dict[str, Any]:
    """Everything about a claim that does not depend on the others."""
    import numpy as np

    cells = tallies[claim.denominator]
    table = cells.table
    entry: dict[str, Any] = {
        **claim.model_dump(exclude_none=True, exclude={"if_absent"}),
        "meaning": TESTS[claim.test][0],
        **dict.fromkeys(["effect", "low", "high", "p", "p_adjusted"]),
        "verdict": "undecided",
        "n": 0,
        "images": 0,
        "n_cells": 0,
        "n_cases": 0,
        "tasks": 0,
        "tasks_agreeing": 0,
        "by_denominator": {},
        "cases": [],
    }
    if problem := absent(claim, names):
        return {**entry, "reason": f"the study lacks what is compared: {problem}"}
    found = cases(claim, table)
    if not found:
        lacks = (
            f"fewer than {LEVELS} values of {claim.along}" if claim.test == "trend" else "one side of the comparison"
        )
        return {**entry, "reason": f"the study lacks the variation: {lacks}" if claim.match else "no cell matches"}
    values = number(claim, found, table, cells.counts)
    members = sorted({k for case in found for k in (*case.a, *case.b)})
    member = np.zeros(len(table) + 1, dtype=bool)  # the last is that of rows outside the denominator
    member[members] = True
    entry |= {
        "n": int(cells.counts[0, 0, members].sum()),
        "images": len(np.unique(cells.image[member[cells.cell]])),
        "n_cells": len(members),
        "n_cases": len(found),
        "by_denominator": {
            name: _rounded(number(claim, found, table, other.counts[:1])[0]) for name, other in tallies.items()
        },
        "cases": [
            {"a": [*case.a], "b": [*case.b], "value": _rounded(value)} | ({"name": case.name} if case.name else {})
            for case, value in zip(found, case_values(claim, found, table, cells.counts[:1])[0], strict=True)
        ],
    }
    if np.isnan(values[0]):
        return {**entry, "reason": "no image is in the denominator"}
    for task in sorted(set(table["task"].iloc[members])):
        local = (table["task"] == task).to_numpy()
        here = [_within(case, local) for case in found]
        here = [case for case, whole in zip(here, found, strict=True) if case.a and bool(case.b) == bool(whole.b)]
        effect = number(claim, here, table, cells.counts[:1])[0] if here else np.nan
        if not np.isnan(effect):
            entry["tasks"] += 1
            entry["tasks_agreeing"] += int(
                effect > claim.margin if claim.direction == "greater" else effect < claim.margin
            )
    low, high, p = interval(values, claim.margin, confidence)
    if (strays := chance(claim, found, table, cells.counts)) is not None:
        low, high, p = widened((low, high, p), values[0], claim.margin, strays, confidence)
        least = 0.0 if claim.test == "share" else -1.0
        low, high = max(low, least), min(high, 1.0)
    return {**entry, "effect": _rounded(values[0]), "low": _rounded(low), "high": _rounded(high), "p": _rounded(p)}


def _within(case: Case, chosen: numpy.ndarray) -> Case:
    return Case(tuple(k for k in case.a if chosen[k]), tuple(k for k in case.b if chosen[k]), case.name)


def _reason(claim: Claim, entry: Mapping[str, Any], alpha: float) -> str:
    """Why the verdict is what it is, in a few words."""
    side = "above" if entry["low"] > claim.margin else "below" if entry["high"] < claim.margin else "across"
    if entry["verdict"] != "undecided":
        return f"the interval lies {side} the margin and adjusted p < {alpha:.3g}"
    if side == "across":
        return "the interval contains the margin"
    return f"adjusted p is not below {alpha:.3g}"


def _rounded(value: Any) -> float | None:
    """Six significant digits, alike on every machine; None for NaN."""
    return None if value is None or value != value else float(f"{float(value):.6g}")


def _cell_rows(cells: Cells) -> dict[str, Any]:
    """The cells as columns and rows: names, counts, and both ASRs."""
    counts = cells.counts[0].T.astype(int).tolist()
    keys = cells.table[statistics.CELL].to_numpy().tolist()
    rows = [[*key[:3], _rounded(key[3]), key[4], *count] for key, count in zip(keys, counts, strict=True)]
    return {"columns": [*statistics.CELL, "n", "surrogate_fooled", "target_fooled"], "rows": rows}


SUMMARY = "name verdict effect low high p p_adjusted direction margin n images n_cells n_cases tasks tasks_agreeing"
"""Columns of claims.csv, before the words."""


def summary(evaluated: Mapping[str, Any]) -> pandas.DataFrame:
    """claims.csv: a row a claim."""
    import pandas as pd

    columns = [*SUMMARY.split(), "measure", "denominator", "test", "reason", "text", "source"]
    return pd.DataFrame([{key: entry[key] for key in columns} for entry in evaluated["claims"]], columns=columns)

"""What the page says of each claim: verdict, effect with its interval, where to draw it, and the cells behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from advmerge import figures
from advmerge.claims.language import HOLDS, MEASURES
from advmerge.page.words import known, probability

SIGNS = {"supported": "✓", "contradicted": "✗", "undecided": "?"}


def quantity(claim: Mapping[str, Any], value: Any, unit: bool = True) -> str:
    r"""A value of a claim's effect: a share of cases or a level in percent, a difference in points, a correlation.

    >>> quantity({"test": "difference", "measure": "transfer_asr"}, -0.0934)
    '−9.3\xa0points'
    >>> quantity({"test": "level", "measure": "relative"}, 0.95, unit=False)
    '0.95'
    """
    if not known(value):
        return "–"
    compared = claim["test"] in ("difference", "extreme", "trend")
    sign = "−" if value < 0 else "+" if value > 0 and compared else ""
    if claim["test"] == "trend" or (claim["measure"] == "relative" and claim["test"] != "share"):
        return f"{sign}{abs(value):.2f}"
    of = ("\u00a0points" if compared else "\u00a0%") if unit else ""
    return f"{sign}{100 * abs(value):.1f}{of}"


MEASURED = {
    "transfer_asr": "transfer ASR",
    "surrogate_asr": "ASR on the surrogate",
    "excess": "transfer ASR less the ASR on the surrogate",
    "relative": "relative transfer ASR",
}


def found(claim: Mapping[str, Any]) -> str:
    """What a claim's effect is, in words, before its value."""
    measured = MEASURED.get(claim["measure"], claim["measure"])
    if claim["test"] == "share":
        return f"Holds in this share of {claim['n_cases']} cases"
    if claim["test"] == "trend":
        along = claim["along"].replace("_", " ")
        return f"Rank correlation of the {measured} with the {along}"
    if claim["test"] == "difference":
        return f"Difference in {measured}"
    if claim["test"] == "extreme":
        return f"Distance in {measured} from the closest rival"
    return measured[0].upper() + measured[1:]


def strip(claim: Mapping[str, Any], width: float = 200.0) -> dict[str, float] | None:
    """Where to draw margin, interval and effect on a line of some width, the margin in the middle."""
    ends = [claim[key] for key in ("low", "high", "effect")]
    if not all(known(end) for end in ends):
        return None
    reach = 1.15 * max(abs(end - claim["margin"]) for end in ends) or 1.0
    at = [round(width / 2 * (1 + (end - claim["margin"]) / reach), 1) for end in ends]
    return {"low": at[0], "high": at[1], "effect": at[2], "width": width, "middle": width / 2}


def verdicts(evaluated: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the page says of each claim of claims.json, in its order."""
    return [
        {
            **claim,
            "sign": SIGNS[claim["verdict"]],
            "found": found(claim),
            "effect_words": quantity(claim, claim["effect"]),
            "low_words": quantity(claim, claim["low"], unit=False),
            "high_words": quantity(claim, claim["high"], unit=False),
            "side": "above" if claim["direction"] == "greater" else "below",
            "margin_words": quantity(claim, claim["margin"]).replace(".0\u00a0", "\u00a0") if claim["margin"] else "0",
            "p_words": probability(claim["p_adjusted"]),
            "elsewhere": {name: quantity(claim, value) for name, value in claim["by_denominator"].items()},
            "strip": strip(claim),
        }
        for claim in evaluated["claims"]
    ]


CASES = 5_000
"""Of a claim with more cases than this the page holds the counts alone; claims.json has them all."""

AXES = {"task": "Task", "surrogate": "Crafted on", "attack": "Attack", "eps": "Budget", "target": "Target"}
"""The coordinates of a cell in words, in the order of :data:`statistics.CELL`."""


def behind(evaluated: Mapping[str, Any], order: figures.Order) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The cases that each verdict counts or averages: how many are on the claimed side, and every one of them.

    Returns:
        Of each claim: ``agreeing`` ``of`` cases whose value is known, the same counted ``by`` every coordinate that the
        cells of a case have in common, ``noun`` (what a case is), ``shown`` and ``total``.
        For the page's script: ``texts``, and by claim ``axes``, ``sides``, ``kind`` and ``rows``. A row is [the common
        coordinates…, name of a, of b, measure of a, of b, value, rows of the denominator]; names are positions in
        ``texts``, numbers ten-thousandths. Of a claim without sides all four are left out.
    """
    texts: dict[str, int] = {}
    said, sent = [], {}
    for claim in evaluated["claims"]:
        if claim["cases"]:
            summary, sent[claim["name"]] = _behind(claim, evaluated["cells"][claim["denominator"]], order, texts)
            said.append(summary)
        else:
            said.append({"of": 0})
    return said, {"texts": list(texts), "claims": sent}


def _behind(
    claim: Mapping[str, Any], cells: Mapping[str, Any], order: figures.Order, texts: dict[str, int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    single = len(claim["cases"]) == 1 and not claim["cases"][0]["b"]  # all pooled: its cells say more
    cases: list[dict[str, Any]] = claim["cases"]
    if single:
        cases = [{"a": [k], "b": [], "value": None} for k in cases[0]["a"]]
    sides = bool(cases[0]["b"])
    column = {name: k for k, name in enumerate(cells["columns"])}
    names = [
        [
            figures.budget(math.nan if value is None else value) if axis == "eps" else value
            for axis, value in zip(AXES, row, strict=False)
        ]
        for row in cells["rows"]
    ]
    counts = [[row[column[name]] for name in ("n", "surrogate_fooled", "target_fooled")] for row in cells["rows"]]

    def measure(members: Sequence[int]) -> float:
        n, surrogate, target = (sum(counts[k][column] for k in members) for column in range(3))
        return float(MEASURES[claim["measure"]](n, surrogate, target))

    def holds(value: float) -> bool:
        if claim["test"] == "share":
            return bool(HOLDS[claim["holds"]](value))
        return value > claim["margin"] if claim["direction"] == "greater" else value < claim["margin"]

    def common(members: Sequence[int]) -> set[int]:
        return {k for k in range(len(AXES)) if len({names[member][k] for member in members}) == 1}

    def written(name: str) -> int:
        return texts.setdefault(order.label(name), len(texts))

    def side(members: Sequence[int]) -> int:
        """What tells a side apart from the other: the values of its own that all its cells share."""
        own = sorted(common(members) - set(shared))
        return texts.setdefault(", ".join(order.label(names[members[0]][k]) for k in own) or "several", len(texts))

    def whole(value: float | None) -> int | None:
        return round(10_000 * value) if value is not None and known(value) else None

    shared = sorted(set.intersection(*(common([*case["a"], *case["b"]]) for case in cases)))
    tallies: list[dict[str, list[int]]] = [{} for _ in shared]
    rows, agreeing, of = [], 0, 0
    for case in cases:
        value = measure(case["a"]) if case["value"] is None and single else case["value"]
        here = [names[case["a"][0]][k] for k in shared]
        if value is not None and known(value):
            good = holds(value)
            agreeing, of = agreeing + good, of + 1
            for tally, name in zip(tallies, here, strict=True):
                count = tally.setdefault(name, [0, 0])
                count[0], count[1] = count[0] + good, count[1] + 1
        if len(cases) <= CASES:
            both = (
                [side(case["a"]), side(case["b"]), whole(measure(case["a"])), whole(measure(case["b"]))]
                if sides
                else []
            )
            rows.append([*map(written, here), *both, whole(value), sum(counts[k][0] for k in case["a"])])
    listed: tuple[Sequence[str], ...] = (order.tasks, order.surrogates, order.attacks, [], order.targets)
    words = list(AXES.values())
    summary = {
        "noun": "cells" if single else "cases",
        "agreeing": agreeing,
        "of": of,
        "total": len(cases),
        "shown": len(rows),
        "by": [
            {"axis": words[k], "counts": [[order.label(name), *tally[name]] for name in order.among(tally, listed[k])]}
            for k, tally in zip(shared, tallies, strict=True)
            if len(tally) > 1
        ],
    }
    if claim["test"] == "trend":
        kind = "correlation"
    elif claim["measure"] == "relative":
        kind = "ratio"
    else:
        kind = "points" if sides or claim["measure"] == "excess" else "share"
    return summary, {"axes": [words[k] for k in shared], "sides": sides, "kind": kind, "rows": rows}


def counted(evaluated: Mapping[str, Any]) -> dict[str, int]:
    """How many claims have each verdict."""
    given = [claim["verdict"] for claim in evaluated["claims"]]
    return {verdict: given.count(verdict) for verdict in SIGNS}

"""The comparison of methods: average ranks, tests in pairs, and the regression of everything at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from advmerge import comparison, figures, figures_ranks
from advmerge.page.words import known, plain, probability

if TYPE_CHECKING:
    import pandas

UNITS = {"task": "tasks", "cell": "cells (task, attack, budget)"}
"""What a block of ranks is: its name in the table -> in words."""

PAIRS = 20_000
"""More pairs than this are not sent one attack at a time, only pooled over attacks."""

PAIR = ("n", "images", "difference", "low", "high", "p_holm", "tasks", "tasks_a_higher")
"""What the page knows of a pair of targets."""


def ranking(tables: Mapping[str, pandas.DataFrame], order: figures.Order) -> list[dict[str, Any]]:
    """Average ranks under each surrogate and unit, with how far apart two must lie and the power of telling so.

    ``cliques`` are the longest runs of rows that Nemenyi's test does not tell apart: (first, last), by position.
    """
    ranks = tables["comparison_ranks.csv"]
    found = []
    for name in order.among(ranks["surrogate"], order.surrogates):
        for unit in order.among(ranks["unit"], list(UNITS)):
            rows = ranks[(ranks["surrogate"] == name) & (ranks["unit"] == unit)].sort_values(["mean_rank", "target"])
            mean, first = rows["mean_rank"].tolist(), rows.iloc[0]
            found.append(
                {
                    "surrogate": name,
                    "unit": unit,
                    "blocks": int(first["blocks"]),
                    "critical_distance": round(float(first["critical_distance"]), 4),
                    "friedman_p": probability(first["friedman_p"]),
                    "power": round(float(first["power"]), 4),
                    "detectable": plain(first["detectable"]) if known(first["detectable"]) else "over 6",
                    "targets": [order.label(target) for target in rows["target"]],
                    "ranks": [round(rank, 4) for rank in mean],
                    "cliques": [
                        [mean.index(low), len(mean) - 1 - mean[::-1].index(high)]
                        for low, high in figures_ranks.alike(mean, float(first["critical_distance"]))
                    ],
                }
            )
    return found


def setting(attack: str, eps: float, order: figures.Order) -> str:
    """An attack and its budget in words."""
    if attack == comparison.ALL:
        return "All attacks together"
    sign = "ε\u00a0=\u00a0" if eps == eps else ""
    return f"{order.label(attack)}, {sign}{figures.budget(eps)}"


def settings(table: pandas.DataFrame, order: figures.Order) -> list[tuple[str, float]]:
    """The (attack, budget) of a table, all attacks together first, then in the study's order."""
    import pandas as pd

    present = pd.Index(zip(table["attack"], table["eps"].map(figures.budget), strict=True)).unique()
    levels = figures.budgets(table["eps"])
    return [
        (attack, eps)
        for attack in order.among(table["attack"], [comparison.ALL, *order.attacks])
        for eps in levels
        if (attack, figures.budget(eps)) in present
    ]


def pairs(tables: Mapping[str, pandas.DataFrame], order: figures.Order) -> dict[str, Any]:
    """Every pair of targets: ``rows`` are [surrogate, setting, a, b, …] and :data:`PAIR`, names as positions.

    Targets stand in the order of their average ranks over tasks, the most often fooled first. Shares are
    ten-thousandths and p is a millionth, which is more than the page shows.
    """
    table = tables["comparison_pairs.csv"]
    whole = len(table) <= PAIRS
    table = table if whole else table[table["attack"] == comparison.ALL]
    surrogates = order.among(table["surrogate"], order.surrogates)
    targets = order.among({*table["a"], *table["b"]}, order.targets)
    found = settings(table, order)
    place = {(attack, figures.budget(eps)): k for k, (attack, eps) in enumerate(found)}
    shares = ["difference", "low", "high"]
    numbers = table[list(PAIR)].assign(**{name: (10_000 * table[name]).round() for name in shares})
    numbers["p_holm"] = (1e6 * numbers["p_holm"]).round()
    rows = []
    for surrogate, attack, eps, a, b, *values in zip(
        *(table[key].tolist() for key in ("surrogate", "attack", "eps", "a", "b")),
        *(numbers[key].astype(float).tolist() for key in PAIR),
        strict=True,
    ):
        key = [surrogates.index(surrogate), place[attack, figures.budget(eps)], targets.index(a), targets.index(b)]
        rows.append((key, [int(value) if known(value) else None for value in values]))
    return {
        "whole": whole,
        "columns": list(PAIR),
        "surrogates": surrogates,
        "targets": targets,
        "settings": [setting(attack, eps, order) for attack, eps in found],
        "rows": [[*key, *values] for key, values in sorted(rows, key=lambda row: row[0])],
    }


TERMS = {
    "target": "Target",
    "surrogate": "Crafted on",
    "attack": "Attack",
    "doublings": "ε doubled",
    "accuracy": "10 points more accuracy",
}
"""The terms of the regression, in the order in which they are shown, but the intercept."""

MODELS = {"mixed": "mixed (an image's own intercept)", "marginal": "marginal (average over images)"}


def regression(tables: Mapping[str, pandas.DataFrame], order: figures.Order) -> dict[str, Any]:
    """Odds ratios of the two models, a row a level in the study's order; a level never told apart has no interval.

    ``rows``: term in words, level, reference, and by model [odds ratio, low, high, p]; what a model says nothing of is
    None. ``fitted`` is how many rows and images, ``sd`` the spread of images' intercepts in log-odds.
    """
    import numpy as np

    table = tables["comparison_model.csv"]
    table = table.assign(**{name: table[name].astype(object).fillna("") for name in ("level", "reference")})
    listed = {"target": order.targets, "surrogate": order.surrogates, "attack": order.attacks}
    rows = []
    for term, words in TERMS.items():
        here = table[table["term"] == term]
        for level in order.among(here["level"], listed.get(term, [""])):
            found: dict[str, Any] = {}
            for row in here[here["level"] == level].sort_values("model").itertuples():
                ends = [float(np.exp(np.clip(end, -50, 50))) for end in (row.estimate, row.low, row.high)]
                found[row.model] = [float(f"{end:.5g}") if known(end) else None for end in ends] + [probability(row.p)]
            reference = here["reference"].iloc[0]
            rows.append(
                {
                    "term": words,
                    "level": order.label(level) if level else "",
                    "reference": order.label(reference) if reference else "",
                    "estimates": found,
                }
            )
    spread = table.loc[table["term"] == "sd of image", "estimate"]
    return {
        "rows": rows,
        "models": {name: words for name, words in MODELS.items() if (table["model"] == name).any()},
        "fitted": {row.model: [int(row.rows), int(row.images)] for row in table.sort_values("model").itertuples()},
        "sd": plain(spread.iloc[0]) if len(spread) else None,
    }

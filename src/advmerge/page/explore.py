"""The question answered in a table, and what the interactive plots of every cell are drawn from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from advmerge import figures, statistics

if TYPE_CHECKING:
    import pandas

RATES = ("n", "asr", "transfer_asr", "low", "high", "relative", "relative_low", "relative_high", "unchanged")
"""What the page knows of a cell under a denominator; all but n in ten-thousandths, which is more than it shows."""

WHOLE = 20_000
"""Of a study with more cells than this those of a single task are sent under the primary denominator alone."""

METHODS = ("n", "images", "transfer_asr", "transfer_low", "transfer_high", "relative", "low", "high")
"""What the page knows of a method under a denominator, attacks pooled."""


DENOMINATOR_WORDS = {
    "all": "all images",
    "target": "target right when clean",
    "both": "surrogate and target right when clean",
    "fooled": "and the surrogate fooled",
}


def answer(
    tables: Mapping[str, pandas.DataFrame], merged: Sequence[str], order: figures.Order
) -> dict[str, Any] | None:
    """The question answered under the primary denominator: a line each kind of example, a column each budget.

    A cell holds the least and the largest transfer ASR over the merged models and, for examples of a surrogate, the
    range of relative transfer ASR; ``lead`` says in a sentence what stands at the largest budget. None where no
    example was transferred.
    """
    methods, noise = tables["relative_by_method.csv"], tables["rates_by_target.csv"]
    methods, noise = (
        table[(table["denominator"] == statistics.PRIMARY) & table["target"].isin(list(merged))]
        for table in (methods, noise)
    )
    noise = noise[noise["attack"].isin(list(order.controls))]
    white = methods["surrogate"] == methods["target"]
    surrogates = order.among(methods.loc[~white, "surrogate"], order.surrogates)
    if not surrogates:
        return None
    levels = figures.budgets(methods["eps"])

    def cell(rows: pandas.DataFrame, eps: float, ratios: bool) -> dict[str, str] | None:
        rows = rows[(rows["eps"].isna() if math.isnan(eps) else rows["eps"] == eps) & rows["transfer_asr"].notna()]
        if rows.empty:
            return None
        rates, ratio = 100 * rows["transfer_asr"], rows["relative"].dropna() if ratios else []
        return {
            "rates": f"{rates.min():.1f}–{rates.max():.1f}\u00a0%",
            "ratio": f"{min(ratio):.2f}–{max(ratio):.2f}" if len(ratio) else "",
        }

    kinds = [
        *((f"crafted on {order.label(s)}", methods[~white & (methods["surrogate"] == s)], True) for s in surrogates),
        ("crafted on the merged model itself", methods[white], False),
        ("random noise of the same size", noise, False),
    ]
    cells = {name: [cell(rows, eps, ratios) for eps in levels] for name, rows, ratios in kinds}
    cells = {name: row for name, row in cells.items() if any(row)}
    largest = max(range(len(levels)), key=lambda k: -1 if math.isnan(levels[k]) else levels[k])
    said = [f"{name} in {shown['rates']}" for name, row in cells.items() if (shown := row[largest])]
    eps = levels[largest]
    within = "without a budget" if math.isnan(eps) else f"at ε\u00a0=\u00a0{figures.budget(eps)}"
    return {
        "lead": f"Share of images that fool the merged models, from the least to the most often fooled one, {within}: "
        f"{'; '.join(said)}.",
        "eps": [figures.budget(eps) for eps in levels],
        "lines": [{"name": name, "cells": row} for name, row in cells.items()],
        "models": methods["target"].nunique(),
    }


def _named(names: Iterable[str], order: figures.Order) -> list[dict[str, str]]:
    return [{"name": name, "label": order.label(name)} for name in names]


def explorer(
    tables: Mapping[str, pandas.DataFrame], merged: Sequence[str], order: figures.Order, confidence: float
) -> dict[str, Any]:
    """What the interactive plots are drawn from: every cell and method under every denominator, small enough to send.

    ``cells`` are [task, surrogate, attack, eps, target, …], names as positions in the lists beside it, the task −1
    for all together, and then :data:`RATES` under each denominator in turn; ``methods`` are [surrogate, eps, target,
    …] and :data:`METHODS`. With more than :data:`WHOLE` cells those of a task have the primary denominator alone.
    """
    import pandas as pd

    keys = ["task", "surrogate", "attack", "eps", "target", "denominator"]
    parts = []
    for rates, ratios in (("rates_by_cell", "relative_by_cell"), ("rates_by_target", "relative_by_target")):
        shared = [key for key in keys if key in tables[f"{rates}.csv"]]
        ratio = tables[f"{ratios}.csv"][[*shared, "relative", "low", "high"]]
        ratio = ratio.rename(columns={"low": "relative_low", "high": "relative_high"})
        parts.append(tables[f"{rates}.csv"].merge(ratio, on=shared, how="left"))
    cells = pd.concat(parts, ignore_index=True)
    methods = tables["relative_by_method.csv"]
    accuracy = tables["accuracy_by_model.csv"]
    accuracy = accuracy[accuracy["split"] == "test"]

    tasks = order.among(parts[0]["task"], order.tasks)
    targets = order.among(cells["target"], order.targets)
    surrogates = order.among(set(cells["surrogate"]) & set(order.surrogates), order.surrogates)
    models = list(dict.fromkeys([*surrogates, *targets, *sorted(set(cells["surrogate"]))]))
    attacks = order.among(cells["attack"], order.attacks)
    eps = [figures.budget(value) for value in figures.budgets(cells["eps"])]
    denominators = list(statistics.DENOMINATORS)

    def positions(column: pandas.Series, names: Sequence[str]) -> pandas.Series:
        return column.map({name: k for k, name in enumerate(names)}).fillna(-1).astype(int)

    def packed(table: pandas.DataFrame, axes: Mapping[str, Sequence[str]], columns: Sequence[str]) -> list[list[Any]]:
        table = table.assign(eps=table["eps"].map({value: figures.budget(value) for value in table["eps"].unique()}))
        table = table.assign(**{key: positions(table[key], names) for key, names in axes.items()})
        whole = [column for column in columns if column in ("n", "images")]
        shares = [column for column in columns if column not in whole]
        table[shares] = (10_000 * table[shares]).round()
        rows: dict[tuple[int, ...], list[Any]] = {}
        at = dict(zip(denominators, range(len(denominators)), strict=True))
        table = table.sort_values(list(axes), kind="stable")
        for *key, denominator, values in zip(
            *(table[axis].tolist() for axis in axes),
            table["denominator"].tolist(),
            table[list(columns)].to_numpy(dtype=float).tolist(),
            strict=True,
        ):
            row = rows.setdefault(tuple(key), [None] * (len(denominators) * len(columns)))
            start = at[denominator] * len(columns)
            row[start : start + len(columns)] = [int(value) if value == value else None for value in values]
        return [[*key, *row] for key, row in rows.items()]

    def cut(rows: list[list[Any]]) -> list[list[Any]]:
        if len(rows) <= WHOLE:
            return rows
        start = 5 + len(RATES) * denominators.index(statistics.PRIMARY)
        return [row if row[0] < 0 else [*row[:5], *row[start : start + len(RATES)]] for row in rows]

    # NaN has no equal, so the names of budgets are keys, not the budgets
    axes = {"task": tasks, "surrogate": models, "attack": attacks, "eps": eps, "target": targets}
    return {
        "confidence": confidence,
        "denominators": [
            {"name": name, "label": f"{name}: {DENOMINATOR_WORDS.get(name, name)}"} for name in denominators
        ],
        "primary": statistics.PRIMARY,
        "rates": list(RATES),
        "method_rates": list(METHODS),
        "tasks": _named(tasks, order),
        "models": _named(models, order),
        "surrogates": surrogates,
        "targets": _named(targets, order),
        "merged": [name for name in targets if name in merged],
        "attacks": [{**entry, "control": entry["name"] in order.controls} for entry in _named(attacks, order)],
        "eps": eps,
        "cells": cut(packed(cells, axes, RATES)),
        "methods": packed(methods, {key: axes[key] for key in ("surrogate", "eps", "target")}, METHODS),
        "accuracy": sorted(
            [targets.index(row.model), *(round(10_000 * rate) for rate in (row.accuracy, row.low, row.high))]
            for row in accuracy.itertuples()
            if row.model in targets
        ),
    }

"""What goes with transfer: alignment, surgery by dose, and the weights between pretrained, fine-tuned and merged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from advmerge import associations, figures
from advmerge.page.compared import setting, settings
from advmerge.page.words import known

if TYPE_CHECKING:
    import pandas

TABLES = tuple(f"explanations_{name}.csv" for name in ("by_cell", "correlation", "dose", "path", "plane"))

CURVES = (
    "loss",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "representation_bias",
    "n",
    "transfer_asr",
    "low",
    "high",
)
"""What the page knows of a point of dose, path or plane, after the surrogate."""


def _number(value: Any, digits: int = 4) -> float | str | None:
    """A number to some significant digits; what JSON cannot hold as null (unknown) or as ``inf``."""
    if not known(value):
        return None
    return "inf" if math.isinf(value) else float(f"{value:.{digits}g}")


def _curve(table: pandas.DataFrame, at: Sequence[str], names: Sequence[str]) -> list[list[Any]]:
    """Rows [*at, surrogate, …] and :data:`CURVES`."""
    table = table[table["surrogate"].isin(list(names))].sort_values([*at, "surrogate"], kind="stable")
    return [
        [*(row[name] for name in at), row["surrogate"], *(_number(row[name]) for name in CURVES)]
        for row in table.to_dict("records")
    ]


def explained(
    tables: Mapping[str, pandas.DataFrame], config: Mapping[str, Any], order: figures.Order
) -> dict[str, Any]:
    """What the plots of explanations are drawn from.

    ``cells`` are [task, surrogate, target, measures, [transfer ASR, n] by setting], names as positions, in the order of
    ``measures`` and ``settings``; measures are of the models alone, but those along perturbations, which are of the
    attack ``settings[examples]``. ``correlations`` are [rho, lowest, highest] by setting, measure and ``given``.
    """
    cells, correlation = tables["explanations_by_cell.csv"], tables["explanations_correlation.csv"]
    cells = cells[cells["n"] > 0]
    attack, eps = config["attack"], math.nan if config["eps"] is None else config["eps"]
    found = settings(cells, order)
    place = {(name, figures.budget(value)): k for k, (name, value) in enumerate(found)}
    measures = [name for name in associations.MEASURES if name in cells and cells[name].notna().any()]
    axes = {
        "task": order.among(cells["task"], order.tasks),
        "surrogate": order.among(cells["surrogate"], order.surrogates),
        "target": order.among(cells["target"], order.targets),
    }
    packed: dict[tuple[int, ...], tuple[list[Any], list[Any]]] = {}
    for row in cells.sort_values(list(axes), kind="stable").to_dict("records"):
        key = tuple(names.index(row[axis]) for axis, names in axes.items())
        values, rates = packed.setdefault(key, ([None] * len(measures), [None] * len(found)))
        for k, name in enumerate(measures):
            values[k] = _number(row[name]) if known(row[name]) else values[k]
        rates[place[row["attack"], figures.budget(row["eps"])]] = [_number(row["transfer_asr"]), int(row["n"])]

    given = list(associations.GIVEN)
    rho: list[dict[str, list[Any]]] = [{name: [None] * len(given) for name in measures} for _ in found]
    for row in correlation.fillna({"given": ""}).to_dict("records"):
        at = place.get((row["attack"], figures.budget(row["eps"])))
        if at is not None and row["measure"] in measures:
            numbers = [_number(row[name]) for name in ("rho", "lowest", "highest")]
            rho[at][row["measure"]][given.index(row["given"])] = numbers
    return {
        **axes,
        "measures": [{"name": name, "label": associations.MEASURES[name]} for name in measures],
        "settings": [setting(name, at, order) for name, at in found],
        "examples": place.get((attack, figures.budget(eps))),
        "words": setting(attack, eps, order),
        "cells": [[*key, *values] for key, values in packed.items()],
        "given": given,
        "correlations": rho,
        "curves": list(CURVES),
        "dose": _curve(tables["explanations_dose.csv"], ["target", "dose"], axes["surrogate"]),
        "path": _curve(tables["explanations_path.csv"], ["scale"], axes["surrogate"]),
        "plane": _curve(tables["explanations_plane.csv"], ["toward_expert", "toward_merged"], axes["surrogate"]),
        "vector": config["path"]["vector"],
        "vectors": config["path"]["vectors"],
        "merged": order.label(config["plane"]["merged"]),
    }

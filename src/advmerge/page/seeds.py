"""What another fine-tuning changes: the numbers of each seed, and their spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from advmerge import figures
from advmerge.page.words import known

if TYPE_CHECKING:
    import pandas

KEYS = ("quantity", "model", "surrogate", "eps", "denominator")
"""What a row is of: ``accuracy``, ``transfer_asr`` or ``relative``; accuracy has neither surrogate nor what follows."""


def seeds(tables: Mapping[str, pandas.DataFrame], order: figures.Order) -> dict[str, Any]:
    """The numbers of every target by seed of fine-tuning, and their spread; of one seed just its number.

    ``rows`` are :data:`KEYS`, then the values in the order of ``seeds``, then [mean, sd, low, high].
    """
    by_seed, spread = tables["seeds.csv"], tables["seeds_spread.csv"]
    names = sorted({int(seed) for seed in by_seed["seed"]})
    if len(names) < 2:
        return {"seeds": names, "rows": []}

    def keys(row: Mapping[str, Any]) -> tuple[str, ...]:
        of = [row["surrogate"], figures.budget(row["eps"]), row["denominator"]] if known(row["surrogate"]) else [""] * 3
        return (row["quantity"], row["model"], *of)

    def rounded(values: list[float | None]) -> list[float | None]:
        return [round(value, 4) if value is not None and known(value) else None for value in values]

    values: dict[tuple[str, ...], dict[int, float]] = {}
    for row in by_seed.to_dict("records"):
        values.setdefault(keys(row), {})[int(row["seed"])] = row["value"]
    rows = [
        [
            *key,
            rounded([values[key].get(seed) for seed in names]),
            rounded([row[name] for name in ("mean", "sd", "low", "high")]),
        ]
        for row in spread.to_dict("records")
        if (key := keys(row))[1] in order.targets and key[1] != key[2]
    ]
    return {"seeds": names, "rows": sorted(rows, key=lambda row: row[: len(KEYS)])}

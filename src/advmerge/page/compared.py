"""The comparison of methods: average ranks, tests in pairs, and the regression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from advmerge import figures
from advmerge.page.words import probability

if TYPE_CHECKING:
    import pandas


def ranking(tables: Mapping[str, pandas.DataFrame], order: figures.Order) -> list[dict[str, Any]]:
    """Average ranks over tasks under each surrogate, with how far apart two must lie and the power of telling so."""
    ranks = tables["comparison_ranks.csv"]
    ranks = ranks[ranks["unit"] == "task"]
    return [
        {
            "surrogate": order.label(name),
            "blocks": int(rows["blocks"].iloc[0]),
            "critical_distance": rows["critical_distance"].iloc[0],
            "friedman_p": probability(rows["friedman_p"].iloc[0]),
            "power": rows["power"].iloc[0],
            "rows": [
                {"target": order.label(row.target), "rank": row.mean_rank}
                for row in rows.sort_values(["mean_rank", "target"]).itertuples()
            ],
        }
        for name in order.among(ranks["surrogate"], order.surrogates)
        for rows in (ranks[ranks["surrogate"] == name],)
    ]

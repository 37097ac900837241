"""The rows that targets are compared on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas


SETTING = ["attack", "eps"]


def transfers(outcomes: pandas.DataFrame) -> pandas.DataFrame:
    """The rows whose surrogate is not the target itself, names as categories in their order, in one order."""
    import pandas as pd

    names = ["task", "surrogate", "attack", "target"]
    rows = outcomes[outcomes["surrogate"].astype(str) != outcomes["target"].astype(str)]
    found = {name: pd.factorize(rows[name], sort=True) for name in names}
    rows = rows.assign(
        **{name: pd.Categorical.from_codes(codes, [*map(str, of)]) for name, (codes, of) in found.items()}
    )
    return rows.sort_values([*names, "eps", "image"], ignore_index=True)

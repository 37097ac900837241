"""Average ranks of the targets, and how far apart they must lie: Friedman's and Nemenyi's tests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from advmerge import statistics
from advmerge.comparison.rows import SETTING, transfers
from advmerge.seeding import numpy_generator

if TYPE_CHECKING:
    import pandas


@cache
def critical_distance(methods: int, blocks: int, alpha: float = 0.05) -> float:
    """Nemenyi's critical distance of average ranks (Demšar 2006)."""
    import numpy as np
    from scipy.stats import studentized_range

    q = studentized_range.ppf(1 - alpha, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * blocks)))


@cache
def nemenyi_power(methods: int, blocks: int, shift: float, alpha: float = 0.05, draws: int = 1000) -> float:
    """How often ranks tell apart two methods that differ by ``shift``, simulated.

    Scores are independent and normal with standard deviation 1 within a block; one method's are ``shift`` higher.
    The share of ``draws`` in which its average rank is more than the critical distance from a certain other one's.
    """
    from scipy.stats import rankdata

    scores = numpy_generator(0, "nemenyi", methods, blocks).normal(size=(draws, blocks, methods))
    scores[..., 0] += shift
    mean = rankdata(scores, axis=2).mean(axis=1)
    return float((mean[:, 0] - mean[:, 1] > critical_distance(methods, blocks, alpha)).mean())


@cache
def detectable(methods: int, blocks: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest shift, in quarters of a standard deviation up to 6, that ranks find with this power; else NaN."""
    for quarters in range(1, 25):
        if nemenyi_power(methods, blocks, quarters / 4, alpha, draws=400) >= power:
            return quarters / 4
    return float("nan")


def ranks(
    outcomes: pandas.DataFrame, confidence: float = 0.95, controls: Sequence[str] = statistics.CONTROLS
) -> pandas.DataFrame:
    """Average ranks of the targets by transfer ASR under each surrogate; rank 1 is the most often fooled.

    ``unit`` says what a block is: a ``task``, its attacks pooled; or a ``cell`` (task, attack, budget). Tasks share no
    image, so their critical distance holds; cells share images and models, so theirs is too small and is a bound at
    best. Blocks that lack a target are left out.

    It has these columns, besides surrogate, unit, target.

    Columns:
        blocks: how many.
        mean_rank: averaged over blocks; ties share their ranks.
        critical_distance: two targets differ by Nemenyi's test if their mean ranks differ by more.
        friedman_p: that all targets are alike.
        power: of telling apart two targets one standard deviation (of a block) apart, simulated.
        detectable: the smallest difference, in standard deviations, that is found with power 0.8; NaN above 6.
    """
    import numpy as np
    import pandas as pd
    from scipy.stats import friedmanchisquare, rankdata

    rows = statistics.without_controls(transfers(outcomes), controls)
    alpha = 1 - confidence
    found = []
    for unit, block in (("task", ["task"]), ("cell", ["task", *SETTING])):
        rates = statistics.rates(rows, ["surrogate", *block, "target"])
        for surrogate, part in rates.groupby("surrogate"):
            part = part.assign(eps=part["eps"].fillna(-1)) if "eps" in part else part
            wide = part.pivot_table(index=block, columns="target", values="transfer_asr").dropna()
            blocks, methods = wide.shape
            if blocks < 1 or methods < 2:
                continue
            enough = blocks > 1 and methods > 2 and bool((wide.max(axis=1) > wide.min(axis=1)).any())
            found.append(
                pd.DataFrame(
                    {
                        "surrogate": surrogate,
                        "unit": unit,
                        "target": wide.columns,
                        "blocks": blocks,
                        "mean_rank": rankdata(-wide.to_numpy(), axis=1).mean(axis=0),
                        "critical_distance": critical_distance(methods, blocks, alpha),
                        "friedman_p": float(friedmanchisquare(*wide.to_numpy().T).pvalue) if enough else np.nan,
                        "power": nemenyi_power(methods, blocks, 1, alpha),
                        "detectable": detectable(methods, blocks, alpha),
                    }
                )
            )
    columns = [
        "surrogate",
        "unit",
        "target",
        *["blocks", "mean_rank", "critical_distance", "friedman_p", "power", "detectable"],
    ]
    if not found:
        return pd.DataFrame(columns=columns)
    table = pd.concat(found, ignore_index=True)
    return table.sort_values(["surrogate", "unit", "mean_rank", "target"], ignore_index=True)[columns]

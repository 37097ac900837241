"""Pairs of targets on the same images: McNemar's test, Holm's adjustment, and effect sizes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from advmerge import statistics
from advmerge.comparison.rows import SETTING, transfers

if TYPE_CHECKING:
    import numpy
    import pandas


ALL = "(all)"
"""The attack of a row that pools every attack but the controls."""


def holm(p: Any) -> numpy.ndarray:
    """Holm's adjustment of a family of p-values; NaN stays NaN and is no member of the family."""
    import numpy as np

    p = np.asarray(p, dtype=float)
    adjusted, known = np.full(p.shape, np.nan), np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    # statsmodels has it too, but collects garbage at each call, which costs more than all our families together
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted


def mcnemar(only_a: Any, only_b: Any) -> numpy.ndarray:
    """Exact two-sided McNemar p-values, elementwise: of the images that fool just one, half should fool ``a``."""
    import numpy as np
    from scipy.stats import binom

    only_a, only_b = np.asarray(only_a), np.asarray(only_b)
    return np.minimum(1, 2 * binom.cdf(np.minimum(only_a, only_b), only_a + only_b, 0.5))


def paired_difference(only_a: Any, only_b: Any, n: Any, confidence: float) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Interval of a difference of two paired shares: Wald's after half a count more a cell (Agresti and Min 2005)."""
    import numpy as np
    from scipy.stats import norm

    a, b, n = np.asarray(only_a) + 0.5, np.asarray(only_b) + 0.5, np.asarray(n) + 2.0
    half = norm.ppf((1 + confidence) / 2) * np.sqrt(a + b - (a - b) ** 2 / n) / n
    centre = (a - b) / n
    return np.maximum(centre - half, -1), np.minimum(centre + half, 1)


def paired_odds(only_a: Any, only_b: Any, confidence: float) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Interval of the conditional odds ratio ``only_a / only_b``: Clopper and Pearson's for the share of discordant."""
    import numpy as np
    from scipy.stats import beta

    a, b = np.asarray(only_a, dtype=float), np.asarray(only_b, dtype=float)
    tail = (1 - confidence) / 2
    # the lower end for a against b is one over the upper end for b against a
    odds = [np.where(x > 0, beta.ppf(tail, np.maximum(x, 1), y + 1), 0) for x, y in ((a, b), (b, a))]
    low = odds[0] / (1 - odds[0])
    high = np.divide(1 - odds[1], odds[1], out=np.full(a.shape, np.inf), where=odds[1] > 0)
    return low, high


def pairs(
    outcomes: pandas.DataFrame,
    confidence: float = 0.95,
    bootstrap: int = 2000,
    seed: int = 0,
    controls: Sequence[str] = statistics.CONTROLS,
) -> pandas.DataFrame:
    """Every pair of targets under every surrogate: by attack and budget, and over all attacks together.

    By attack and budget an image counts once: McNemar's exact test over images. Over all attacks (``attack`` is
    :data:`ALL`, the controls left out), and wherever a study has several seeds, an image has many rows: its two shares
    of fooling rows are compared by Wilcoxon's signed-rank test over images, and the intervals are of a bootstrap over
    images within tasks. Two targets are compared within a seed. Holm's adjustment is over the pairs of one surrogate,
    attack and budget.

    It has these columns, besides surrogate, attack, eps, control, a, b.

    Columns:
        n, images: rows in which the surrogate and both targets are right when clean; distinct images among them.
        only_a, only_b: rows whose example fools just that one.
        asr_a, asr_b: shares of the n rows that fool it.
        difference, low, high: asr_a − asr_b.
        odds_ratio, odds_low, odds_high: only_a / only_b (paired, conditional); over all attacks half a row is added
            to both counts.
        test, p, p_holm: which test, its p-value, and adjusted.
        tasks, tasks_a_higher: tasks with such rows, and those of them in which a is fooled more often.
        p_tasks: sign test over tasks (equal ones left out): speaks of other tasks, and with few of them knows little.
    """
    import pandas as pd

    rows = transfers(outcomes)
    found = [
        table.assign(surrogate=surrogate)
        for surrogate, part in rows.groupby("surrogate")
        for table in _pairs_of_surrogate(part, confidence, bootstrap, seed, controls)
    ]
    columns = "surrogate attack eps control a b n images only_a only_b asr_a asr_b difference low high odds_ratio"
    columns += " odds_low odds_high test p p_holm tasks tasks_a_higher p_tasks"
    table = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns.split())
    family = ["surrogate", *SETTING]
    table["p_holm"] = table.groupby(family, dropna=False)["p"].transform(lambda p: holm(p.to_numpy(dtype=float)))
    return table[columns.split()]


def _pairs_of_surrogate(
    rows: pandas.DataFrame, confidence: float, bootstrap: int, seed: int, controls: Sequence[str]
) -> list[pandas.DataFrame]:
    """The pairs under one surrogate: by attack and budget, then over all attacks."""
    import numpy as np
    import pandas as pd
    from scipy.stats import binomtest, wilcoxon

    def numbered(columns: list[str]) -> tuple[pandas.DataFrame, numpy.ndarray]:
        keys = rows[columns].drop_duplicates().sort_values(columns, ignore_index=True)
        return keys.astype(dict.fromkeys(keys.columns.intersection(["task", "attack"]), "str")), rows.groupby(
            columns, dropna=False
        ).ngroup().to_numpy()

    units, unit = numbered(["task", "image"])
    within, column = numbered([*SETTING, "seed"])
    firsts = np.flatnonzero(~within.duplicated(SETTING).to_numpy())  # a setting's seeds are in a run
    names = within.loc[firsts, SETTING].reset_index(drop=True)
    once = len(firsts) == len(within)
    targets, target = numbered(["target"])
    # [images, settings and seeds, targets]: 1 fooled, 0 not, -1 no such row or not in the denominator
    state = np.full((len(units), len(within), len(targets)), -1, dtype=np.int8)
    fooled = (rows["target_adversarial"] != rows["label"]).to_numpy().astype(np.int8)
    state[unit, column, target] = np.where(statistics.both_right(rows), fooled, -1)
    control = names["attack"].isin(list(controls)).to_numpy()
    starts = np.flatnonzero(~units["task"].duplicated().to_numpy())  # units are in the order of their tasks

    def over_images(counts: numpy.ndarray) -> dict[str, Any]:
        """Of [4, images] rows in both, that fool a alone, b alone, both: an image's rows are one observation."""
        total, seen = counts.sum(axis=1), counts[0] > 0
        excess = (counts[1] - counts[2])[seen] / counts[0][seen]
        of_tasks = np.add.reduceat(counts, starts, axis=1)
        signs = int((of_tasks[1] > of_tasks[2]).sum()), int((of_tasks[1] < of_tasks[2]).sum())
        return {
            "n": int(total[0]),
            "images": int(seen.sum()),
            "only_a": int(total[1]),
            "only_b": int(total[2]),
            "asr_a": (total[1] + total[3]) / total[0],
            "asr_b": (total[2] + total[3]) / total[0],
            "odds_ratio": (total[1] + 0.5) / (total[2] + 0.5),
            "test": "Wilcoxon signed-rank, images",
            "p": float(wilcoxon(excess).pvalue) if excess.any() else 1.0,
            "tasks": int((of_tasks[0] > 0).sum()),
            "tasks_a_higher": signs[0],
            "p_tasks": float(binomtest(signs[0], sum(signs)).pvalue) if sum(signs) else 1.0,
        }

    by_setting, pooled, unit_counts = [], [], []
    for k, m in combinations(range(len(targets)), 2):
        a, b = targets["target"].iloc[[k, m]].astype(str)
        in_a, in_b = state[:, :, k], state[:, :, m]
        in_both = (in_a >= 0) & (in_b >= 0)
        flags = np.stack([in_both, in_both & (in_a > in_b), in_both & (in_a < in_b), in_both & (in_a + in_b == 2)])
        flags = np.add.reduceat(flags, firsts, axis=2, dtype=int)  # [4, images, settings], a setting's seeds added up
        if once:
            per_task = np.add.reduceat(flags, starts, axis=1)  # [4, tasks, settings]
            n, only_a, only_b, both = per_task.sum(axis=1)
            by_setting.append(
                names.assign(
                    **{"control": control, "a": a, "b": b, "n": n, "images": n, "only_a": only_a, "only_b": only_b},
                    asr_a=statistics.share(only_a + both, n),
                    asr_b=statistics.share(only_b + both, n),
                    tasks=(per_task[0] > 0).sum(axis=0),
                    tasks_a_higher=(per_task[1] > per_task[2]).sum(axis=0),
                    _tasks_b_higher=(per_task[1] < per_task[2]).sum(axis=0),
                )
            )
        settings = [] if once else zip(names.to_dict("records"), control, flags.transpose(2, 0, 1), strict=True)
        everything = {"attack": ALL, "eps": np.nan}, False, flags[:, :, ~control].sum(axis=2)
        for setting, is_control, counts in (*settings, everything):
            if counts[0].any():
                pooled.append({**setting, "control": is_control, "a": a, "b": b, **over_images(counts)})
                unit_counts.append(counts[:3])

    found = []
    if by_setting:
        table = pd.concat(by_setting, ignore_index=True)
        table = table[table["n"] > 0]
        only_a, only_b = table["only_a"].to_numpy(), table["only_b"].to_numpy()
        low, high = paired_difference(only_a, only_b, table["n"], confidence)
        odds_low, odds_high = paired_odds(only_a, only_b, confidence)
        with np.errstate(divide="ignore", invalid="ignore"):
            table = table.assign(odds_ratio=only_a / only_b)
        table = table.assign(low=low, high=high, odds_low=odds_low, odds_high=odds_high)
        table = table.assign(test="McNemar, exact", p=mcnemar(only_a, only_b))
        table = table.assign(p_tasks=mcnemar(table["tasks_a_higher"], table["_tasks_b_higher"]))
        found.append(table.drop(columns="_tasks_b_higher"))
    if pooled:
        sums = np.zeros((bootstrap, len(pooled) * 3))
        for name, here in units.groupby("task").indices.items():
            weights = statistics._resample_weights(len(here), bootstrap, seed, str(name))
            sums += weights @ np.concatenate([counts[:, here] for counts in unit_counts]).T
        drawn = sums.reshape(bootstrap, len(pooled), 3)
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        low, high = np.quantile((drawn[..., 1] - drawn[..., 2]) / np.maximum(drawn[..., 0], 1), tails, axis=0)
        odds_low, odds_high = np.quantile((drawn[..., 1] + 0.5) / (drawn[..., 2] + 0.5), tails, axis=0)
        found.append(pd.DataFrame(pooled).assign(low=low, high=high, odds_low=odds_low, odds_high=odds_high))
    return [table.assign(difference=table["asr_a"] - table["asr_b"]) for table in found]

"""The number that a claim's test makes of its cases, its interval, its p, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from advmerge import statistics
from advmerge.claims.cells import Case
from advmerge.claims.language import HOLDS, MEASURES, Claim

if TYPE_CHECKING:
    import numpy
    import pandas


def case_values(
    claim: Claim, found: Sequence[Case], table: pandas.DataFrame, counts: numpy.ndarray, centred: bool = False
) -> numpy.ndarray:
    """Each case's value: [resamples, cases]; a rank correlation in a trend, else the measure of a, less that of b.

    ``centred`` takes from every resample what the table itself has: chance alone is left.
    """
    import numpy as np
    import scipy.sparse as sp

    def measured(groups: Sequence[tuple[int, ...]]) -> numpy.ndarray:
        rows = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        cells = np.concatenate([np.asarray(group, dtype=int) for group in groups])
        ones = np.ones(len(cells), dtype=counts.dtype)
        member = sp.csr_matrix((ones, (rows, cells)), shape=(len(groups), counts.shape[2]))
        pooled = (member @ counts.T.reshape(counts.shape[2], -1)).reshape(len(groups), 3, len(counts))
        return MEASURES[claim.measure](*pooled.transpose(1, 2, 0))

    if claim.test == "trend":
        correlations = []
        for case in found:
            single = MEASURES[claim.measure](*counts[:, :, [*case.a]].transpose(1, 0, 2))
            single = single - single[0] if centred else single
            correlations.append(_spearman(single, table[claim.along].to_numpy()[[*case.a]]))
        return np.stack(correlations, 1)
    values = measured([case.a for case in found])
    values = values - measured([case.b for case in found]) if found[0].b else values
    return values - values[0] if centred else values


def _spearman(values: numpy.ndarray, level: numpy.ndarray) -> numpy.ndarray:
    """Rank correlation of each row of ``values`` with ``level``; NaN where a value is, or where all are equal."""
    import numpy as np
    from scipy.stats import rankdata

    x = rankdata(level) - (len(level) + 1) / 2
    y = rankdata(values, axis=1) - (len(level) + 1) / 2  # NaN if any is
    return statistics.share(y @ x, np.sqrt((x @ x) * (y * y).sum(axis=1)))


def number(
    claim: Claim, found: Sequence[Case], table: pandas.DataFrame, counts: numpy.ndarray, centred: bool = False
) -> numpy.ndarray:
    """The one number of a claim's test, in the table itself and in every resample; NaN where it has none."""
    import numpy as np

    if claim.test in ("level", "difference"):  # pooled before the measure is taken
        pooled = Case(tuple(k for case in found for k in case.a), tuple(k for case in found for k in case.b))
        return case_values(claim, [pooled], table, counts)[:, 0]
    values = case_values(claim, found, table, counts, centred)
    if claim.test == "extreme":
        return values.min(axis=1) if claim.direction == "greater" else values.max(axis=1)
    known = ~np.isnan(values)
    if claim.test == "share":
        return statistics.share((HOLDS[str(claim.holds)](values) & known).sum(axis=1), known.sum(axis=1))
    return statistics.share(np.where(known, values, 0).sum(axis=1), known.sum(axis=1))


def chance(claim: Claim, found: Sequence[Case], table: pandas.DataFrame, counts: numpy.ndarray) -> numpy.ndarray | None:
    """How far a test's number strays by chance if no case differs from any other; None where the bootstrap says it.

    A share of cases, a rank correlation and an extreme depend on signs and orders. Where there is no difference, these
    are chance, but resamples repeat the table's own: their spread is too small. The centred resamples have it right.
    """
    import numpy as np

    if claim.test in ("level", "difference"):
        return None
    numbers = number(claim, found, table, counts, centred=True)[1:]
    numbers = numbers[~np.isnan(numbers)]
    return numbers if claim.test == "extreme" else numbers - np.median(numbers) if len(numbers) else numbers


def widened(
    bounds: tuple[float, float, float], estimate: float, margin: float, strays: numpy.ndarray, confidence: float
) -> tuple[float, float, float]:
    """Interval and p, at least as wide and as large as if the number strayed from the truth as ``strays`` do."""
    import numpy as np

    if not len(strays):
        return bounds
    low, high, p = bounds
    down, up = np.quantile(strays, [(1 - confidence) / 2, (1 + confidence) / 2])
    away = estimate - margin
    beyond = min((strays >= away - 1e-12).sum(), (strays <= away + 1e-12).sum())
    return min(low, estimate - up), max(high, estimate - down), max(p, min(1.0, 2 * (beyond + 1) / (len(strays) + 1)))


def interval(values: numpy.ndarray, margin: float, confidence: float) -> tuple[float, float, float]:
    """Bias-corrected percentile interval (Efron 1981), and the two-sided p of the margin by the same bootstrap.

    ``values`` holds the estimate, then the resamples. The correction matters for shares of cases and for extremes,
    whose resamples lie off the estimate. p is the level at which the interval's end meets the margin; it is never
    below 2 / (resamples + 1).
    """
    import numpy as np
    from scipy.stats import norm

    estimate, resamples = values[0], values[1:][~np.isnan(values[1:])]
    if not len(resamples):
        return float("nan"), float("nan"), float("nan")

    def below(point: float) -> float:
        """Share of resamples below a point, those equal to it (to rounding) counted half."""
        equal = np.isclose(resamples, point, rtol=0, atol=1e-12)
        share = ((resamples < point) & ~equal).mean() + equal.mean() / 2
        return float(np.clip(share, 1 / (len(resamples) + 1), 1 - 1 / (len(resamples) + 1)))

    def score(point: float) -> float:
        """Normal score of a point among the resamples; beyond all of them, in their standard deviations."""
        within = norm.ppf(below(point))
        if resamples.min() < point < resamples.max() or not resamples.std():
            return within
        beyond = (point - resamples.mean()) / resamples.std()
        return max(within, beyond) if within > 0 else min(within, beyond)

    bias = norm.ppf(below(estimate))
    tail = norm.ppf((1 + confidence) / 2)
    low, high = np.quantile(resamples, norm.cdf([2 * bias - tail, 2 * bias + tail]))
    z = score(margin) - 2 * bias
    p = max(2 * norm.sf(abs(z)), 2 / (len(resamples) + 1))
    return float(min(low, estimate)), float(max(high, estimate)), min(float(p), 1.0)


def verdict(claim: Claim, low: float, high: float, p_adjusted: float, alpha: float) -> str:
    """Supported or contradicted if the interval lies on one side of the margin and the adjusted p is below alpha."""
    if p_adjusted < alpha and low > claim.margin:
        return "supported" if claim.direction == "greater" else "contradicted"
    if p_adjusted < alpha and high < claim.margin:
        return "supported" if claim.direction == "less" else "contradicted"
    return "undecided"

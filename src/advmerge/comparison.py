"""Tests between the attacked models: in pairs, by ranks, and in one model of everything.

Pure functions on the outcomes table, on the rows whose surrogate is not the target itself. A difference is taken
over the images that the surrogate and *both* targets classify correctly when clean, so that two targets are always
compared on the same images. The module imports nothing heavy, so that the Snakefile may read :data:`TABLES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from advmerge import statistics
from advmerge.errors import StudyError
from advmerge.seeding import numpy_generator

if TYPE_CHECKING:
    import numpy
    import pandas

TABLES: dict[str, str] = {
    "comparison_pairs.csv": "Pairs of targets: paired tests over images with Holm's adjustment, and effect sizes.",
    "comparison_ranks.csv": "Average ranks of the targets, Nemenyi's critical distance and its power.",
    "comparison_model.csv": "Logistic models of transfer: image and task effects, target accuracy as covariate.",
}
"""The CSV tables of this module: file name -> what it holds. :func:`tables` computes them all."""

ALL = "(all)"
"""The attack of a row that pools every attack but the controls."""

MODEL_ROWS = 24_000
"""The mixed model sees about so many rows: of each task the same number of images, drawn by the seed."""

SETTING = ["attack", "eps"]


def transfers(outcomes: pandas.DataFrame) -> pandas.DataFrame:
    """The rows whose surrogate is not the target itself, names as plain strings, in one order."""
    names = ["task", "surrogate", "attack", "target"]
    rows = outcomes[outcomes["surrogate"].astype(str) != outcomes["target"].astype(str)]
    return rows.astype(dict.fromkeys(names, str)).sort_values([*names, "eps", "image"], ignore_index=True)


def holm(p: Any) -> numpy.ndarray:
    """Holm's adjustment of a family of p-values; NaN stays NaN and is no member of the family."""
    import numpy as np
    from statsmodels.stats.multitest import multipletests

    p = np.asarray(p, dtype=float)
    adjusted, known = np.full(p.shape, np.nan), ~np.isnan(p)
    if known.any():
        adjusted[known] = multipletests(p[known], method="holm")[1]
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
    :data:`ALL`, the controls left out) an image has many rows: its two shares of fooling rows are compared by
    Wilcoxon's signed-rank test over images, and the intervals are of a bootstrap over images within tasks. Holm's
    adjustment is over the pairs of one surrogate, attack and budget.

    Columns besides surrogate, attack, eps, control, a, b:
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
        table
        for _, part in rows.groupby("surrogate")
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
    import numpy as np
    import pandas as pd
    from scipy.stats import binomtest, wilcoxon

    fooled = rows["target_adversarial"] != rows["label"]
    state = fooled.astype(float).where(statistics.both_right(rows))  # NaN: not in the denominator
    wide = rows.assign(_state=state, eps=rows["eps"].fillna(-1)).pivot_table(
        index=["task", "image", *SETTING], columns="target", values="_state", aggfunc="first"
    )
    keys = wide.index.to_frame(index=False)
    keys["eps"] = keys["eps"].where(keys["eps"] >= 0)
    names = keys[SETTING].drop_duplicates().sort_values(SETTING, ignore_index=True)
    setting = keys.groupby(SETTING, dropna=False).ngroup().to_numpy()
    real = ~keys["attack"].isin(list(controls)).to_numpy()
    units = keys[["task", "image"]].drop_duplicates().sort_values(["task", "image"], ignore_index=True)
    unit = keys.groupby(["task", "image"]).ngroup().to_numpy()
    task_of_unit = units.groupby("task").ngroup().to_numpy()
    tasks = task_of_unit.max(initial=-1) + 1

    by_setting, pooled, unit_counts = [], [], []
    for a, b in combinations(wide.columns, 2):
        in_a, in_b = wide[a].to_numpy(), wide[b].to_numpy()
        flags = [~np.isnan(in_a + in_b), (in_a == 1) & (in_b == 0), (in_a == 0) & (in_b == 1), (in_a + in_b) == 2]
        n, only_a, only_b, both = (np.bincount(setting, flag, len(names)) for flag in flags)
        low, high = paired_difference(only_a, only_b, n, confidence)
        odds_low, odds_high = paired_odds(only_a, only_b, confidence)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = only_a / only_b
        differences = np.array(
            [np.bincount(setting * tasks + task_of_unit[unit], flag, len(names) * tasks) for flag in flags[:3]]
        ).reshape(3, len(names), tasks)
        table = names.assign(
            control=names["attack"].isin(list(controls)), a=a, b=b, n=n.astype(int), images=n.astype(int)
        )
        table = table.assign(only_a=only_a.astype(int), only_b=only_b.astype(int))
        table = table.assign(asr_a=statistics.share(only_a + both, n), asr_b=statistics.share(only_b + both, n))
        table = table.assign(low=low, high=high, odds_ratio=ratio, odds_low=odds_low, odds_high=odds_high)
        table = table.assign(test="McNemar, exact", p=mcnemar(only_a, only_b))
        table = table.assign(tasks=(differences[0] > 0).sum(axis=1))
        higher, lower = ((differences[i] > differences[j]).sum(axis=1) for i, j in ((1, 2), (2, 1)))
        table = table.assign(tasks_a_higher=higher, p_tasks=mcnemar(higher, lower))
        by_setting.append(table[table["n"] > 0])

        counts = np.array([np.bincount(unit, flag & real, len(units)) for flag in flags])
        total = counts.sum(axis=1)
        if not total[0]:
            continue
        seen = counts[0] > 0
        excess = (counts[1] - counts[2])[seen] / counts[0][seen]
        per_task = np.bincount(task_of_unit, counts[1] - counts[2], tasks)
        signs = int((per_task > 0).sum()), int((per_task < 0).sum())
        pooled.append(
            {
                "attack": ALL,
                "eps": np.nan,
                "control": False,
                "a": a,
                "b": b,
                "n": int(total[0]),
                "images": int(seen.sum()),
                "only_a": int(total[1]),
                "only_b": int(total[2]),
                "asr_a": (total[1] + total[3]) / total[0],
                "asr_b": (total[2] + total[3]) / total[0],
                "odds_ratio": (total[1] + 0.5) / (total[2] + 0.5),
                "test": "Wilcoxon signed-rank, images",
                "p": float(wilcoxon(excess).pvalue) if excess.any() else 1.0,
                "tasks": int((np.bincount(task_of_unit, counts[0], tasks) > 0).sum()),
                "tasks_a_higher": signs[0],
                "p_tasks": float(binomtest(signs[0], sum(signs)).pvalue) if sum(signs) else 1.0,
            }
        )
        unit_counts.append(counts[:3])

    if pooled:
        sums = np.zeros((bootstrap, len(pooled) * 3))
        for name in sorted(set(units["task"])):
            here = np.flatnonzero(units["task"] == name)
            weights = statistics._resample_weights(len(here), bootstrap, seed, name)
            sums += weights @ np.concatenate([counts[:, here] for counts in unit_counts]).T
        drawn = sums.reshape(bootstrap, len(pooled), 3)
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        low, high = np.quantile((drawn[..., 1] - drawn[..., 2]) / np.maximum(drawn[..., 0], 1), tails, axis=0)
        odds_low, odds_high = np.quantile((drawn[..., 1] + 0.5) / (drawn[..., 2] + 0.5), tails, axis=0)
        by_setting.append(pd.DataFrame(pooled).assign(low=low, high=high, odds_low=odds_low, odds_high=odds_high))
    return [
        table.assign(surrogate=rows["surrogate"].iloc[0], difference=table["asr_a"] - table["asr_b"])
        for table in by_setting
    ]


def critical_distance(methods: int, blocks: int, alpha: float = 0.05) -> float:
    """Nemenyi's critical distance of average ranks (Demšar 2006)."""
    import numpy as np
    from scipy.stats import studentized_range

    q = studentized_range.ppf(1 - alpha, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * blocks)))


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

    Columns besides surrogate, unit, target:
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


def model_rows(
    outcomes: pandas.DataFrame, accuracy: pandas.DataFrame, controls: Sequence[str] = statistics.CONTROLS
) -> pandas.DataFrame:
    """What the models are fitted to: one row a transfer that both surrogate and target had right when clean.

    ``fooled`` is 0 or 1; ``doublings`` counts the budget's doublings of the study's smallest one (0 for an attack
    without a budget); ``accuracy`` is the target's on the task's test split, in tenths from the mean.

    Raises:
        StudyError: a target without an accuracy.
    """
    import numpy as np

    rows = statistics.without_controls(transfers(outcomes), controls)
    rows = rows[statistics.both_right(rows)]
    clean = accuracy[accuracy["split"] == "test"]
    clean = clean.assign(accuracy=10 * statistics.share(clean["correct"], clean["n"])).astype({"model": str})
    clean = clean.astype({"task": str}).rename(columns={"model": "target"})[["target", "task", "accuracy"]]
    found = rows.merge(clean, on=["target", "task"], how="left")
    if found["accuracy"].isna().any():
        first = found[found["accuracy"].isna()].iloc[0]
        raise StudyError(f"the accuracy table lacks '{first['target']}' on the test split of '{first['task']}'")
    return found[["task", "image", "surrogate", "attack", "target"]].assign(
        fooled=(found["target_adversarial"] != found["label"]).astype(float),
        doublings=np.log2(found["eps"] / rows["eps"].min()).fillna(0),
        accuracy=found["accuracy"] - found["accuracy"].mean(),
    )


def design(rows: pandas.DataFrame, factors: Sequence[str], covariates: Sequence[str]) -> pandas.DataFrame:
    """Columns of the fixed effects: a constant, each factor's levels but the first, the covariates.

    A column that the ones before it already determine is left out: a factor of one level, or the accuracy where it
    says no more than the name of the target.
    """
    import numpy as np
    import pandas as pd

    columns = [pd.Series(1.0, rows.index, name=("constant", ""))]
    for factor in factors:
        for level in sorted(set(rows[factor]))[1:]:
            columns.append((rows[factor] == level).astype(float).rename((factor, level)))
    columns += [rows[name].astype(float).rename((name, "")) for name in covariates]
    full = np.column_stack(columns)
    gram = full.T @ full
    kept: list[int] = []
    for k in range(len(columns)):
        trial = [*kept, k]
        scale = np.sqrt(np.maximum(np.diag(gram)[trial], 1e-12))
        if np.linalg.eigvalsh(gram[np.ix_(trial, trial)] / np.outer(scale, scale))[0] > 1e-8:
            kept = trial
    names = pd.MultiIndex.from_tuples([columns[k].name for k in kept], names=["term", "level"])
    return pd.DataFrame(full[:, kept], index=rows.index, columns=names)


FACTORS, COVARIATES = ("target", "surrogate", "attack"), ("doublings", "accuracy")


def mixed_model(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Logistic model with random intercepts of image and task, fitted by variational Bayes (statsmodels).

    The estimates are means of the variational posterior, whose standard deviations ignore that effects are estimated
    together and are too small. ``se`` is instead the larger of two at those means: that of the joint Laplace precision,
    random effects included, and the sandwich over images, which allows for images that are hard for one target.

    Columns: term, level, reference, estimate, se, rows, images. Terms ``sd of image`` and ``sd of task`` are on the
    log-odds scale and without error.
    """
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp
    from statsmodels.genmod.bayes_mixed_glm import BinomialBayesMixedGLM

    fixed = design(rows, FACTORS, COVARIATES)
    groups = [rows.groupby(["task", "image"]).ngroup().to_numpy(), rows.groupby("task").ngroup().to_numpy()]
    here = np.arange(len(rows))
    random = sp.hstack([sp.csr_matrix((np.ones(len(rows)), (here, group))) for group in groups]).tocsr()
    variance = np.repeat([0, 1], [group.max() + 1 for group in groups])
    prior = 5.0
    glm = BinomialBayesMixedGLM(rows["fooled"].to_numpy(), fixed.to_numpy(), random, variance, vcp_p=1, fe_p=prior)
    start = np.concatenate([np.zeros(fixed.shape[1]), [-0.5, -0.5], np.zeros(len(variance))])
    fitted = glm.fit_vb(mean=start, sd=np.full(len(start), 0.2))

    spread = np.exp(fitted.vcp_mean)
    joint = sp.hstack([sp.csr_matrix(fixed.to_numpy()), random]).tocsr()
    chance = 1 / (1 + np.exp(-(joint @ np.concatenate([fitted.fe_mean, fitted.vc_mean]))))
    precision = (joint.T @ joint.multiply((chance * (1 - chance))[:, None])).toarray()
    precision += np.diag(np.concatenate([np.full(fixed.shape[1], prior**-2), spread[variance] ** -2]))
    covariance = np.linalg.inv(precision)[: fixed.shape[1]]
    image = sp.csr_matrix(
        (rows["fooled"].to_numpy() - chance, (groups[0], here)), shape=(groups[0].max() + 1, len(rows))
    )
    scores = (image @ joint).toarray()  # of each image; its own effect's prior pulls as well
    own = fixed.shape[1] + np.arange(len(scores))
    scores[np.arange(len(scores)), own] -= fitted.vc_mean[: len(scores)] / spread[0] ** 2
    robust = ((covariance @ scores.T) ** 2).sum(axis=1)
    errors = np.sqrt(np.maximum(np.diag(covariance), robust))
    table = _terms(fixed, rows).assign(estimate=fitted.fe_mean, se=errors)
    spreads = table.iloc[[0, 0]].assign(term=["sd of image", "sd of task"], estimate=spread, se=np.nan)
    return pd.concat([table, spreads], ignore_index=True)


def marginal_model(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Logistic model with tasks as fixed effects and errors robust to whatever the rows of an image share (GEE).

    Its effects are averages over images, hence closer to 0 than those of :func:`mixed_model`. Columns as there. Levels
    that never, or always, fool have no finite effect and say nothing of the others': their rows are left out.
    """
    import numpy as np
    import pandas as pd
    import statsmodels.api as sm

    factors = (*FACTORS, "task")
    before = -1
    while len(rows) != before:
        before = len(rows)
        for factor in factors:
            share = rows.groupby(factor)["fooled"].transform("mean")
            rows = rows[(share > 0) & (share < 1)]
    if rows.empty:
        return pd.DataFrame(columns=["term", "level", "reference", "estimate", "se", "rows", "images"])
    fixed = design(rows, factors, COVARIATES)
    images = rows.groupby(["task", "image"]).ngroup().to_numpy()
    fitted = sm.GEE(rows["fooled"].to_numpy(), fixed.to_numpy(), groups=images, family=sm.families.Binomial()).fit()
    with np.errstate(invalid="ignore"):  # too few images for a covariance: its error is NaN
        table = _terms(fixed, rows).assign(estimate=fitted.params, se=fitted.bse)
    return table[table["term"] != "task"].reset_index(drop=True)


def _terms(fixed: pandas.DataFrame, rows: pandas.DataFrame) -> pandas.DataFrame:
    """What the columns of a design stand for, and the level that each is compared with; nothing estimated yet."""
    terms = fixed.columns.to_frame(index=False)
    first = {factor: min(rows[factor]) for factor in FACTORS}
    counted = {"rows": len(rows), "images": len(rows[["task", "image"]].drop_duplicates())}
    return terms.assign(
        reference=terms["term"].map(first).fillna(""), estimate=float("nan"), se=float("nan"), **counted
    )


def model(
    outcomes: pandas.DataFrame,
    accuracy: pandas.DataFrame,
    confidence: float = 0.95,
    seed: int = 0,
    controls: Sequence[str] = statistics.CONTROLS,
    most: int = MODEL_ROWS,
) -> pandas.DataFrame:
    """Both models of transfer: the mixed one on about ``most`` rows, the marginal one on all.

    Columns: ``model`` (mixed, marginal), ``term``, ``level`` and ``reference`` (what the level is compared with),
    ``estimate`` (log-odds) with ``se``, ``low``, ``high``, ``odds_ratio``, ``p`` (Wald), and the ``rows`` and
    ``images`` fitted to. Empty where all rows agree. ``doublings`` is a doubling of the budget, ``accuracy`` ten
    points more of the target's clean accuracy on a task, its method held fixed. Estimates beyond ±15 come of levels
    that, with others, never or always fool: they have no error.
    """
    import numpy as np
    import pandas as pd
    from scipy.stats import norm

    columns = [
        "model",
        "term",
        "level",
        "reference",
        *["estimate", "se", "low", "high", "odds_ratio", "p", "rows", "images"],
    ]
    rows = model_rows(outcomes, accuracy, controls)
    if rows["fooled"].nunique() < 2:
        return pd.DataFrame(columns=columns)
    found = []
    for name, chosen, fit in (("mixed", _subsample(rows, most, seed), mixed_model), ("marginal", rows, marginal_model)):
        if chosen["fooled"].nunique() < 2:
            continue
        found.append(fit(chosen).assign(model=name))
    found = [part for part in found if len(part)]
    if not found:
        return pd.DataFrame(columns=columns)
    table = pd.concat(found, ignore_index=True)
    table["se"] = table["se"].where(table["estimate"].abs() < 15)
    half = norm.ppf((1 + confidence) / 2) * table["se"]
    table = table.assign(low=table["estimate"] - half, high=table["estimate"] + half)
    spread = table["term"].str.startswith("sd of")
    with np.errstate(over="ignore"):
        table["odds_ratio"] = np.exp(table["estimate"]).where(~spread)
    return table.assign(p=2 * norm.sf((table["estimate"] / table["se"]).abs()))[columns]


def _subsample(rows: pandas.DataFrame, most: int, seed: int) -> pandas.DataFrame:
    """Rows of as many images of each task as make about ``most`` rows; whole images, drawn by seed and task."""
    import numpy as np

    images = len(rows[["task", "image"]].drop_duplicates())
    wanted = max(2, round(most / len(rows) * images / rows["task"].nunique()))
    kept = np.zeros(len(rows), dtype=bool)
    for task, part in rows.groupby("task"):
        names = np.unique(part["image"])
        drawn = numpy_generator(seed, "comparison", task).permutation(names)[:wanted]
        kept |= ((rows["task"] == task) & rows["image"].isin(drawn)).to_numpy()
    return rows[kept].reset_index(drop=True)


def tables(
    outcomes: pandas.DataFrame,
    accuracy: pandas.DataFrame,
    confidence: float = 0.95,
    bootstrap: int = 2000,
    seed: int = 0,
    controls: Sequence[str] = statistics.CONTROLS,
) -> dict[str, pandas.DataFrame]:
    """Every table of :data:`TABLES`: file name -> table."""
    return {
        "comparison_pairs.csv": pairs(outcomes, confidence, bootstrap, seed, controls),
        "comparison_ranks.csv": ranks(outcomes, confidence, controls),
        "comparison_model.csv": model(outcomes, accuracy, confidence, seed, controls),
    }

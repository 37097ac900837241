"""Tests between the attacked models: in pairs, by ranks, and in one model of everything.

Pure functions on the outcomes table, on the rows whose surrogate is not the target itself. A difference is taken
over the images that the surrogate and *both* targets classify correctly when clean, so that two targets are always
compared on the same images. The module imports nothing heavy, so that the Snakefile may read :data:`TABLES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
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
    rows = rows[statistics.both_right(rows)].reset_index(drop=True)
    clean = accuracy[accuracy["split"] == "test"].astype({"model": str, "task": str})
    clean = clean.assign(accuracy=10 * statistics.share(clean["correct"], clean["n"]))
    grid = clean.pivot_table(index="model", columns="task", values="accuracy")
    grid = grid.reindex(index=rows["target"].cat.categories, columns=rows["task"].cat.categories)
    known = grid.to_numpy()[rows["target"].cat.codes, rows["task"].cat.codes]
    if np.isnan(known).any():
        first = rows[np.isnan(known)].iloc[0]
        raise StudyError(f"the accuracy table lacks '{first['target']}' on the test split of '{first['task']}'")
    return rows[["task", "image", "surrogate", "attack", "target"]].assign(
        fooled=(rows["target_adversarial"] != rows["label"]).astype(float),
        doublings=np.log2(rows["eps"] / rows["eps"].min()).fillna(0),
        accuracy=known - known.mean(),
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
        for level in sorted(rows[factor].unique())[1:]:
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
TERMS = ["term", "level", "reference", "estimate", "se", "rows", "images"]


def patterns(rows: pandas.DataFrame) -> tuple[pandas.DataFrame, pandas.DataFrame, numpy.ndarray, numpy.ndarray]:
    """The rows that a logistic model can be fitted to, and the distinct rows of its predictors.

    Levels that never, or always, fool have no finite effect and say nothing of the others': their rows are left out.

    Returns:
        The rows left; their patterns, a few thousand that stand for all of them, with ``n`` and ``fooled`` counted; which
        pattern is each row's, and which image.
    """
    import numpy as np

    factors = [*FACTORS, "task"]
    keys = [*factors, *COVARIATES]
    pattern = rows.groupby(keys, observed=True).ngroup().to_numpy()
    found = rows.groupby(keys, observed=True)["fooled"].agg(n="size", fooled="sum").reset_index()
    before = -1
    while len(found) != before:
        before = len(found)
        for factor in factors:
            totals = found.groupby(factor, observed=True)[["fooled", "n"]].transform("sum")
            found = found[(totals["fooled"] > 0) & (totals["fooled"] < totals["n"])]
    kept = np.isin(pattern, found.index)
    rows, pattern = rows[kept], np.searchsorted(found.index, pattern[kept])
    return rows, found, pattern, rows.groupby(["task", "image"], observed=True).ngroup().to_numpy()


def mixed_model(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Logistic model with a random intercept an image, and tasks as fixed effects: gpboost, by Laplace's approximation.

    Tasks are fixed because a handful of them does not tell how far tasks are spread.

    ``se`` is the larger of two at the solution, both with the images' intercepts eliminated: that of the model, and the
    sandwich over images, which allows for images that are hard for one target.

    Columns: term, level, reference, estimate, se, rows, images. The term ``sd of image`` is on the log-odds scale and
    without error. Empty where no level both fools and does not.
    """
    import gpboost
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp
    from scipy.special import expit

    rows, found, pattern, image = patterns(rows)
    if rows.empty:
        return pd.DataFrame(columns=TERMS)
    fixed = design(found, [*FACTORS, "task"], COVARIATES)
    predictors, fooled = fixed.to_numpy(), rows["fooled"].to_numpy()
    model = gpboost.GPModel(group_data=image, likelihood="bernoulli_logit", num_parallel_threads=1)
    model.fit(y=fooled, X=predictors[pattern])
    effects, variance = np.ravel(model.get_coef()), float(np.ravel(model.get_cov_pars())[0])
    own = np.ravel(model.predict_training_data_random_effects())

    chance = expit((predictors @ effects)[pattern] + own)
    weight = chance * (1 - chance)
    across = sp.csr_matrix((weight, (image, pattern))) @ predictors
    precision = predictors.T @ (np.bincount(pattern, weight, len(found))[:, None] * predictors)
    precision -= across.T @ (across / (np.bincount(image, weight) + 1 / max(variance, 1e-6))[:, None])
    scores = sp.csr_matrix((fooled - chance, (image, pattern))) @ predictors
    covariance = np.linalg.inv(precision)
    errors = np.sqrt(np.maximum(np.diag(covariance), ((scores @ covariance) ** 2).sum(axis=0)))
    table = _terms(fixed, rows).assign(estimate=effects, se=errors)
    spread = table.iloc[[0]].assign(term="sd of image", estimate=np.sqrt(variance), se=np.nan)
    return pd.concat([table[table["term"] != "task"], spread], ignore_index=True)


def marginal_model(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Logistic model with tasks as fixed effects and errors robust to whatever the rows of an image share.

    Its effects are averages over images, hence closer to 0 than those of :func:`mixed_model`. Columns as there. Equal
    to generalised estimating equations with an independent working correlation (Liang and Zeger 1986).
    """
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    rows, found, pattern, image = patterns(rows)
    if rows.empty:
        return pd.DataFrame(columns=TERMS)
    fixed = design(found, [*FACTORS, "task"], COVARIATES)
    predictors = fixed.to_numpy()
    glm = GLM(np.column_stack([found["fooled"], found["n"] - found["fooled"]]), predictors, family=Binomial())
    fitted = glm.fit(tol=1e-10)
    chance = fitted.fittedvalues
    weight = found["n"].to_numpy() * chance * (1 - chance)
    bread = np.linalg.inv(predictors.T @ (weight[:, None] * predictors))
    residual = sp.csr_matrix((rows["fooled"].to_numpy() - chance[pattern], (image, pattern)))
    table = _terms(fixed, rows).assign(
        estimate=fitted.params, se=np.sqrt(((residual @ predictors @ bread) ** 2).sum(axis=0))
    )
    return table[table["term"] != "task"].reset_index(drop=True)


def _terms(fixed: pandas.DataFrame, rows: pandas.DataFrame) -> pandas.DataFrame:
    """What the columns of a design stand for, and the level that each is compared with; nothing estimated yet."""
    terms = fixed.columns.to_frame(index=False)
    first = {factor: min(rows[factor].unique()) for factor in FACTORS}
    counted = {"rows": len(rows), "images": len(rows[["task", "image"]].drop_duplicates())}
    return terms.assign(
        reference=terms["term"].map(first).fillna(""), estimate=float("nan"), se=float("nan"), **counted
    )


def model(
    outcomes: pandas.DataFrame,
    accuracy: pandas.DataFrame,
    confidence: float = 0.95,
    controls: Sequence[str] = statistics.CONTROLS,
) -> pandas.DataFrame:
    """Both models of transfer, on all rows.

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
    found = [mixed_model(rows).assign(model="mixed"), marginal_model(rows).assign(model="marginal")]
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
        "comparison_model.csv": model(outcomes, accuracy, confidence, controls),
    }

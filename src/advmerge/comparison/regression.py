"""Everything at once: logistic models of transfer with and without an intercept an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from advmerge import statistics
from advmerge.comparison.rows import transfers
from advmerge.errors import StudyError

if TYPE_CHECKING:
    import numpy
    import pandas


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

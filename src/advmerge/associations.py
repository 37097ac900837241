"""What goes with transfer: the tables of explanations, and their rank correlations with transfer ASR.

Pure functions on the outcomes and on the tables that the rules of ``explain.smk`` make. A cell here is (task, surrogate,
target) under one attack and budget. Nothing in this module says that one thing causes another: cells share images,
surrogates and models, so correlations come without p-values, and with the range that leaving out a task gives them.

The module imports nothing heavy, so that the Snakefile may read :data:`TABLES`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from advmerge import statistics

if TYPE_CHECKING:
    import pandas

TABLES: dict[str, str] = {
    "explanations_by_cell.csv": "Every measure beside transfer ASR by task, surrogate, attack, budget, target.",
    "explanations_correlation.csv": "Rank correlations of each measure with transfer ASR over cells, plain and partial.",
    "explanations_cka.csv": "Linear CKA of surrogate and target by block, averaged over tasks.",
    "explanations_mistakes.csv": "Same mistake, another mistake, not fooled; by surrogate, attack, budget, target.",
    "explanations_dose.csv": "Surgery by dose: representation bias, loss, accuracy, transfer ASR; tasks pooled.",
    "explanations_path.csv": "Along the task vectors: loss, accuracy, transfer ASR, representation bias; tasks pooled.",
    "explanations_plane.csv": "On the plane of pretrained, fine-tuned and merged: the same.",
}
"""The CSV tables of explanations: file name -> what it holds. :func:`tables` computes them all."""

MEASURES: dict[str, str] = {
    "gradient_cosine": "cosine of input gradients",
    "sign_agreement": "sign agreement of input gradients",
    "surrogate_gradient_norm": "surrogate's gradient norm",
    "target_gradient_norm": "target's gradient norm",
    "cka_blocks": "linear CKA, mean of blocks",
    "cka_features": "linear CKA of features",
    "feature_distance": "L1 distance of features",
    "representation_bias": "representation bias of target",
    "boundary_ratio": "boundary distance / perturbation",
}
"""What is correlated with transfer ASR: column -> words."""

MEDIANS = ("surrogate_gradient_norm", "target_gradient_norm", "boundary_distance", "boundary_ratio")
"""Measures summed up by their median over images: their tails are long, or end in infinity."""

GIVEN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "": ((), ()),
    "task": (("task",), ()),
    "task, surrogate": (("task", "surrogate"), ()),
    "task, surrogate, target accuracy": (("task", "surrogate"), ("target_accuracy",)),
}
"""What is held fixed -> (columns of names, columns of numbers)."""


def same_mistake_share(outcomes: pandas.DataFrame, by: Sequence[str]) -> pandas.DataFrame:
    """Of the images that fool their surrogate, how many lead the target to the same wrong class.

    Waseda et al., "Closer Look at the Transferability of Adversarial Examples", WACV 2023. Over images that
    surrogate and target both have right when clean and that fool the surrogate (denominator ``fooled``).

    Columns besides ``by``: ``n_fooled``; ``same_mistake``, ``other_mistake`` and ``not_fooled``, shares of it whose sum
    is 1. With few classes two mistakes are often the same by chance.
    """
    rows = outcomes[statistics.surrogate_fooled(outcomes)]
    wrong = rows["target_adversarial"] != rows["label"]
    same = wrong & (rows["target_adversarial"] == rows["surrogate_adversarial"])
    marked = rows[list(by)].assign(n_fooled=1, same_mistake=same, other_mistake=wrong & ~same, not_fooled=~wrong)
    categories = [column for column in by if marked[column].dtype == "category"]
    groups = marked.astype(dict.fromkeys(categories, "str")).groupby(list(by), dropna=False)
    shares = groups[["same_mistake", "other_mistake", "not_fooled"]].mean()
    return shares.assign(n_fooled=groups["n_fooled"].sum()).reset_index()


def by_pair(pairs: pandas.DataFrame) -> pandas.DataFrame:
    """One row a (task, surrogate, target): every measure, averaged over images or their median (:data:`MEDIANS`).

    ``pairs`` is what the rule ``explain`` makes: columns task, surrogate, target, measure, block, image, value.
    ``cka_features`` is of what the head is given, ``cka_blocks`` the mean of the blocks before it.
    """
    by = ["task", "surrogate", "target"]
    pairs = pairs.astype(dict.fromkeys([*by, "measure", "block"], "object"))
    images = pairs[pairs["measure"] != "cka"]
    wide, middle = (
        images.pivot_table(index=by, columns="measure", values="value", aggfunc=how) for how in ("mean", "median")
    )
    wide = wide.assign(**{measure: middle[measure] for measure in MEDIANS if measure in middle})
    cka = pairs[pairs["measure"] == "cka"]
    last = cka["block"] == "features"
    return wide.assign(
        cka_features=cka[last].groupby(by)["value"].mean(), cka_blocks=cka[~last].groupby(by)["value"].mean()
    ).reset_index()


def cells(
    pairs: pandas.DataFrame, outcomes: pandas.DataFrame, attack: str, eps: float | None, confidence: float = 0.95
) -> pandas.DataFrame:
    """:func:`by_pair` beside :func:`statistics.rates` (denominator ``both``) and :func:`same_mistake_share`.

    Args:
        pairs: see :func:`by_pair`.
        outcomes: without controls.
        attack: whose examples the boundary distances are along; they are left empty in the rows of others.
        eps: its budget.
        confidence: of Wilson's intervals.
    """
    import numpy as np

    measures = by_pair(pairs)
    keys = ["task", "surrogate", "target"]
    compared = set(map(tuple, measures[keys].to_numpy()))
    names = [outcomes[key].astype("object") for key in keys]
    outcomes = outcomes[[row in compared for row in zip(*names, strict=True)]]
    rates = statistics.rates(outcomes, statistics.CELL, confidence=confidence).drop(columns=["denominator", "rows"])
    mistakes = same_mistake_share(outcomes, statistics.CELL)
    found = rates.merge(mistakes, on=statistics.CELL, how="left").merge(measures, on=keys)
    same_budget = found["eps"].isna() if eps is None else np.isclose(found["eps"], eps)
    along = (found["attack"] == attack) & same_budget
    for column in ("boundary_distance", "boundary_ratio"):
        if column in found:
            found[column] = found[column].where(along)
    return found


def partial_rank_correlation(
    x: Sequence[float], y: Sequence[float], names: Sequence[Sequence[str]] = (), numbers: Sequence[Sequence[float]] = ()
) -> float:
    """Spearman's correlation of x and y given other columns; NaN where one does not vary beside them.

    Ranks of x and y are regressed on the ranks of ``numbers`` and on indicators of the values of ``names``; the
    correlation is Pearson's of the residuals (Conover, "Practical Nonparametric Statistics", 1999, with
    indicators). Without either it is Spearman's ρ. Infinities rank last; nothing may be missing.

    Args:
        x: n numbers.
        y: n numbers.
        names: columns of n names each, held fixed.
        numbers: columns of n numbers each, held fixed by rank.
    """
    import numpy as np
    from scipy.stats import rankdata

    design = [np.ones(len(x))]
    for column in names:
        values, which = np.unique(np.asarray(column, dtype=str), return_inverse=True)
        design += [which == value for value in range(1, len(values))]
    design += [rankdata(column) for column in numbers]
    matrix = np.stack(design, axis=1).astype(float)
    if len(matrix) < matrix.shape[1] + 2:
        return float("nan")
    ranks = np.stack([rankdata(x), rankdata(y)], axis=1)
    residuals = ranks - matrix @ np.linalg.lstsq(matrix, ranks, rcond=None)[0]
    lengths = np.linalg.norm(residuals, axis=0)
    if (lengths < 1e-9 * np.linalg.norm(ranks, axis=0)).any():
        return float("nan")
    return float(np.clip(residuals[:, 0] @ residuals[:, 1] / lengths.prod(), -1, 1))


def correlations(table: pandas.DataFrame) -> pandas.DataFrame:
    """How each of :data:`MEASURES` goes with transfer ASR over the cells of one attack and budget.

    ``table`` is :func:`cells`. Columns: ``attack``, ``eps``, ``measure``, ``given`` (what is partialled out, one of
    :data:`GIVEN`), ``n`` (cells), ``rho``, and ``lowest`` and ``highest``: rho's range when each task in turn is left
    out. Cells without images and measures that the study does not have are left out.
    """
    import numpy as np
    import pandas as pd

    table = table[table["n"] > 0]
    rows = []
    for (attack, eps), whole in table.groupby(["attack", "eps"], dropna=False):
        for measure in (name for name in MEASURES if name in whole and whole[name].notna().any()):
            known = whole[whole[measure].notna()]
            column = {name: known[name].to_numpy() for name in (measure, "transfer_asr", "target_accuracy")}
            column |= {name: known[name].to_numpy(dtype=str) for name in ("task", "surrogate")}
            parts = [np.ones(len(known), dtype=bool), *(column["task"] != task for task in np.unique(column["task"]))]
            for given, (names, numbers) in GIVEN.items():
                whole_rho, *others = [
                    partial_rank_correlation(
                        column[measure][part],
                        column["transfer_asr"][part],
                        [column[name][part] for name in names],
                        [column[name][part] for name in numbers],
                    )
                    for part in parts
                ]
                left = pd.Series(others, dtype=float)
                found = {"rho": whole_rho, "lowest": left.min(), "highest": left.max()}
                rows.append(
                    {"attack": attack, "eps": eps, "measure": measure, "given": given, "n": len(known), **found}
                )
    return pd.DataFrame(rows, columns=["attack", "eps", "measure", "given", "n", "rho", "lowest", "highest"])


def pooled(rows: pandas.DataFrame, by: Sequence[str], confidence: float = 0.95) -> pandas.DataFrame:
    """Rows of :func:`explanations.outcome` with their tasks pooled, by the columns ``by`` and ``surrogate``.

    Columns besides these: ``tasks``; ``loss`` and ``representation_bias``, means over tasks; ``accuracy`` with
    ``accuracy_low`` and ``accuracy_high``, over all ``images``; ``transfer_asr`` with ``low`` and ``high``, over the
    ``n`` images that surrogate and model both have right when clean. Intervals are Wilson's.
    """
    groups = rows.groupby([*by, "surrogate"])
    sums, means = groups[["images", "correct", "n", "fooled"]].sum(), groups[["loss", "representation_bias"]].mean()
    accuracy = statistics.wilson(sums["correct"], sums["images"], confidence)
    transfer = statistics.wilson(sums["fooled"], sums["n"], confidence)
    return means.assign(
        tasks=groups["task"].nunique(),
        images=sums["images"],
        accuracy=statistics.share(sums["correct"], sums["images"]),
        accuracy_low=accuracy[0],
        accuracy_high=accuracy[1],
        n=sums["n"],
        transfer_asr=statistics.share(sums["fooled"], sums["n"]),
        low=transfer[0],
        high=transfer[1],
    ).reset_index()


def tables(
    parts: Mapping[str, pandas.DataFrame], outcomes: pandas.DataFrame, attack: str, eps: float | None,
    confidence: float = 0.95, controls: Sequence[str] = statistics.CONTROLS,
) -> dict[str, pandas.DataFrame]:  # fmt: skip
    """Every table of :data:`TABLES`: file name -> table.

    Args:
        parts: ``pairs``, ``dose`` (empty where there is no surgery), ``path`` and ``plane``, as the rules make them.
        outcomes: of the whole study.
        attack: whose examples the parts are about.
        eps: its budget.
        confidence: of intervals.
        controls: attacks that are none, left out.
    """
    attacks = statistics.without_controls(outcomes, controls)
    attacks = attacks[attacks["surrogate"].astype("object") != attacks["target"].astype("object")]
    found = cells(parts["pairs"], attacks, attack, eps, confidence)
    pairs = parts["pairs"]
    cka = pairs[pairs["measure"] == "cka"].astype(dict.fromkeys(["surrogate", "target", "block"], "object"))
    return {
        "explanations_by_cell.csv": found,
        "explanations_correlation.csv": correlations(found),
        "explanations_cka.csv": cka.groupby(["surrogate", "target", "block"])["value"]
        .mean()
        .rename("cka")
        .reset_index(),
        "explanations_mistakes.csv": same_mistake_share(attacks, statistics.TARGET),
        "explanations_dose.csv": pooled(parts["dose"], ["target", "dose"], confidence),
        "explanations_path.csv": pooled(parts["path"], ["scale"], confidence),
        "explanations_plane.csv": pooled(parts["plane"], ["toward_expert", "toward_merged"], confidence),
    }

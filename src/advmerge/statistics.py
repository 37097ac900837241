"""Rates, ratios and their intervals: pure functions on the outcomes and the accuracy table.

Notation: x' is crafted on surrogate s for an image x with label y and judged by target t. C_m holds the
images that model m classifies correctly when clean. Every rate is a share in [0, 1] and is NaN where it has
no images.

- surrogate ASR = P(s(x') ≠ y | C_s)
- transfer ASR = P(t(x') ≠ y | D), where D is one of :data:`DENOMINATORS`
- relative transfer ASR = #{t(x') ≠ y in D} / #{s(x') ≠ y in D}: both counts over the same images, pooled over
  everything in a group *before* dividing, so that a cell with few fooled images cannot dominate an average

The module imports nothing heavy, so that the Snakefile may read :data:`TABLES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from advmerge.errors import StudyError, unknown
from advmerge.seeding import numpy_generator

if TYPE_CHECKING:
    import numpy
    import pandas

EXPERT = "finetuned"
"""The model of the accuracy table that accuracies are normalised by: each task's own fine-tuned model."""

CELL = ["task", "surrogate", "attack", "eps", "target"]
TARGET = ["surrogate", "attack", "eps", "target"]
METHOD = ["surrogate", "eps", "target"]

TABLES: dict[str, str] = {
    "rates_by_cell.csv": "Rates with Wilson intervals by task, surrogate, attack, budget and target.",
    "rates_by_target.csv": "Rates with Wilson intervals by surrogate, attack, budget, target; tasks pooled.",
    "controls_by_target.csv": "Transfer ASR beside its controls: noise, white box, clean error; tasks pooled.",
    "relative_by_cell.csv": "Relative transfer ASR by task, surrogate, attack, budget, target.",
    "relative_by_target.csv": "Relative transfer ASR by surrogate, attack, budget, target; tasks pooled.",
    "relative_by_method.csv": "Relative transfer ASR by surrogate, budget, target; tasks, attacks pooled.",
    "accuracy.csv": "Clean accuracy by model and task, with Wilson intervals, and over the expert's.",
    "accuracy_by_model.csv": "Clean accuracy by model, averaged over tasks.",
    "seeds.csv": "Accuracy, transfer ASR and relative transfer ASR by model and seed of fine-tuning.",
    "seeds_spread.csv": "Their mean and spread over the seeds, with Student's interval.",
}
"""The CSV tables of a study: file name -> what it holds. :func:`tables` computes them all."""


def everything(outcomes: pandas.DataFrame) -> pandas.Series:
    """All images: counts the target's clean errors as transfer."""
    return outcomes["label"] == outcomes["label"]


def target_right(outcomes: pandas.DataFrame) -> pandas.Series:
    """C_t: the target is right on the clean image."""
    return outcomes["target_clean"] == outcomes["label"]


def both_right(outcomes: pandas.DataFrame) -> pandas.Series:
    """C_s ∩ C_t: surrogate and target are right on the clean image."""
    return target_right(outcomes) & (outcomes["surrogate_clean"] == outcomes["label"])


def surrogate_fooled(outcomes: pandas.DataFrame) -> pandas.Series:
    """C_s ∩ C_t and the example fools its surrogate."""
    return both_right(outcomes) & (outcomes["surrogate_adversarial"] != outcomes["label"])


DENOMINATORS: dict[str, Callable[[pandas.DataFrame], pandas.Series]] = {
    "all": everything,
    "target": target_right,
    "both": both_right,
    "fooled": surrogate_fooled,
}
"""Which rows a rate is taken over: name -> function from outcomes to a boolean mask. ``both`` is primary."""

PRIMARY = "both"

CONTROLS = ("noise",)
"""Attacks that are none: random noise, shown apart and left out where attacks are pooled."""


def mask(outcomes: pandas.DataFrame, denominator: str) -> pandas.Series:
    """The rows of a denominator.

    Raises:
        StudyError: the denominator has no such name.
    """
    if denominator not in DENOMINATORS:
        raise unknown("denominator", denominator, DENOMINATORS)
    return DENOMINATORS[denominator](outcomes)


def wilson(k: Any, n: Any, confidence: float = 0.95) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Wilson's score interval for ``k`` hits among ``n`` independent trials, elementwise: (low, high).

    Both ends are within [0, 1] and enclose k/n; both are NaN where ``n`` is 0.
    """
    import numpy as np
    from statsmodels.stats.proportion import proportion_confint

    k, n = np.broadcast_arrays(np.asarray(k, dtype=float), np.asarray(n, dtype=float))
    trials = np.maximum(n, 1)
    low, high = proportion_confint(k, trials, alpha=1 - confidence, method="wilson")
    # rounding puts the ends of 0/n and n/n a hair on the wrong side of the rate
    low, high = np.clip(low, 0, k / trials), np.clip(high, k / trials, 1)
    return np.where(n > 0, low, np.nan), np.where(n > 0, high, np.nan)


def share(k: Any, n: Any) -> numpy.ndarray:
    """k/n elementwise, NaN where ``n`` is 0."""
    import numpy as np

    k, n = np.asarray(k, dtype=float), np.asarray(n, dtype=float)
    return np.divide(k, n, out=np.full(np.broadcast_shapes(k.shape, n.shape), np.nan), where=n > 0)


def _require(table: pandas.DataFrame, columns: Sequence[str], what: str) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise StudyError(f"the {what} table lacks the columns: {', '.join(missing)}")


def _plain_keys(table: pandas.DataFrame, by: Sequence[str]) -> pandas.DataFrame:
    """Keys as plain values in plain order, whatever order the categories of the input had."""
    categories = [column for column in by if table[column].dtype == "category"]
    return table.astype(dict.fromkeys(categories, "str")).sort_values(list(by), ignore_index=True)


def rates(
    outcomes: pandas.DataFrame, by: Sequence[str], denominator: str = PRIMARY, confidence: float = 0.95
) -> pandas.DataFrame:
    """Rates of each group of rows that share the columns ``by``, one row a group.

    It has these columns, besides ``by``.

    Columns:
        denominator: the name given.
        rows: rows of the group, whatever the denominator.
        n: rows in the denominator.
        asr, asr_low, asr_high: the surrogate's ASR, P(s(x') ≠ y | C_s), on its own denominator over the
            whole group, and its Wilson interval.
        asr_n: rows in that denominator.
        transfer_asr, low, high: P(t(x') ≠ y | D) and its Wilson interval. The interval takes rows as
            independent: right where a group holds an image once, too narrow where it pools attacks or
            targets (use :func:`relative`, whose bootstrap keeps the rows of an image together).
        unchanged: share of the denominator's rows whose image the attack left as it was.
        target_accuracy: P(t(x) = y) over the whole group.

    Raises:
        StudyError: an unknown denominator or a missing column.
    """
    by = list(by)
    _require(outcomes, by, "outcomes")
    label = outcomes["label"]
    chosen = mask(outcomes, denominator)
    surrogate_right = outcomes["surrogate_clean"] == label
    facts = outcomes[by].assign(
        rows=1,
        n=chosen,
        _surrogate_right=surrogate_right,
        _surrogate_fooled=surrogate_right & (outcomes["surrogate_adversarial"] != label),
        _target_fooled=chosen & (outcomes["target_adversarial"] != label),
        _unchanged=chosen & ~outcomes["changed"],
        _target_right=target_right(outcomes),
    )
    table = _plain_keys(facts.groupby(by, observed=True, dropna=False).sum().reset_index(), by)
    low, high = wilson(table["_target_fooled"], table["n"], confidence)
    asr_low, asr_high = wilson(table["_surrogate_fooled"], table["_surrogate_right"], confidence)
    return table[by].assign(
        denominator=denominator,
        rows=table["rows"],
        n=table["n"],
        asr=share(table["_surrogate_fooled"], table["_surrogate_right"]),
        asr_low=asr_low,
        asr_high=asr_high,
        asr_n=table["_surrogate_right"],
        transfer_asr=share(table["_target_fooled"], table["n"]),
        low=low,
        high=high,
        unchanged=share(table["_unchanged"], table["n"]),
        target_accuracy=share(table["_target_right"], table["rows"]),
    )


def controls_by_target(
    outcomes: pandas.DataFrame,
    denominator: str = PRIMARY,
    confidence: float = 0.95,
    controls: Sequence[str] = CONTROLS,
) -> pandas.DataFrame:
    """Transfer ASR of every surrogate, attack, budget and target beside what it has to be read with.

    Each quantity has Wilson's interval (``_low``, ``_high``) and its number of rows (``_n``), and is NaN where the study
    does not measure it. They differ in their images: each has those of its own denominator.

    Columns:
        surrogate, attack, eps, target, denominator: the rows of real attacks whose surrogate is not the target.
        transfer: transfer ASR.
        noise: the same of random noise of the same budget, under the same surrogate's denominator.
        white_box: the same of the same attack and budget, crafted on the target itself.
        clean_error: P(t(x) ≠ y) over all attacked images: what the target gets wrong without an attack.
    """
    found = rates(outcomes, TARGET, denominator, confidence)
    low, high = wilson(found["rows"] * (1 - found["target_accuracy"]), found["rows"], confidence)
    found = found.assign(clean_error=1 - found["target_accuracy"], clean_error_low=low, clean_error_high=high)
    facts = ["transfer_asr", "low", "high", "n"]

    def named(rows: pandas.DataFrame, keys: list[str], name: str) -> pandas.DataFrame:
        ends = [name, f"{name}_low", f"{name}_high", f"{name}_n"]
        return rows[[*keys, *facts]].rename(columns=dict(zip(facts, ends, strict=True)))

    noise = rates(outcomes[outcomes["attack"].isin(list(controls))], METHOD, denominator, confidence)
    own = found["surrogate"] == found["target"]
    white = named(found[own], ["attack", "eps", "target"], "white_box")
    real = without_controls(found[~own], controls)
    table = named(real, TARGET, "transfer").assign(denominator=denominator)
    table = table.merge(named(noise[noise["eps"].notna()], METHOD, "noise"), on=METHOD, how="left")
    table = table.merge(white, on=["attack", "eps", "target"], how="left")
    error = [f"clean_error{end}" for end in ("", "_low", "_high")]
    clean = real[[*TARGET, *error]].assign(clean_error_n=real["rows"])
    columns = [f"{name}{end}" for name in ("transfer", "noise", "white_box") for end in ("", "_low", "_high", "_n")]
    return table.merge(clean, on=TARGET)[[*TARGET, "denominator", *columns, *error, "clean_error_n"]]


@dataclass(frozen=True)
class Tally:
    """Counts of each group of rows, in the outcomes and in every resample of their images within tasks.

    Attributes:
        keys: a row a group: its values of the columns grouped by, plain and sorted.
        counts: [1 + resamples, 3, groups]: rows of the denominator, those in which the surrogate is fooled, those in
            which the target is. The outcomes themselves come first. Whole numbers.
        images: [groups]: distinct images among the rows of the denominator.
        group, unit: [rows]: the group of each row of the outcomes, -1 outside the denominator; and its image's number.
    """

    keys: pandas.DataFrame
    counts: numpy.ndarray
    images: numpy.ndarray
    group: numpy.ndarray
    unit: numpy.ndarray


def tally(
    outcomes: pandas.DataFrame, by: Sequence[str], denominator: str = PRIMARY, bootstrap: int = 0, seed: int = 0
) -> Tally:
    """Count the groups of rows that share the columns ``by``, in the outcomes and in resamples.

    Each resample draws, within every task, as many images as it has, with replacement, and takes an image with all
    its rows. All groups see the same resamples, and a task's resamples depend on the seed, its name and its number of
    images alone.

    Raises:
        StudyError: an unknown denominator or a missing column.
    """
    import numpy as np
    import pandas as pd

    by = list(by)
    _require(outcomes, [*by, "task", "image"], "outcomes")
    label = outcomes["label"]
    chosen = mask(outcomes, denominator)
    flags = [
        chosen.to_numpy(),
        (chosen & (outcomes["surrogate_adversarial"] != label)).to_numpy(),
        (chosen & (outcomes["target_adversarial"] != label)).to_numpy(),
    ]
    found = outcomes.groupby(by, observed=True, dropna=False).ngroup()
    keys = _plain_keys(outcomes[by].assign(_found=found).drop_duplicates("_found"), by)
    group = np.argsort(keys["_found"].to_numpy())[found.to_numpy()]  # row -> its group's position in keys

    # Single precision counts exactly up to 2^24. Group-major: groups are what is gathered later.
    exact = np.float32 if len(outcomes) < 2**22 else np.float64
    counts = np.zeros((len(keys), 3, 1 + bootstrap), dtype=exact)
    images, unit, before = np.zeros(len(keys), dtype=int), np.empty(len(group), dtype=int), 0
    task, names = pd.factorize(outcomes["task"], sort=True)
    for k, name in enumerate(names):
        rows = np.flatnonzero(task == k)
        units, row_unit = np.unique(outcomes["image"].to_numpy()[rows], return_inverse=True)
        unit[rows], before = before + row_unit, before + len(units)
        local, row_group = np.unique(group[rows], return_inverse=True)
        drawn = np.ones((1, len(units)))
        if bootstrap:
            drawn = np.vstack([drawn, _resample_weights(len(units), bootstrap, seed, str(name))])
        place, size = row_group * len(units) + row_unit, len(local) * len(units)
        grid = np.stack([np.bincount(place, flag[rows], size).reshape(len(local), -1) for flag in flags], axis=1)
        images[local] += (grid[:, 0] > 0).sum(axis=1)
        product = grid.reshape(-1, len(units)).astype(exact) @ drawn.T.astype(exact)
        counts[local] += product.reshape(len(local), 3, -1)
    return Tally(keys[by], counts.transpose(2, 1, 0), images, np.where(flags[0], group, -1), unit)


def relative(
    outcomes: pandas.DataFrame,
    by: Sequence[str],
    denominator: str = PRIMARY,
    confidence: float = 0.95,
    bootstrap: int = 2000,
    seed: int = 0,
) -> pandas.DataFrame:
    """Relative transfer ASR of each group of rows that share the columns ``by``, one row a group.

    relative = #{t(x') ≠ y in D} / #{s(x') ≠ y in D}, counts pooled over the group; NaN where the surrogate is
    never fooled. It exceeds 1 where the target is fooled more often than the surrogate.

    The intervals are percentiles of a paired bootstrap, over the resamples of :func:`tally`. Tasks are
    not resampled: the interval speaks of new images of these tasks. Resamples in which the surrogate is
    never fooled are left out. A group whose images all agree gets an interval of no width: read it with
    ``n``.

    It has these columns, besides ``by``.

    Columns:
        denominator: the name given.
        n: rows in the denominator D.
        images: distinct images among them.
        asr_same: P(s(x') ≠ y | D), the surrogate's ASR on the very rows of the transfer ASR.
        transfer_asr, transfer_low, transfer_high: P(t(x') ≠ y | D) and its bootstrap interval.
        relative, low, high: the ratio and its bootstrap interval.

    Raises:
        StudyError: an unknown denominator or a missing column.
    """
    counted = tally(outcomes, by, denominator, bootstrap, seed)
    n, surrogate, target = counted.counts.transpose(1, 2, 0)  # each [groups, 1 + resamples]
    transfer_low, transfer_high = _percentiles(share(target, n)[:, 1:], confidence)
    low, high = _percentiles(share(target, surrogate)[:, 1:], confidence)
    return counted.keys.assign(
        denominator=denominator,
        n=n[:, 0].astype(int),
        images=counted.images,
        asr_same=share(surrogate[:, 0], n[:, 0]),
        transfer_asr=share(target[:, 0], n[:, 0]),
        transfer_low=transfer_low,
        transfer_high=transfer_high,
        relative=share(target[:, 0], surrogate[:, 0]),
        low=low,
        high=high,
    )


def _percentiles(values: numpy.ndarray, confidence: float) -> numpy.ndarray:
    """Ends of the central interval of each row of [groups, resamples], NaN left out: [2, groups]."""
    import numpy as np

    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    ends = np.full((2, len(values)), np.nan)
    lacking = np.isnan(values).any(axis=1)
    if not lacking.all():
        ends[:, ~lacking] = np.quantile(values[~lacking], tails, axis=1)
    for k in np.flatnonzero(lacking):
        usable = values[k][~np.isnan(values[k])]
        if len(usable):  # else no resample fools the surrogate, and NaN is the answer
            ends[:, k] = np.quantile(usable, tails)
    return ends


def _resample_weights(units: int, resamples: int, seed: int, task: str) -> numpy.ndarray:
    """How often each resample draws each of a task's images: [resamples, units], rows sum to ``units``."""
    import numpy as np

    draws = numpy_generator(seed, "bootstrap", task).integers(0, units, (resamples, units))
    # one bincount over all resamples is several times as fast as a multinomial draw for each
    flat = draws + units * np.arange(resamples)[:, None]
    return np.bincount(flat.ravel(), minlength=resamples * units).reshape(resamples, units).astype(float)


def accuracy_by_task(accuracy: pandas.DataFrame, confidence: float = 0.95) -> pandas.DataFrame:
    """The accuracy table with Wilson intervals ``low``, ``high`` and ``normalised``, accuracy over the
    expert's.

    Seeds are pooled: the interval takes their answers as independent, see :func:`spread` for how far they differ.
    ``normalised`` is NaN where the task has no expert or one that is never right; it may exceed 1.

    Raises:
        StudyError: a missing column.
    """
    _require(accuracy, ["model", "task", "split", "correct", "n"], "accuracy")
    keys = ["model", "task", "split"]
    table = _plain_keys(accuracy.groupby(keys, observed=True)[["correct", "n"]].sum().reset_index(), keys)
    low, high = wilson(table["correct"], table["n"], confidence)
    table = table.assign(accuracy=share(table["correct"], table["n"]), low=low, high=high)
    expert = table.loc[table["model"] == EXPERT, ["task", "split", "accuracy"]]
    table = table.merge(expert.rename(columns={"accuracy": "_expert"}), on=["task", "split"], how="left")
    return table.assign(normalised=share(table["accuracy"], table["_expert"])).drop(columns="_expert")


def accuracy_by_model(accuracy: pandas.DataFrame, confidence: float = 0.95) -> pandas.DataFrame:
    """Clean accuracy of each model, averaged over tasks with equal weights, as merging papers report it.

    Columns: ``model``, ``split``, ``tasks`` (how many), ``accuracy``, ``low``, ``high``, ``normalised``
    (mean over tasks of accuracy over the expert's). The interval is for images drawn anew within these
    tasks: the distances to the tasks' Wilson ends, added in quadrature (MOVER, Zou and Donner 2008), so it
    stays inside [0, 1] and has a width even where every answer is right.
    """
    import numpy as np

    table = accuracy_by_task(accuracy, confidence)
    table = table.assign(
        _below=(table["accuracy"] - table["low"]) ** 2, _above=(table["high"] - table["accuracy"]) ** 2
    )
    groups = table.groupby(["model", "split"])
    means = groups[["accuracy", "normalised"]].mean()
    tasks = groups.size()
    means = means.assign(
        tasks=tasks,
        low=means["accuracy"] - np.sqrt(groups["_below"].sum()) / tasks,
        high=means["accuracy"] + np.sqrt(groups["_above"].sum()) / tasks,
    )
    return means.reset_index()[["model", "split", "tasks", "accuracy", "low", "high", "normalised"]]


def seeds(outcomes: pandas.DataFrame, accuracy: pandas.DataFrame) -> pandas.DataFrame:
    """What each seed of fine-tuning gives: tasks and attacks pooled, one row a quantity, model and seed.

    Columns:
        quantity: ``accuracy`` (mean over tasks, on the test split), ``transfer_asr`` or ``relative``.
        model: the model, or the target.
        surrogate, eps, denominator: of the transfer; empty for accuracy.
        seed, value.
    """
    import pandas as pd

    keys = ["surrogate", "eps", "denominator"]
    clean = accuracy[accuracy["split"] == "test"]
    clean = clean.assign(value=share(clean["correct"], clean["n"]))
    found = [clean.groupby(["model", "seed"], observed=True)["value"].mean().reset_index().assign(quantity="accuracy")]
    for denominator in DENOMINATORS:
        counted = tally(outcomes, [*METHOD, "seed"], denominator)
        n, surrogate, target = counted.counts[0]
        table = counted.keys.rename(columns={"target": "model"}).assign(denominator=denominator)
        found.append(table.assign(quantity="transfer_asr", value=share(target, n)))
        found.append(table.assign(quantity="relative", value=share(target, surrogate)))
    table = pd.concat(found, ignore_index=True).astype({"model": str})
    table[["surrogate", "denominator"]] = table[["surrogate", "denominator"]].fillna("")
    order = ["quantity", "model", *keys, "seed"]
    return table.sort_values(order, ignore_index=True)[[*order, "value"]]


def spread(by_seed: pandas.DataFrame, confidence: float = 0.95) -> pandas.DataFrame:
    """Mean, standard deviation and Student's interval of the mean over the seeds of :func:`seeds`.

    The interval speaks of other seeds of fine-tuning on the same images, the bootstrap's of other images under the same
    seeds. With one seed there is no spread to see: ``sd``, ``low`` and ``high`` are NaN.
    """
    import numpy as np
    from scipy.stats import t

    keys = ["quantity", "model", "surrogate", "eps", "denominator"]
    groups = by_seed.groupby(keys, dropna=False)["value"]
    table = groups.agg(seeds="count", mean="mean", sd="std", least="min", most="max").reset_index()
    with np.errstate(divide="ignore", invalid="ignore"):
        half = t.ppf((1 + confidence) / 2, table["seeds"] - 1) * table["sd"] / np.sqrt(table["seeds"])
    return table.assign(low=table["mean"] - half, high=table["mean"] + half)


def without_controls(outcomes: pandas.DataFrame, controls: Sequence[str]) -> pandas.DataFrame:
    """Rows of real attacks: those whose attack is not among the ``controls`` (random noise)."""
    return outcomes[~outcomes["attack"].isin(list(controls))]


def representative(rows: pandas.DataFrame) -> int:
    """The image that stands for one set of examples; ``rows`` are its outcomes on every target.

    Not the best-looking one: of the images that the surrogate classifies correctly when clean and wrongly
    when attacked (failing those, that it classifies correctly; failing those, all), keep the ones that the
    most targets classify correctly when clean, and take the one whose margin on the example, averaged over
    targets, is the median (the lower of two; the lower index of equals). Nothing is random.

    Raises:
        StudyError: there are no rows.
    """
    if rows.empty:
        raise StudyError("no outcomes to choose a representative image from")
    right = rows["surrogate_clean"] == rows["label"]
    fooled = right & (rows["surrogate_adversarial"] != rows["label"])
    facts = rows[["image"]].assign(
        right=right, fooled=fooled, targets=target_right(rows), margin=rows["target_margin"].astype(float)
    )
    groups = facts.groupby("image")
    images = groups[["right", "fooled"]].all().assign(targets=groups["targets"].sum(), margin=groups["margin"].mean())
    for condition in ("fooled", "right"):
        if images[condition].any():
            images = images[images[condition]]
            break
    images = images[images["targets"] == images["targets"].max()]
    ranked = images.sort_values("margin", kind="stable").index  # groupby left the images in rising order
    return int(ranked[(len(ranked) - 1) // 2])


def tables(
    outcomes: pandas.DataFrame,
    accuracy: pandas.DataFrame,
    confidence: float = 0.95,
    bootstrap: int = 2000,
    seed: int = 0,
    controls: Sequence[str] = CONTROLS,
) -> dict[str, pandas.DataFrame]:
    """Every table of :data:`TABLES`, under every denominator: file name -> table.

    White-box controls are the rows whose surrogate is their target. ``controls`` names the attacks that are
    no attacks; they are left out where attacks are pooled.
    """
    import pandas as pd

    def everywhere(compute: Callable[[str], pandas.DataFrame]) -> pandas.DataFrame:
        return pd.concat([compute(denominator) for denominator in DENOMINATORS], ignore_index=True)

    attacks = without_controls(outcomes, controls)
    by_seed = seeds(attacks, accuracy)
    return {
        "rates_by_cell.csv": everywhere(lambda d: rates(outcomes, CELL, d, confidence)),
        "rates_by_target.csv": everywhere(lambda d: rates(outcomes, TARGET, d, confidence)),
        "controls_by_target.csv": everywhere(lambda d: controls_by_target(outcomes, d, confidence, controls)),
        "relative_by_cell.csv": everywhere(lambda d: relative(outcomes, CELL, d, confidence, bootstrap, seed)),
        "relative_by_target.csv": everywhere(lambda d: relative(outcomes, TARGET, d, confidence, bootstrap, seed)),
        "relative_by_method.csv": everywhere(lambda d: relative(attacks, METHOD, d, confidence, bootstrap, seed)),
        "accuracy.csv": accuracy_by_task(accuracy, confidence),
        "accuracy_by_model.csv": accuracy_by_model(accuracy, confidence),
        "seeds.csv": by_seed,
        "seeds_spread.csv": spread(by_seed, confidence),
    }

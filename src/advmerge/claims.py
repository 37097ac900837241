"""Claims as data, and their verdicts: what was said about transfer to merged models, held against a study.

A claim of ``claims.yaml`` selects cells (task, surrogate, attack, budget, target) of the outcomes by the values of
:data:`COLUMNS`, takes one of :data:`MEASURES` over the rows of a denominator, and compares one number, made of them
by one of :data:`TESTS`, with a margin. docs/claims.md says how to write one. :func:`load` and :func:`check` refuse
a claim that asks for what there is not; :func:`evaluate` gives the verdicts. The module imports nothing heavy, so that
the Snakefile may check claims before the first job.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from advmerge import statistics, yaml_files
from advmerge.errors import StudyError

if TYPE_CHECKING:
    import numpy
    import pandas

TABLES = {"claims.csv": "Every claim's effect, interval, p, adjusted p, n and verdict."}

COLUMNS = {
    "task": "the data set",
    "surrogate": "what the examples were crafted on",
    "attack": "the attack",
    "eps": "its budget, null for none",
    "target": "what is attacked",
    "role": "transfer, or white_box where the surrogate is the target itself",
    "control": "whether the attack is none (random noise)",
    "kind": "merged or joint, how the target was made",
    "surgery": "whether the target has representation surgery",
    "base": "the target without its surgery",
    "architecture": "same or other, the surrogate's beside the target's; mixed for an ensemble of both",
    "in_merge": "whether the surrogate, or a member of it, is one of the models merged into the target",
    "target_accuracy": "the target's clean accuracy, averaged over the tasks' test splits",
    "surrogate_accuracy": "the surrogate's clean accuracy on the cell's task",
}
"""What a claim can ask for: column -> what it holds."""

NUMBERS = ("eps", "target_accuracy", "surrogate_accuracy")
KEYS = [name for name in COLUMNS if name not in NUMBERS[1:]]

MEASURES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "transfer_asr": lambda n, surrogate, target: statistics.share(target, n),
    "surrogate_asr": lambda n, surrogate, target: statistics.share(surrogate, n),
    "excess": lambda n, surrogate, target: statistics.share(target - surrogate, n),
    "relative": lambda n, surrogate, target: statistics.share(target, surrogate),
}
"""Measures of pooled counts: rows of the denominator, and those in which surrogate and target are fooled."""

TESTS = {
    "level": ("the measure over all cells", set[str](), set[str]()),
    "difference": ("the measure over a's cells less that over b's", {"a", "b", "match"}, set[str]()),
    "share": ("the share of cases that hold", {"holds", "match"}, {"a", "b", "along"}),
    "trend": ("the rank correlation with a column, averaged over cases", {"along", "match"}, set[str]()),
    "extreme": ("the measure over a's cells less that of its closest rival", {"a", "rivals", "match"}, set[str]()),
}
"""Tests: name -> (the number that is compared with the margin, keys it needs, keys it may have)."""

HOLDS: dict[str, Callable[[Any], Any]] = {
    "at_most": lambda value: value <= 0,
    "below": lambda value: value < 0,
    "at_least": lambda value: value >= 0,
    "above": lambda value: value > 0,
}
"""When a case of the ``share`` test holds: its value against 0."""

ANY = "any"
LEVELS = 3
"""A trend needs so many different values; a line through two says nothing of a trend."""


def _one_of(value: str, choices: Sequence[str] | Mapping[str, Any], what: str) -> str:
    if value not in choices:
        raise ValueError(f"unknown {what} '{value}'; choose one of: {', '.join(sorted(choices))}")
    return value


def _number(value: Any) -> Any:
    """``"4/255"`` as a number; anything else unchanged."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*/\s*(\d+)\s*", value) if isinstance(value, str) else None
    return float(match[1]) / float(match[2]) if match else value


def _filters(filters: dict[str, Any]) -> dict[str, Any]:
    """The filters of one group of cells, checked as far as they can be without a study."""
    for column, wanted in filters.items():
        _one_of(column, COLUMNS, "column")
        if isinstance(wanted, dict):
            allowed = {"not", "above", "below"} if column in NUMBERS else {"not"}
            if not wanted:
                raise ValueError(f"{column}: expected a value, a list, or {' or '.join(sorted(allowed))}")
            for key, bound in wanted.items():
                _one_of(key, sorted(allowed), f"key of {column}")
                if key != "not" and not isinstance(_number(bound), int | float):
                    raise ValueError(f"{column}.{key}: expected a number, got {bound!r}")
    return filters


class Claim(BaseModel):
    """One claim; see docs/claims.md for every key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    text: str = Field(min_length=1)
    source: str = Field(min_length=1)
    where: dict[str, Any] = {}
    denominator: str = statistics.PRIMARY
    measure: str
    test: str
    a: dict[str, Any] | None = None
    b: dict[str, Any] | None = None
    match: list[str] | None = None
    along: str | None = None
    rivals: str | None = None
    holds: str | None = None
    direction: Literal["greater", "less"]
    margin: float = 0.0
    if_absent: Literal["refuse", "undecided"] = "refuse"

    @field_validator("where", "a", "b")
    @classmethod
    def _known_columns(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if value is None else _filters(value)

    @model_validator(mode="after")
    def _fits_its_test(self) -> Claim:
        _one_of(self.denominator, statistics.DENOMINATORS, "denominator")
        _one_of(self.measure, MEASURES, "measure")
        _one_of(self.test, TESTS, "test")
        _, needed, optional = TESTS[self.test]
        given = {key for key in ("a", "b", "match", "along", "rivals", "holds") if getattr(self, key) is not None}
        if missing := sorted(needed - given):
            raise ValueError(f"the test '{self.test}' needs the key '{missing[0]}'")
        if surplus := sorted(given - needed - optional):
            raise ValueError(f"the test '{self.test}' does not take the key '{surplus[0]}'")
        if (("a" in given) != ("b" in given) and self.test == "share") or {"a", "along"} <= given:
            raise ValueError("the test 'share' takes both 'a' and 'b', or 'along', or none of them")
        for key in self.match or []:
            _one_of(key, KEYS, "column of match")
        if self.along:
            _one_of(self.along, NUMBERS, "column of along")
        if self.rivals:
            _one_of(self.rivals, KEYS, "column of rivals")
        if self.holds:
            _one_of(self.holds, HOLDS, "relation of holds")
        if self.test == "extreme" and list(self.a or {}) != [self.rivals]:
            raise ValueError(f"'a' names one value of '{self.rivals}', the column of its rivals, and nothing else")
        if self.test == "extreme" and isinstance((self.a or {})[str(self.rivals)], dict | list):
            raise ValueError(f"'a' names one value of '{self.rivals}', not several")
        return self


def load(path: Path | str) -> list[Claim]:
    """Read the claims, the file's common ``where`` put into each.

    Raises:
        StudyError: one sentence naming the file, the claim, what is wrong, and the choices.
    """
    content = yaml_files.read(path)
    claims = content.get("claims") if isinstance(content, dict) else None
    if not isinstance(claims, dict) or not set(content) <= {"where", "claims"}:
        raise StudyError(f"{path}: expected the keys 'claims' (name: claim) and, if need be, 'where' (column: value)")
    common = content.get("where") or {}
    try:
        _filters(common)
    except ValueError as error:
        raise StudyError(f"{path}: where: {error}") from None
    found = []
    for name, entry in claims.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("where") or {}, dict):
            raise StudyError(f"{path}: claim '{name}': expected a mapping of keys to values")
        try:
            where = {**common, **(entry.get("where") or {})}
            found.append(Claim.model_validate({**entry, "name": name, "where": where}))
        except ValidationError as error:
            raise StudyError(f"{path}: claim '{name}': {_sentence(error)}") from None
    return found


def _sentence(error: ValidationError) -> str:
    """The first thing wrong; a misspelt key is both unknown and missing, and that it is unknown says more."""
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key '{key}'; choose one of: {', '.join(sorted(set(Claim.model_fields) - {'name'}))}"
    if first["type"] == "missing":
        return f"the key '{key}' is missing"
    message = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] == "value_error" else f", got {first['input']!r:.80}"
    return f"{key + ': ' if key else ''}{message[0].lower() + message[1:]}{got}"


@dataclass(frozen=True)
class Names:
    """What a study's cells can be: its axes, which attacks are controls, and what surgery was done on.

    ``ingredients`` gives each target's surrogates that are merged into it, or have a member that is; ``architectures``
    those of surrogates that are not the study's own: ``other`` or ``mixed``.
    """

    tasks: Sequence[str]
    surrogates: Sequence[str]
    attacks: Sequence[str]
    eps: Sequence[float]
    targets: Sequence[str]
    controls: Sequence[str] = ()
    joint: Sequence[str] = ()
    bases: Mapping[str, str] | None = None
    ingredients: Mapping[str, Sequence[str]] | None = None
    architectures: Mapping[str, str] | None = None

    def choices(self, column: str) -> list[Any]:
        """The values that a column can have in this study."""
        fixed: dict[str, list[Any]] = {
            "task": [*self.tasks],
            "surrogate": ["pretrained", "finetuned", *self.surrogates, *self.targets],
            "attack": [*self.attacks],
            "eps": [*self.eps, None],
            "target": [*self.targets],
            "role": ["transfer", "white_box"],
            "control": [True, False],
            "kind": ["merged", "joint"],
            "surgery": [True, False],
            "base": [*self.targets],
            "architecture": ["same", "other", "mixed"],
            "in_merge": [True, False],
        }
        return list(dict.fromkeys(fixed[column]))


def _listed(wanted: Any) -> list[Any]:
    """The values that a filter names."""
    if isinstance(wanted, dict):
        wanted = wanted.get("not", [])
    return [_number(value) for value in (wanted if isinstance(wanted, list) else [wanted])]


def _same(one: Any, other: Any) -> bool:
    """Equality that takes 0.0157 for 4/255 and keeps 1 apart from true."""
    if (
        isinstance(one, float | int)
        and isinstance(other, float | int)
        and isinstance(one, bool) == isinstance(other, bool)
    ):
        return abs(one - other) <= 1e-3 * abs(other)
    return type(one) is type(other) and one == other


def absent(claim: Claim, names: Names) -> str | None:
    """What is wrong with the first value that a claim asks for and the study does not have; None if it has all."""
    for filters in (claim.where, claim.a or {}, claim.b or {}):
        for column, wanted in filters.items():
            if wanted == ANY or column in NUMBERS[1:]:
                continue
            choices = names.choices(column)
            for value in _listed(wanted):
                if not any(_same(value, choice) for choice in choices):
                    shown = ", ".join(sorted(_shown(choice) for choice in choices))
                    return f"unknown {column} '{_shown(value)}'; choose one of: {shown}"
    return None


def _shown(value: Any) -> str:
    """A value as YAML writes it."""
    return (
        {True: "true", False: "false", None: "null"}[value]
        if value is None or isinstance(value, bool)
        else f"{value:.4g}"
        if isinstance(value, float)
        else str(value)
    )


def check(claims: Sequence[Claim], names: Names, path: str = "claims.yaml") -> None:
    """Hold the values that claims ask for against the study.

    Raises:
        StudyError: naming the claim, the value and the choices, unless the claim says ``if_absent: undecided``.
    """
    for claim in claims:
        if claim.if_absent == "refuse" and (problem := absent(claim, names)):
            raise StudyError(f"{path}: claim '{claim.name}': {problem}")


# ── cells ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Cells:
    """The cells of a study, and the counts of each under one denominator.

    Attributes:
        table: a row a cell, with every column of :data:`COLUMNS`.
        counts: [1 + resamples, 3, cells]: rows of the denominator, surrogate fooled, target fooled; the table itself
            first.
        cell, image: [rows]: the cell of each row of the outcomes, -1 outside the denominator; its image's number.
    """

    table: pandas.DataFrame
    counts: numpy.ndarray
    cell: numpy.ndarray
    image: numpy.ndarray


def described(table: pandas.DataFrame, accuracy: pandas.DataFrame, names: Names) -> pandas.DataFrame:
    """The cells of :data:`statistics.CELL` with every other column of :data:`COLUMNS`.

    Raises:
        StudyError: a model without a clean accuracy.
    """
    clean = accuracy[accuracy["split"] == "test"].astype({"model": str, "task": str})
    clean = clean.groupby(["model", "task"])[["correct", "n"]].sum().reset_index()  # seeds are pooled
    rate = dict(zip(zip(clean["model"], clean["task"], strict=True), clean["correct"] / clean["n"], strict=True))
    mean = clean.assign(_rate=clean["correct"] / clean["n"]).groupby("model")["_rate"].mean().to_dict()
    bases, architectures, ingredients = (dict(d or {}) for d in (names.bases, names.architectures, names.ingredients))
    surrogates = list(zip(table["surrogate"], table["task"], strict=True))
    for model in set(table["target"]) - set(mean):
        raise StudyError(f"the accuracy table lacks '{model}' on the test splits")
    for model, task in set(surrogates) - set(rate):
        raise StudyError(f"the accuracy table lacks '{model}' on the test split of '{task}'")
    return table.assign(
        role=["white_box" if s == t else "transfer" for s, t in zip(table["surrogate"], table["target"], strict=True)],
        control=table["attack"].isin(list(names.controls)),
        kind=["joint" if target in names.joint else "merged" for target in table["target"]],
        surgery=table["target"].isin(list(bases)),
        base=[bases.get(target, target) for target in table["target"]],
        architecture=[architectures.get(surrogate, "same") for surrogate in table["surrogate"]],  # targets: the study's
        in_merge=[s in ingredients.get(t, ()) for s, t in zip(table["surrogate"], table["target"], strict=True)],
        target_accuracy=table["target"].map(mean),
        surrogate_accuracy=[rate[key] for key in surrogates],
    )


def tally(
    outcomes: pandas.DataFrame,
    accuracy: pandas.DataFrame,
    names: Names,
    denominator: str = statistics.PRIMARY,
    bootstrap: int = 0,
    seed: int = 0,
) -> Cells:
    """Count every cell by :func:`statistics.tally`: an image comes with all its rows, in all cells."""
    counted = statistics.tally(outcomes, statistics.CELL, denominator, bootstrap, seed)
    table = described(counted.keys, accuracy, names)
    return Cells(table, counted.counts, counted.group, counted.unit)


def matching(table: pandas.DataFrame, filters: Mapping[str, Any]) -> numpy.ndarray:
    """Which cells have the values that the filters ask for."""
    import numpy as np
    import pandas as pd

    chosen = np.ones(len(table), dtype=bool)
    for column, wanted in filters.items():
        if wanted == ANY:
            continue
        place, values = pd.factorize(table[column].astype(object), use_na_sentinel=False)
        fits = [_fits(None if value != value else value, wanted) for value in values]
        chosen &= np.array(fits, dtype=bool)[place]
    return chosen


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a cell's value is what a filter asks for."""
    if not isinstance(wanted, dict):
        return any(_same(value, one) for one in _listed(wanted))
    for key, bound in wanted.items():
        if key == "not":
            if any(_same(value, one) for one in _listed(wanted)):
                return False
        elif value is None or not (value > _number(bound) if key == "above" else value < _number(bound)):
            return False
    return True


# ── cases and the number that a test makes of them ──────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Case:
    """Cells that are looked at together: those of a against those of b, or a alone. ``name`` tells rivals apart."""

    a: tuple[int, ...]
    b: tuple[int, ...] = ()
    name: str = ""


def cases(claim: Claim, table: pandas.DataFrame) -> list[Case]:
    """The cases that a claim makes of the cells; none where the study lacks what it compares."""
    import numpy as np

    selected = matching(table, claim.where)
    if claim.match is None:
        return [Case(tuple(np.flatnonzero(selected).tolist()))] if selected.any() else []
    in_a = selected & matching(table, claim.a or {})
    in_b = selected & matching(table, claim.b or {})
    groups = _groups(table, selected, claim.match)
    level = table[claim.along].tolist() if claim.along else []
    if claim.test == "extreme":
        return _rivalry(table, groups, in_a, str(claim.rivals))
    found = []
    for group in groups:
        if claim.test == "trend":
            if len({level[k] for k in group}) >= LEVELS:
                found.append(Case(tuple(group)))
        elif claim.along:
            ordered = sorted(group, key=lambda k: (level[k], k))
            found += [Case((high,), (low,)) for low, high in combinations(ordered, 2) if level[low] < level[high]]
        elif claim.a is None:
            found.append(Case(tuple(group)))
        else:
            case = Case(tuple(k for k in group if in_a[k]), tuple(k for k in group if in_b[k]))
            if case.a and case.b:
                found.append(case)
    return found


def _groups(table: pandas.DataFrame, selected: numpy.ndarray, by: Sequence[str]) -> Iterator[list[int]]:
    """The selected cells that share the columns ``by``, in the table's order."""
    found: dict[tuple[str, ...], list[int]] = {}
    columns = [table[column].astype(str).tolist() for column in by]
    for k in selected.nonzero()[0].tolist():
        found.setdefault(tuple(column[k] for column in columns), []).append(k)
    yield from found.values()


def _rivalry(table: pandas.DataFrame, groups: Iterator[list[int]], in_a: numpy.ndarray, rivals: str) -> list[Case]:
    """A case a rival, over the groups in which a and every rival are."""
    groups_of, names = list(groups), table[rivals].astype(str).tolist()
    everyone = {names[k] for group in groups_of for k in group}
    whole = [group for group in groups_of if {names[k] for k in group} == everyone]
    cells = [k for group in whole for k in group]
    a = tuple(k for k in cells if in_a[k])
    others = sorted({names[k] for k in cells if not in_a[k]})
    if not a:
        return []
    return [Case(a, tuple(k for k in cells if names[k] == name and not in_a[k]), name) for name in others]


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


# ── the whole file ──────────────────────────────────────────────────────────────────────────────────────────


def evaluate(
    claims: Sequence[Claim],
    outcomes: pandas.DataFrame,
    accuracy: pandas.DataFrame,
    names: Names,
    confidence: float = 0.95,
    bootstrap: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """The verdict on every claim, in the order of the file, ready for JSON; see docs/claims.md for its keys.

    Raises:
        StudyError: a claim asks for what the study does not have.
    """
    import numpy as np

    check(claims, names)
    used = {claim.denominator for claim in claims}
    tallies = {
        name: tally(outcomes, accuracy, names, name, bootstrap if name in used else 0, seed)
        for name in statistics.DENOMINATORS
    }
    found = [_evaluated(claim, tallies, names, confidence) for claim in claims]

    from advmerge.comparison import holm

    adjusted = holm([np.nan if entry["p"] is None else entry["p"] for entry in found])
    for claim, entry, p in zip(claims, found, adjusted, strict=True):
        if not np.isnan(p):
            entry["p_adjusted"] = _rounded(p)
            entry["verdict"] = verdict(claim, entry["low"], entry["high"], p, 1 - confidence)
            entry["reason"] = _reason(claim, entry, 1 - confidence)
    cells = {name: _cell_rows(tallies[name]) for name in sorted(used)}
    return {"confidence": confidence, "resamples": bootstrap, "claims": found, "cells": cells}


def _evaluated(claim: Claim, tallies: Mapping[str, Cells], names: Names, confidence: float) -> dict[str, Any]:
    """Everything about a claim that does not depend on the others."""
    import numpy as np

    cells = tallies[claim.denominator]
    table = cells.table
    entry: dict[str, Any] = {
        **claim.model_dump(exclude_none=True, exclude={"if_absent"}),
        "meaning": TESTS[claim.test][0],
        **dict.fromkeys(["effect", "low", "high", "p", "p_adjusted"]),
        "verdict": "undecided",
        "n": 0,
        "images": 0,
        "n_cells": 0,
        "n_cases": 0,
        "tasks": 0,
        "tasks_agreeing": 0,
        "by_denominator": {},
        "cases": [],
    }
    if problem := absent(claim, names):
        return {**entry, "reason": f"the study lacks what is compared: {problem}"}
    found = cases(claim, table)
    if not found:
        lacks = (
            f"fewer than {LEVELS} values of {claim.along}" if claim.test == "trend" else "one side of the comparison"
        )
        return {**entry, "reason": f"the study lacks the variation: {lacks}" if claim.match else "no cell matches"}
    values = number(claim, found, table, cells.counts)
    members = sorted({k for case in found for k in (*case.a, *case.b)})
    member = np.zeros(len(table) + 1, dtype=bool)  # the last is that of rows outside the denominator
    member[members] = True
    entry |= {
        "n": int(cells.counts[0, 0, members].sum()),
        "images": len(np.unique(cells.image[member[cells.cell]])),
        "n_cells": len(members),
        "n_cases": len(found),
        "by_denominator": {
            name: _rounded(number(claim, found, table, other.counts[:1])[0]) for name, other in tallies.items()
        },
        "cases": [
            {"a": [*case.a], "b": [*case.b], "value": _rounded(value)} | ({"name": case.name} if case.name else {})
            for case, value in zip(found, case_values(claim, found, table, cells.counts[:1])[0], strict=True)
        ],
    }
    if np.isnan(values[0]):
        return {**entry, "reason": "no image is in the denominator"}
    for task in sorted(set(table["task"].iloc[members])):
        local = (table["task"] == task).to_numpy()
        here = [_within(case, local) for case in found]
        here = [case for case, whole in zip(here, found, strict=True) if case.a and bool(case.b) == bool(whole.b)]
        effect = number(claim, here, table, cells.counts[:1])[0] if here else np.nan
        if not np.isnan(effect):
            entry["tasks"] += 1
            entry["tasks_agreeing"] += int(
                effect > claim.margin if claim.direction == "greater" else effect < claim.margin
            )
    low, high, p = interval(values, claim.margin, confidence)
    if (strays := chance(claim, found, table, cells.counts)) is not None:
        low, high, p = widened((low, high, p), values[0], claim.margin, strays, confidence)
        least = 0.0 if claim.test == "share" else -1.0
        low, high = max(low, least), min(high, 1.0)
    return {**entry, "effect": _rounded(values[0]), "low": _rounded(low), "high": _rounded(high), "p": _rounded(p)}


def _within(case: Case, chosen: numpy.ndarray) -> Case:
    return Case(tuple(k for k in case.a if chosen[k]), tuple(k for k in case.b if chosen[k]), case.name)


def _reason(claim: Claim, entry: Mapping[str, Any], alpha: float) -> str:
    """Why the verdict is what it is, in a few words."""
    side = "above" if entry["low"] > claim.margin else "below" if entry["high"] < claim.margin else "across"
    if entry["verdict"] != "undecided":
        return f"the interval lies {side} the margin and adjusted p < {alpha:.3g}"
    if side == "across":
        return "the interval contains the margin"
    return f"adjusted p is not below {alpha:.3g}"


def _rounded(value: Any) -> float | None:
    """Six significant digits, alike on every machine; None for NaN."""
    return None if value is None or value != value else float(f"{float(value):.6g}")


def _cell_rows(cells: Cells) -> dict[str, Any]:
    """The cells as columns and rows: names, counts, and both ASRs."""
    counts = cells.counts[0].T.astype(int).tolist()
    keys = cells.table[statistics.CELL].to_numpy().tolist()
    rows = [[*key[:3], _rounded(key[3]), key[4], *count] for key, count in zip(keys, counts, strict=True)]
    return {"columns": [*statistics.CELL, "n", "surrogate_fooled", "target_fooled"], "rows": rows}


SUMMARY = "name verdict effect low high p p_adjusted direction margin n images n_cells n_cases tasks tasks_agreeing"
"""Columns of claims.csv, before the words."""


def summary(evaluated: Mapping[str, Any]) -> pandas.DataFrame:
    """claims.csv: a row a claim."""
    import pandas as pd

    columns = [*SUMMARY.split(), "measure", "denominator", "test", "reason", "text", "source"]
    return pd.DataFrame([{key: entry[key] for key in columns} for entry in evaluated["claims"]], columns=columns)

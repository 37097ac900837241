"""What a claim can say: its keys, the columns it selects by, its tests; and what is wrong with one.

Imports nothing heavy, so that the Snakefile may check claims before the first job.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from advmerge import statistics, yaml_files
from advmerge.errors import StudyError

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
    known = set(Claim.model_fields) - {"name"}
    found = []
    for name, entry in claims.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("where") or {}, dict):
            raise StudyError(f"{path}: claim '{name}': expected a mapping of keys to values")
        try:
            where = {**common, **(entry.get("where") or {})}
            found.append(Claim.model_validate({**entry, "name": name, "where": where}))
        except ValidationError as error:
            raise StudyError(f"{path}: claim '{name}': {yaml_files.sentence(error, lambda _: known)}") from None
    return found


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


def fits(value: Any, wanted: Any) -> bool:
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

"""What the page says of each claim: verdict, effect with its interval, and where to draw it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from advmerge.page.words import known, probability

SIGNS = {"supported": "✓", "contradicted": "✗", "undecided": "?"}


def quantity(claim: Mapping[str, Any], value: Any, unit: bool = True) -> str:
    r"""A value of a claim's effect: a share of cases or a level in percent, a difference in points, a correlation.

    >>> quantity({"test": "difference", "measure": "transfer_asr"}, -0.0934)
    '−9.3\xa0points'
    >>> quantity({"test": "level", "measure": "relative"}, 0.95, unit=False)
    '0.95'
    """
    if not known(value):
        return "–"
    compared = claim["test"] in ("difference", "extreme", "trend")
    sign = "−" if value < 0 else "+" if value > 0 and compared else ""
    if claim["test"] == "trend" or (claim["measure"] == "relative" and claim["test"] != "share"):
        return f"{sign}{abs(value):.2f}"
    of = ("\u00a0points" if compared else "\u00a0%") if unit else ""
    return f"{sign}{100 * abs(value):.1f}{of}"


MEASURED = {
    "transfer_asr": "transfer ASR",
    "surrogate_asr": "ASR on the surrogate",
    "excess": "transfer ASR less the ASR on the surrogate",
    "relative": "relative transfer ASR",
}


def found(claim: Mapping[str, Any]) -> str:
    """What a claim's effect is, in words, before its value."""
    measured = MEASURED.get(claim["measure"], claim["measure"])
    if claim["test"] == "share":
        return f"Holds in this share of {claim['n_cases']} cases"
    if claim["test"] == "trend":
        along = claim["along"].replace("_", " ")
        return f"Rank correlation of the {measured} with the {along}"
    if claim["test"] == "difference":
        return f"Difference in {measured}"
    if claim["test"] == "extreme":
        return f"Distance in {measured} from the closest rival"
    return measured[0].upper() + measured[1:]


def strip(claim: Mapping[str, Any], width: float = 200.0) -> dict[str, float] | None:
    """Where to draw margin, interval and effect on a line of some width, the margin in the middle."""
    ends = [claim[key] for key in ("low", "high", "effect")]
    if not all(known(end) for end in ends):
        return None
    reach = 1.15 * max(abs(end - claim["margin"]) for end in ends) or 1.0
    at = [round(width / 2 * (1 + (end - claim["margin"]) / reach), 1) for end in ends]
    return {"low": at[0], "high": at[1], "effect": at[2], "width": width, "middle": width / 2}


def verdicts(evaluated: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the page says of each claim of claims.json, in its order."""
    return [
        {
            **claim,
            "sign": SIGNS[claim["verdict"]],
            "found": found(claim),
            "effect_words": quantity(claim, claim["effect"]),
            "low_words": quantity(claim, claim["low"], unit=False),
            "high_words": quantity(claim, claim["high"], unit=False),
            "side": "above" if claim["direction"] == "greater" else "below",
            "margin_words": quantity(claim, claim["margin"]).replace(".0\u00a0", "\u00a0") if claim["margin"] else "0",
            "p_words": probability(claim["p_adjusted"]),
            "elsewhere": {name: quantity(claim, value) for name, value in claim["by_denominator"].items()},
            "strip": strip(claim),
        }
        for claim in evaluated["claims"]
    ]


def counted(evaluated: Mapping[str, Any]) -> dict[str, int]:
    """How many claims have each verdict."""
    given = [claim["verdict"] for claim in evaluated["claims"]]
    return {verdict: given.count(verdict) for verdict in SIGNS}

"""Claims: worked by hand, simulated with each of the three truths, and what is refused in which words."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from advmerge import artifacts, claims, statistics
from advmerge.errors import StudyError
from advmerge.seeding import numpy_generator
from advmerge.study import load

ROOT = Path(__file__).parents[1]
EPS = 4 / 255
NAMES = claims.Names(
    tasks=["t", "u"],
    surrogates=["pretrained", "finetuned"],
    attacks=["pgd", "cw", "noise"],
    eps=[EPS],
    targets=["weak", "middle", "strong", "strong_surgery", "joint"],
    controls=["noise"],
    joint=["joint"],
    bases={"strong_surgery": "strong"},
)
LEVEL = {"text": "x", "source": "y", "measure": "transfer_asr", "test": "level", "direction": "greater", "margin": 0.5}
ACCURACY = {"weak": 0.6, "middle": 0.7, "strong": 0.8, "strong_surgery": 0.9, "joint": 0.95}
SURROGATES = {"pretrained": 0.5, "finetuned": 0.99}


def claim(**changes: Any) -> claims.Claim:
    """A claim like LEVEL but for the changes; None takes a key away."""
    content = {key: value for key, value in {"name": "it", **LEVEL, **changes}.items() if value is not None}
    return claims.Claim.model_validate(content)


def block(fooled, *, source=None, task="t", surrogate="finetuned", attack="pgd", eps=EPS, target="weak", right=True):
    """Outcomes of one cell, an image an entry; ``source``: whether the surrogate is fooled (else always)."""
    fooled = np.asarray(fooled, dtype=bool)
    source = np.ones(len(fooled), dtype=bool) if source is None else np.asarray(source, dtype=bool)
    return pd.DataFrame(
        {
            "task": task,
            "image": np.arange(len(fooled)),
            "surrogate": surrogate,
            "attack": attack,
            "eps": eps,
            "target": target,
            "label": 1,
            "surrogate_clean": 1,
            "surrogate_adversarial": np.where(source, 0, 1),
            "target_clean": np.where(np.broadcast_to(right, fooled.shape), 1, 0),
            "target_adversarial": np.where(fooled, 0, 1),
            "changed": True,
        }
    )


def accuracy(tasks=("t", "u")) -> pd.DataFrame:
    rows = [(m, task, "test", round(100 * a), 100) for (m, a), task in product((ACCURACY | SURROGATES).items(), tasks)]
    return pd.DataFrame(rows, columns=["model", "task", "split", "correct", "n"])


def judged(outcomes: pd.DataFrame, *asked: claims.Claim, bootstrap: int = 200, **options: Any) -> Any:
    """The evaluated claims, or the one."""
    found = claims.evaluate(asked, outcomes, accuracy(), NAMES, bootstrap=bootstrap, **options)["claims"]
    return found[0] if len(asked) == 1 else found


def simulated(chance, images: int = 120, seed: int = 0, **axes: Any) -> pd.DataFrame:
    """Outcomes in which every target is fooled with ``chance(surrogate, target)``, a surrogate with 0.8."""
    rng = numpy_generator(seed, "simulated claims")
    axes = {"tasks": ["t", "u"], "surrogates": list(SURROGATES), "targets": list(ACCURACY), **axes}
    blocks = []
    for task, surrogate, (attack, eps) in product(
        axes["tasks"], axes["surrogates"], [("pgd", EPS), ("cw", np.nan), ("noise", EPS)]
    ):
        source = rng.random(images) < (0.8 if attack != "noise" else 0)
        for target in axes["targets"]:
            fooled = rng.random(images) < (chance(surrogate, target) if attack != "noise" else 0)
            names = {"task": task, "surrogate": surrogate, "attack": attack, "eps": eps, "target": target}
            blocks.append(block(fooled, source=source, right=rng.random(images) < ACCURACY[target], **names))
    return pd.concat(blocks, ignore_index=True)


def test_what_a_surrogate_is_made_of_describes_its_cells() -> None:
    """What the study does not name is merged into nothing, and of the study's architecture."""
    told = {"ingredients": {"weak": ["finetuned"]}, "architectures": {"pretrained": "other", "finetuned": "mixed"}}
    table = pd.DataFrame(
        [(t, s, "pgd", EPS, m) for t, s, m in product("t", ["pretrained", "finetuned", "weak"], ["weak", "joint"])],
        columns=statistics.CELL,
    )
    found = claims.described(table, accuracy(), claims.Names(**{**vars(NAMES), **told})).set_index(
        ["surrogate", "target"]
    )
    assert found.index[found["in_merge"]].tolist() == [("finetuned", "weak")]
    assert found["architecture"].xs("weak", level="target").tolist() == ["other", "mixed", "same"]


# ── by hand ─────────────────────────────────────────────────────────────────────────────────────────────────

HAND = pd.concat(
    [
        block([1, 0, 0, 0], source=[1, 1, 0, 0], target="weak"),
        block([1, 1, 1, 0], source=[1, 1, 0, 0], target="middle"),
        block([1, 1, 1, 1], source=[1, 1, 0, 0], target="strong", right=[1, 1, 0, 0]),
        block([1, 1, 0, 0], source=[1, 0, 0, 0], target="weak", surrogate="pretrained"),
        block([1, 0], source=[1, 1], target="weak", task="u"),
        block([0, 0], source=[1, 1], target="middle", task="u"),
    ]
)
OF_TUNED = {"surrogate": "finetuned"}
BY_CELL = ["task", "surrogate", "attack", "eps"]


@pytest.mark.parametrize(
    ("changes", "effect", "cells", "cases"),
    [
        ({}, 9 / 18, 6, 1),
        ({"denominator": "all"}, 11 / 20, 6, 1),
        ({"measure": "relative", "where": {"target": "weak", "task": "t"}}, 3 / 3, 2, 1),
        ({"measure": "surrogate_asr", "where": {"target": "weak", "task": "t"}}, 3 / 8, 2, 1),
        ({"measure": "excess", "where": {"target": "weak", "surrogate": "finetuned"}}, (2 - 4) / 6, 2, 1),
        ({"where": {"target": {"not": ["weak", "strong"]}}}, 3 / 6, 2, 1),
        ({"where": {"target_accuracy": {"above": 0.65, "below": 0.75}}}, 3 / 6, 2, 1),
        ({"where": {"surrogate_accuracy": {"below": 0.9}}}, 2 / 4, 1, 1),
        ({"where": {"eps": "4/255", "task": "u"}}, 1 / 4, 2, 1),
        # middle less weak, in t and u: (3 + 0) / 6 - (1 + 1) / 6
        (
            {"test": "difference", "a": {"target": "middle"}, "b": {"target": "weak"}, "match": BY_CELL},
            1 / 6,
            4,
            2,
        ),
        # weak, finetuned − pretrained: only t has both
        (
            {
                "test": "difference",
                "a": OF_TUNED,
                "b": {"surrogate": "pretrained"},
                "match": ["task", "target"],
            },
            1 / 4 - 2 / 4,
            2,
            1,
        ),
        # excess a cell: weak -1/4, middle +1/4, strong 0, pretrained +1/4, u: -1/2, -1
        ({"test": "share", "measure": "excess", "match": [*BY_CELL, "target"], "holds": "at_most"}, 4 / 6, 6, 6),
        ({"test": "share", "measure": "excess", "match": [*BY_CELL, "target"], "holds": "below"}, 3 / 6, 6, 6),
        # stronger less weaker: t: middle-weak +, strong-weak +, strong-middle +; u: middle-weak -
        ({"test": "share", "match": BY_CELL, "along": "target_accuracy", "holds": "at_least"}, 3 / 4, 5, 4),
        # ranks of 1/4, 3/4, 1 along weak, middle, strong; u has but two levels
        ({"test": "trend", "match": BY_CELL, "along": "target_accuracy"}, 1.0, 3, 1),
        # rivals are compared where all are: (t, finetuned); strong 1, middle 3/4
        ({"test": "extreme", "a": {"target": "strong"}, "rivals": "target", "match": BY_CELL}, 1 / 4, 3, 2),
        (
            {
                "test": "extreme",
                "a": {"target": "weak"},
                "rivals": "target",
                "match": BY_CELL,
                "direction": "less",
            },
            1 / 4 - 3 / 4,
            3,
            2,
        ),
    ],
)
def test_numbers_by_hand(changes: dict[str, Any], effect: float, cells: int, cases: int) -> None:
    found = judged(HAND, claim(**changes))
    assert found["effect"] == pytest.approx(effect, abs=1e-6)
    assert (found["n_cells"], found["n_cases"]) == (cells, cases)
    assert found["low"] <= found["effect"] <= found["high"]


def test_counts_and_cells_behind_a_claim() -> None:
    asked = claim(test="share", measure="excess", match=[*BY_CELL, "target"], holds="at_most", where=OF_TUNED)
    evaluated = claims.evaluate([asked], HAND, accuracy(), NAMES, bootstrap=50)
    (found,) = evaluated["claims"]
    assert (found["n"], found["images"], found["tasks"]) == (4 + 4 + 2 + 2 + 2, 6, 2)
    assert found["tasks_agreeing"] == 2  # 2 of 3 cells in t, 2 of 2 in u
    cells = evaluated["cells"]["both"]
    assert cells["columns"] == [*statistics.CELL, "n", "surrogate_fooled", "target_fooled"]
    behind = {cells["rows"][case["a"][0]][4] + cells["rows"][case["a"][0]][0]: case["value"] for case in found["cases"]}
    assert behind == {"weakt": -0.25, "middlet": 0.25, "strongt": 0, "weaku": -0.5, "middleu": -1}
    (weak,) = [row for row in cells["rows"] if row[:5] == ["t", "finetuned", "pgd", float(f"{EPS:.6g}"), "weak"]]
    assert weak[5:] == [4, 2, 1]
    assert found["by_denominator"] == {"all": 0.6, "target": 0.8, "both": 0.8, "fooled": 1}


def test_the_derived_columns() -> None:
    outcomes = simulated(lambda surrogate, target: 0.5, images=5)
    white = block([1, 1], target="weak", surrogate="weak")
    known = pd.concat([accuracy(), accuracy().assign(split="attack", correct=0)])
    table = claims.tally(pd.concat([outcomes, white]), known, NAMES).table
    assert set(table.columns) == set(claims.COLUMNS)
    own = table[table["surrogate"] == "weak"]
    assert (own["role"] == "white_box").all() and (table["role"] == "white_box").sum() == 1
    assert (table["control"] == (table["attack"] == "noise")).all()
    assert (table["kind"] == np.where(table["target"] == "joint", "joint", "merged")).all()
    assert set(table.loc[table["surgery"], "target"]) == {"strong_surgery"}
    assert set(table.loc[table["surgery"], "base"]) == {"strong"}
    assert table["target_accuracy"].equals(table["target"].map(ACCURACY))
    assert table["surrogate_accuracy"].equals(table["surrogate"].map(SURROGATES | ACCURACY))
    with pytest.raises(StudyError, match="lacks 'weak' on the test splits"):
        claims.tally(outcomes, accuracy()[accuracy()["model"] != "weak"], NAMES)


def test_filters_of_budgets_and_of_anything() -> None:
    table = claims.tally(simulated(lambda *_: 0.5, images=4), accuracy(), NAMES).table
    assert set(table["attack"][claims.matching(table, {"eps": None})]) == {"cw"}
    assert set(table["attack"][claims.matching(table, {"eps": {"above": "3/255"}})]) == {"pgd", "noise"}
    assert set(table["attack"][claims.matching(table, {"eps": ["4/255", None], "control": False})]) == {"pgd", "cw"}
    assert claims.matching(table, {"control": "any"}).all()
    assert not claims.matching(table, {"control": 1}).any()


def test_numbers_agree_with_the_statistics_tables() -> None:
    outcomes = simulated(lambda surrogate, target: 0.55)
    asked = claim(measure="relative", where={"control": False, "target": "weak"}, margin=0.9)
    found = judged(outcomes, asked, bootstrap=1000)
    rows = outcomes[(outcomes["attack"] != "noise") & (outcomes["target"] == "weak")]
    (expected,) = statistics.relative(rows, ["target"], bootstrap=1000).to_dict("records")
    assert found["effect"] == pytest.approx(expected["relative"], rel=1e-5)
    assert found["n"] == expected["n"] and found["images"] == expected["images"]
    # bias-corrected and plain percentiles of the same resamples
    assert (found["low"], found["high"]) == pytest.approx((expected["low"], expected["high"]), abs=0.015)


# ── known truths ────────────────────────────────────────────────────────────────────────────────────────────

STEP = {"weak": 0, "middle": 1, "strong": 2, "strong_surgery": 3, "joint": 4}
MERGED = {"kind": "merged", "control": False}
SHARE = {"test": "share", "match": BY_CELL, "along": "target_accuracy", "holds": "at_most", "margin": 0.5}
TRUTHS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    # test: claim, chances under which it is true, false, and neither
    "level": (LEVEL, [lambda s, t: 0.65, lambda s, t: 0.35, lambda s, t: 0.5]),
    "difference": (
        {"test": "difference", "a": {"surrogate": "pretrained"}, "b": OF_TUNED, "match": ["task", "attack", "target"]},
        [
            lambda s, t: 0.6 if s == "pretrained" else 0.4,
            lambda s, t: 0.4 if s == "pretrained" else 0.6,
            lambda s, t: 0.5,
        ],
    ),
    "surgery": (
        {"test": "difference", "a": {"surgery": True}, "b": {"surgery": False}, "match": ["task", "attack", "base"]},
        [
            lambda s, t: 0.7 if t == "strong_surgery" else 0.5,
            lambda s, t: 0.3 if t == "strong_surgery" else 0.5,
            lambda s, t: 0.5,
        ],
    ),
    "share": (SHARE, [lambda s, t: 0.8 - 0.2 * STEP[t], lambda s, t: 0.1 + 0.2 * STEP[t], lambda s, t: 0.5]),
    "trend": (
        {"test": "trend", "match": BY_CELL, "along": "target_accuracy"},
        [lambda s, t: 0.1 + 0.2 * STEP[t], lambda s, t: 0.8 - 0.2 * STEP[t], lambda s, t: 0.5],
    ),
    "extreme": (
        {"test": "extreme", "a": {"target": "weak"}, "rivals": "target", "match": BY_CELL},
        [
            lambda s, t: 0.7 if t == "weak" else 0.5,
            lambda s, t: 0.7 if t == "middle" else 0.5,
            lambda s, t: 0.6 if t in ("weak", "middle") else 0.4,
        ],
    ),
}


@pytest.mark.parametrize("name", TRUTHS)
@pytest.mark.parametrize(("truth", "expected"), [(0, "supported"), (1, "contradicted"), (2, "undecided")])
def test_the_verdict_is_the_known_truth(name: str, truth: int, expected: str) -> None:
    changes, chances = TRUTHS[name]
    margin = {"margin": 0.5 if name in ("level", "share") else 0}
    outcomes = simulated(chances[truth])
    found = judged(outcomes, claim(**{**changes, **margin, "where": MERGED}), bootstrap=400)
    assert found["verdict"] == expected
    margin_inside = found["low"] <= margin["margin"] <= found["high"]
    assert (margin_inside or found["p_adjusted"] >= 0.05) == (expected == "undecided")
    # the opposite claim gets the opposite verdict
    if name != "extreme":
        opposite = judged(outcomes, claim(**{**changes, **margin, "where": MERGED, "direction": "less"}), bootstrap=400)
        turned = {"supported": "contradicted", "contradicted": "supported", "undecided": "undecided"}
        assert opposite["verdict"] == turned[expected]
        assert (opposite["effect"], opposite["p"]) == (found["effect"], found["p"])


def test_a_true_margin_is_seldom_called_wrong() -> None:
    """Where no target differs from another, p < 0.05 and intervals off the margin are about one study in twenty."""
    asked = [
        claim(name="level", where=MERGED),
        claim(name="share", where=MERGED, **SHARE),
        claim(name="trend", where=MERGED, margin=0, **TRUTHS["trend"][0]),
        claim(name="extreme", where=MERGED, margin=0, **TRUTHS["extreme"][0]),
    ]
    small, off = dict.fromkeys(["level", "share", "trend", "extreme"], 0), 0
    for seed in range(40):
        outcomes = simulated(lambda *_: 0.5, images=40, seed=seed, surrogates=["finetuned"])
        for one, found in zip(asked, judged(outcomes, *asked), strict=True):
            small[one.name] += found["p"] < 0.05
            off += not found["low"] <= one.margin <= found["high"]
    assert all(count <= 6 for count in small.values()), small
    assert 0 < off <= 20


def test_intervals_by_hand() -> None:
    resamples = np.arange(1.0, 1000.0)  # 1 … 999, median 500
    low, high, p = claims.interval(np.array([500, *resamples]), 500, 0.9)
    assert (low, high, p) == pytest.approx((50.9, 949.1, 1.0), abs=1e-6)
    assert claims.interval(np.array([500, *resamples]), 50.5, 0.9)[2] == pytest.approx(0.1, abs=0.002)
    shifted = claims.interval(np.array([700, *resamples]), 500, 0.9)  # resamples lie too low: the interval moves up
    assert shifted[0] > 200 and shifted[1] > 990
    assert claims.interval(np.array([500, *resamples]), -1e9, 0.9)[2] == 2 / 1000
    assert np.isnan(claims.interval(np.array([1, np.nan]), 0, 0.9)).all()


def test_intervals_are_as_wide_as_chance() -> None:
    strays = np.linspace(-1, 1, 201)
    low, high, p = claims.widened((2.4, 2.6, 0.001), 2.5, 2.0, strays, 0.9)
    assert (low, high) == pytest.approx((1.6, 3.4))
    assert p == pytest.approx(2 * 52 / 202)  # 0.50 … 1.00 are 51 of the 201
    assert claims.widened((0.0, 5.0, 0.9), 2.5, 2.0, strays, 0.9) == (0.0, 5.0, 0.9)


def test_more_claims_make_each_harder_to_decide() -> None:
    outcomes = simulated(lambda *_: 0.56, images=100)
    asked = claim(where=MERGED)
    alone = judged(outcomes, asked)
    family = judged(outcomes, *[asked.model_copy(update={"name": f"c{k}"}) for k in range(8)])
    assert alone["p"] == family[0]["p"] and alone["p_adjusted"] == alone["p"]
    assert family[0]["p_adjusted"] == pytest.approx(min(1, 8 * alone["p"]))
    untested = claim(name="none", where={"architecture": "other"})
    assert judged(outcomes, asked, untested)[0]["p_adjusted"] == alone["p"], "what is not tested is not counted"


def test_undecided_says_why() -> None:
    outcomes = simulated(lambda *_: 0.5, images=30)
    wrong = outcomes.assign(target_clean=0)
    by = {"match": ["task", "attack", "target"]}
    other = {"test": "difference", "a": {"architecture": "same"}, "b": {"architecture": "other"}, **by}
    reasons = {
        "the interval contains the margin": (outcomes, {"where": MERGED}),
        "the study lacks the variation: one side of the comparison": (outcomes, other),
        "the study lacks the variation: fewer than 3 values of surrogate_accuracy": (
            outcomes,
            {"test": "trend", "along": "surrogate_accuracy", **by},
        ),
        "no cell matches": (outcomes, {"where": {"architecture": "other"}}),
        "no image is in the denominator": (wrong, {}),
        "the study lacks what is compared: unknown target 'ties'; choose one of: joint, middle": (
            outcomes,
            {"where": {"target": "ties"}, "if_absent": "undecided"},
        ),
    }
    for reason, (table, changes) in reasons.items():
        found = judged(table, claim(**changes))
        assert found["verdict"] == "undecided"
        assert found["reason"].startswith(reason)
    few = judged(simulated(lambda *_: 0.9), *[claim(name=f"c{k}", where=MERGED) for k in range(2)], bootstrap=50)
    assert few[0]["low"] > 0.5 and few[0]["verdict"] == "undecided", "50 resamples show no p below 0.039"
    assert few[0]["reason"] == "adjusted p is not below 0.05"


def test_rows_in_another_order_give_the_same_bytes() -> None:
    outcomes = simulated(lambda surrogate, target: 0.3 + 0.1 * STEP[target], images=20)
    asked = claims.load(ROOT / "claims.yaml")
    names = claims.Names(**{**vars(NAMES), "targets": [*NAMES.targets, "weight_averaging"]})
    again = outcomes.sample(frac=1, random_state=5).astype(dict.fromkeys(["target", "attack", "task"], "category"))
    again["target"] = again["target"].cat.reorder_categories(again["target"].cat.categories[::-1])
    one, other = (
        artifacts.canonical(claims.evaluate(asked, table, known, names, bootstrap=100))
        for table, known in ((outcomes, accuracy()), (again, accuracy().iloc[::-1]))
    )
    assert one == other


# ── the file ────────────────────────────────────────────────────────────────────────────────────────────────


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "claims.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path


def difference(**changes: Any) -> dict[str, Any]:
    """A claim of the test ``difference`` as in a file."""
    content = {**LEVEL, "test": "difference", "a": {"surgery": True}, "b": {"surgery": False}, "match": ["base"]}
    return {key: value for key, value in {**content, **changes}.items() if value is not KeyError}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (difference(whre={}), "unknown key 'whre'; choose one of: a, along, b, denominator, direction"),
        (difference(text=KeyError), "the key 'text' is missing"),
        (difference(direction="up"), "direction: input should be 'greater' or 'less', got 'up'"),
        (difference(margin="much"), "margin: input should be a valid number"),
        (difference(measure="asr"), "unknown measure 'asr'; choose one of: excess, relative, surrogate_asr"),
        (difference(denominator="some"), "unknown denominator 'some'; choose one of: all, both, fooled, target"),
        (difference(test="t"), "unknown test 't'; choose one of: difference, extreme, level, share, trend"),
        (difference(match=KeyError), "the test 'difference' needs the key 'match'"),
        (difference(holds="below"), "the test 'difference' does not take the key 'holds'"),
        (difference(match=["bse"]), "unknown column of match 'bse'; choose one of: architecture, attack, base"),
        (difference(a={"srgery": True}), "a: unknown column 'srgery'; choose one of: architecture, attack"),
        (difference(where={"task": {"above": 3}}), "where: unknown key of task 'above'; choose one of: not"),
        (difference(where={"eps": {"above": "x"}}), "where: eps.above: expected a number, got 'x'"),
        (difference(where={"eps": {}}), "where: eps: expected a value, a list, or above or below or not"),
        (difference(where=[1]), "expected a mapping of keys to values"),
        ("text", "expected a mapping of keys to values"),
        (
            difference(test="trend", a=KeyError, b=KeyError, along="task"),
            "unknown column of along 'task'; choose one of: eps, surrogate_accuracy, target_accuracy",
        ),
        (
            difference(test="share", b=KeyError, holds="below"),
            "the test 'share' takes both 'a' and 'b', or 'along', or none",
        ),
        (difference(test="share", holds="never"), "unknown relation of holds 'never'; choose one of: above, at_least"),
        (
            difference(test="extreme", b=KeyError, rivals="target"),
            "'a' names one value of 'target', the column of its rivals, and nothing else",
        ),
        (
            difference(test="extreme", a={"target": ["x", "y"]}, b=KeyError, rivals="target"),
            "'a' names one value of 'target', not several",
        ),
    ],
)
def test_bad_claims_are_refused_in_one_sentence(tmp_path: Path, content: Any, words: str) -> None:
    path = written(tmp_path, {"claims": {"fine": LEVEL, "mine": content}})
    with pytest.raises(StudyError) as error:
        claims.load(path)
    assert str(error.value).startswith(f"{path}: claim 'mine': ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_hold_no_claims(tmp_path: Path) -> None:
    for content, words in {
        "a: [": "not readable as YAML",
        "- a": "expected the keys 'claims'",
        "claims: {}\nmore: 1": "expected the keys 'claims'",
        "claims: {a: {}, a: {}}": "the key 'a' is given twice",
        "where: {tsk: a}\nclaims: {}": "where: unknown column 'tsk'; choose one of: architecture",
    }.items():
        with pytest.raises(StudyError, match=words):
            claims.load(written(tmp_path, content))
    with pytest.raises(StudyError, match="no such file"):
        claims.load(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"where": {"target": "ties"}}, "unknown target 'ties'; choose one of: joint, middle, strong, strong_surgery"),
        ({"where": {"task": ["t", "v"]}}, "unknown task 'v'; choose one of: t, u"),
        ({"a": {"attack": {"not": "pdg"}}}, "unknown attack 'pdg'; choose one of: cw, noise, pgd"),
        ({"b": {"eps": "5/255"}}, "unknown eps '0.01961'; choose one of: 0.01569, null"),
        ({"where": {"control": 1}}, "unknown control '1'; choose one of: false, true"),
        ({"where": {"surgery": "yes"}}, "unknown surgery 'yes'; choose one of: false, true"),
        ({"where": {"surrogate": None}}, "unknown surrogate 'null'; choose one of: finetuned, joint"),
    ],
)
def test_values_that_the_study_lacks_are_refused(filters: dict[str, Any], words: str) -> None:
    asked = claim(**{**difference(), **filters})
    with pytest.raises(StudyError) as error:
        claims.check([claim(name="fine"), asked], NAMES)
    assert str(error.value).startswith(f"claims.yaml: claim 'it': {words}")
    claims.check([asked.model_copy(update={"if_absent": "undecided"})], NAMES)


def test_no_claims_are_no_trouble() -> None:
    evaluated = claims.evaluate([], HAND, accuracy(), NAMES, bootstrap=10)
    assert (evaluated["claims"], evaluated["cells"]) == ([], {})
    assert len(claims.summary(evaluated)) == 0


def test_the_common_filters_hold_unless_a_claim_says_otherwise(tmp_path: Path) -> None:
    content = {
        "where": {"role": "transfer", "control": False},
        "claims": {"one": LEVEL, "two": {**LEVEL, "where": {"control": "any", "task": "t"}}},
    }
    one, two = claims.load(written(tmp_path, content))
    assert one.where == {"role": "transfer", "control": False}
    assert two.where == {"role": "transfer", "control": "any", "task": "t"}


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *(ROOT / "studies").glob("*.yaml")], ids=lambda p: p.name)
def test_the_claims_that_ship_suit_every_study_that_ships(path: Path) -> None:
    found = claims.load(ROOT / "claims.yaml")
    claims.check(found, claims.Names(**load(path).claims_slice()["names"]))
    assert len(found) >= 9


def test_the_script_writes_canonical_json_and_a_row_a_claim(tmp_path: Path) -> None:
    content = yaml.safe_load((ROOT / "claims.yaml").read_text())
    mine = copy.deepcopy(content["claims"]["pretrained_transfers_less"])
    content["claims"]["mine"] = {**mine, "where": {"attack": "pgd"}, "direction": "greater"}  # added without code
    artifacts.save_table(tmp_path / "outcomes.parquet", simulated(lambda s, t: 0.3 + 0.3 * (s == "finetuned")), {})
    artifacts.save_table(tmp_path / "accuracy.parquet", accuracy(), {})
    config = {"seed": 0, "statistics": {"confidence": 0.95, "bootstrap": 500}, "names": vars(NAMES)}
    command = [sys.executable, str(ROOT / "workflow/scripts/claims.py"), "--config", json.dumps(config)]
    for key, file in {
        "claims": written(tmp_path, content),
        "outcomes": tmp_path / "outcomes.parquet",
        "accuracy": tmp_path / "accuracy.parquet",
        "output-verdicts": tmp_path / "claims.json",
        "output-table": tmp_path / "claims.csv",
    }.items():
        command += [f"--{key}", str(file)]
    written_twice = []
    for _ in range(2):
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
        written_twice.append(((tmp_path / "claims.json").read_bytes(), (tmp_path / "claims.csv").read_bytes()))
    assert written_twice[0] == written_twice[1]
    text = (tmp_path / "claims.json").read_text()
    evaluated = json.loads(text)
    assert text == artifacts.canonical(evaluated) + "\n"
    verdicts = {entry["name"]: entry["verdict"] for entry in evaluated["claims"]}
    assert list(verdicts) == list(content["claims"])
    assert verdicts["pretrained_transfers_less"] == "supported"
    assert verdicts["mine"] == "contradicted"
    assert verdicts["averaging_most_vulnerable"] == "undecided"
    table = pd.read_csv(tmp_path / "claims.csv")
    assert dict(zip(table["name"], table["verdict"], strict=True)) == verdicts

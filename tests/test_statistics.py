"""Rates, ratios and intervals: worked by hand, held against formulas, and as properties."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advmerge import artifacts, statistics
from advmerge.errors import StudyError
from advmerge.seeding import numpy_generator

TASKS = ["digits", "letters", "fashion", "textures", "satellite", "signs", "numbers"]
MERGED = ["weight_averaging", "task_arithmetic", "ties", "adamerging"]
TARGETS = [*MERGED, *[f"{name}_surgery" for name in MERGED], "multitask"]
ATTACKS = ["fgsm", "pgd", "mifgsm", "autopgd", "noise", "cw", "deepfool"]
ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "workflow" / "scripts"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


def synthetic(images: int = 256, tasks=TASKS, targets=TARGETS, ratio: float = 0.8, seed: int = 0):
    """Outcomes and accuracies with known effects: (outcomes, accuracy).

    A surrogate is right on 95 % of clean images; a target on 70 to 92 %, surgery adding 6 points. An attack
    fools its surrogate with a chance by attack; it then fools the target with the chance ``ratio`` (±, by
    target), never otherwise. So relative transfer on ``both`` is ``ratio`` for the first target. Noise
    fools nobody.
    """
    rng = numpy_generator(seed, "synthetic")
    strength = {
        "fgsm": 0.55,
        "pgd": 0.8,
        "mifgsm": 0.85,
        "autopgd": 0.75,
        "cw": 0.95,
        "deepfool": 0.9,
        "noise": 0.0,
    }
    pairs = [(attack, eps) for eps in (4 / 255, 8 / 255) for attack in ATTACKS[:5]] + [
        ("cw", np.nan),
        ("deepfool", np.nan),
    ]
    settings_ = [(s, a, e) for s in ("pretrained", "finetuned") for a, e in pairs]
    blocks = []
    for t, task in enumerate(tasks):
        label = rng.integers(0, 10, images)
        right = {
            name: rng.random(images) < 0.70 + 0.05 * (k % 4) + 0.06 * ("surgery" in name) - 0.02 * t
            for k, name in enumerate(targets)
        }
        for surrogate, attack, eps in settings_:
            surrogate_right = rng.random(images) < 0.95
            power = strength[attack] * (1 if eps == 8 / 255 else 0.8)
            fooled = surrogate_right & (rng.random(images) < power)
            for k, target in enumerate(targets):
                chance = ratio - 0.06 * k - 0.15 * (surrogate == "finetuned") * (k > 0)
                missed = ~right[target] | (fooled & (rng.random(images) < chance))
                blocks.append(
                    (
                        task,
                        surrogate,
                        attack,
                        eps,
                        target,
                        label,
                        surrogate_right,
                        fooled,
                        right[target],
                        missed,
                    )
                )
        for target in targets:  # white-box: the surrogate is the target
            for eps in (4 / 255, 8 / 255):
                missed = ~right[target] | (rng.random(images) < 0.97)
                blocks.append((task, target, "pgd", eps, target, label, right[target], missed, right[target], missed))
    parts = []
    for task, surrogate, attack, eps, target, label, s_right, s_fooled, t_right, t_missed in blocks:
        wrong = ((label + 1) % 10).astype("int16")
        part = pd.DataFrame({"image": np.arange(images, dtype="int32")})
        part = part.assign(task=task, surrogate=surrogate, attack=attack, eps=eps, target=target, seed=0)
        part = part.assign(
            label=label.astype("int16"),
            surrogate_clean=np.where(s_right, label, wrong).astype("int16"),
            surrogate_adversarial=np.where(s_right & ~s_fooled, label, wrong).astype("int16"),
            target_clean=np.where(t_right, label, wrong).astype("int16"),
            target_adversarial=np.where(t_missed, wrong, label).astype("int16"),
            changed=True,
        )
        parts.append(part)
    outcomes = pd.concat(parts, ignore_index=True)
    keys = ["task", "surrogate", "attack", "target"]
    outcomes = outcomes.astype(dict.fromkeys(keys, "category"))
    outcomes["target_margin"] = np.where(outcomes["target_adversarial"] == outcomes["label"], 1.0, -1.0).astype(
        "float32"
    ) * (1 + outcomes["image"].to_numpy() % 17)
    rows = []
    for t, task in enumerate(tasks):
        rows += [("pretrained", task, 600 - 20 * t, 1000), ("finetuned", task, 950 - 10 * t, 1000)]
        rows += [
            (name, task, int(1000 * (0.70 + 0.05 * (k % 4) + 0.06 * ("surgery" in name) - 0.02 * t)), 1000)
            for k, name in enumerate(targets)
        ]
    accuracy = pd.DataFrame(rows, columns=["model", "task", "correct", "n"])
    return outcomes, accuracy.assign(seed=0, split="test", accuracy=accuracy["correct"] / accuracy["n"])


@pytest.fixture(scope="module")
def simulated():
    return synthetic(images=120, tasks=TASKS[:3], targets=["weight_averaging", "ties", "ties_surgery"])


def table(rows, **constant):
    """Outcomes from (image, label, s clean, s adversarial, t clean, t adversarial, changed)."""
    columns = [
        "image",
        "label",
        "surrogate_clean",
        "surrogate_adversarial",
        "target_clean",
        "target_adversarial",
        "changed",
    ]
    keys = {
        "task": "a",
        "surrogate": "pretrained",
        "attack": "pgd",
        "eps": 0.03,
        "target": "ties",
        "seed": 0,
    } | constant
    return pd.DataFrame(rows, columns=columns).assign(**keys)


HAND = table(
    [
        (0, 0, 0, 1, 0, 1, True),  # both right, both fooled
        (1, 0, 0, 1, 0, 0, True),  # both right, only the surrogate fooled
        (2, 0, 0, 0, 0, 2, True),  # both right, only the target fooled
        (3, 0, 0, 0, 0, 0, False),  # both right, unchanged
        (4, 0, 0, 1, 1, 1, True),  # the target errs when clean
        (5, 0, 2, 2, 0, 0, False),  # the surrogate errs when clean
        (6, 0, 0, 1, 1, 0, True),  # the attack repairs the target
        (7, 0, 1, 1, 1, 1, True),  # both err
    ]
)
# (n, transfer ASR, unchanged, surrogate ASR on the same images, relative), counted off the rows above
BY_HAND = {
    "all": (8, 4 / 8, 2 / 8, 6 / 8, 4 / 6),
    "target": (5, 2 / 5, 2 / 5, 3 / 5, 2 / 3),
    "both": (4, 2 / 4, 1 / 4, 2 / 4, 2 / 2),
    "fooled": (2, 1 / 2, 0 / 2, 2 / 2, 1 / 2),
}


def test_hand_worked_cases_cover_every_denominator():
    assert set(BY_HAND) == set(statistics.DENOMINATORS)


@pytest.mark.parametrize("denominator", BY_HAND)
def test_rates_by_hand(denominator):
    n, transfer, unchanged, _, _ = BY_HAND[denominator]
    (row,) = statistics.rates(HAND, ["target"], denominator).itertuples()
    assert (row.target, row.denominator, row.rows, row.n) == ("ties", denominator, 8, n)
    assert row.asr == pytest.approx(4 / 6)  # always over the surrogate's own C_s
    assert (row.asr_n, row.asr_low, row.asr_high) == pytest.approx((6, *np.ravel(statistics.wilson(4, 6))))
    assert row.transfer_asr == pytest.approx(transfer)
    assert row.unchanged == pytest.approx(unchanged)
    assert row.target_accuracy == pytest.approx(5 / 8)


@pytest.mark.parametrize("denominator", BY_HAND)
def test_relative_by_hand(denominator):
    n, transfer, _, same, ratio = BY_HAND[denominator]
    (row,) = statistics.relative(HAND, ["target"], denominator, bootstrap=200).itertuples()
    assert (row.n, row.images) == (n, n)
    assert row.transfer_asr == pytest.approx(transfer)
    assert row.asr_same == pytest.approx(same)
    assert row.relative == pytest.approx(ratio)
    assert row.low <= ratio <= row.high
    assert row.transfer_low <= transfer <= row.transfer_high


def test_relative_pools_before_dividing():
    strong = table([(i, 0, 0, 1, 0, int(i < 9), True) for i in range(10)], task="a")  # 9 of 10
    weak = table([(i, 0, 0, int(i == 0), 0, 0, True) for i in range(10)], task="b")  # 0 of 1
    both = pd.concat([strong, weak], ignore_index=True)
    assert statistics.relative(both, ["target"], bootstrap=50)["relative"].item() == pytest.approx(9 / 11)
    assert statistics.relative(both, ["task"], bootstrap=50)["relative"].to_list() == pytest.approx([0.9, 0.0])


def test_no_images_and_no_fooled_surrogate_are_nan():
    never = table([(i, 0, 0, 0, 0, 0, True) for i in range(4)])
    row = statistics.relative(never, ["target"], bootstrap=20).iloc[0]
    assert row["transfer_asr"] == 0
    assert row[["relative", "low", "high"]].isna().all()
    wrong = table([(i, 0, 1, 1, 1, 1, True) for i in range(4)])
    row = statistics.rates(wrong, ["target"]).iloc[0]
    assert row["n"] == 0
    assert row[["asr", "transfer_asr", "low", "high", "unchanged"]].isna().all()
    assert row["target_accuracy"] == 0


@pytest.mark.parametrize("compute", [statistics.rates, statistics.relative])
def test_no_rows_give_no_groups(compute):
    """A study without noise has an empty table of it; the columns stay."""
    empty = compute(HAND.iloc[:0], statistics.METHOD)
    assert len(empty) == 0
    assert list(empty.columns) == list(compute(HAND, statistics.METHOD).columns)


def test_rows_without_a_budget_are_a_group_of_their_own():
    free = HAND.assign(eps=np.nan, attack="cw")
    both = pd.concat([free, HAND], ignore_index=True)
    for computed in (statistics.rates(both, ["eps"]), statistics.relative(both, ["eps"], bootstrap=20)):
        assert computed["eps"].tolist()[0] == 0.03
        assert math.isnan(computed["eps"].tolist()[1])
        assert computed["n"].tolist() == [4, 4]


def test_unknown_denominator_and_missing_column_are_refused():
    with pytest.raises(StudyError, match="unknown denominator 'clean'; choose one of: all, both, fooled, target"):
        statistics.rates(HAND, ["target"], "clean")
    with pytest.raises(StudyError, match="lacks the columns: method"):
        statistics.relative(HAND, ["method"])
    with pytest.raises(StudyError, match="lacks the columns: correct"):
        statistics.accuracy_by_task(pd.DataFrame({"model": [], "task": [], "split": [], "n": []}))


def test_wilson_by_its_formula():
    k, n, z = 7, 20, 1.959963984540054
    centre = (k / n + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(k / n * (1 - k / n) / n + z**2 / (4 * n**2))
    low, high = statistics.wilson([k, 0, 5, 0], [n, 0, 5, 5])
    assert (low[0], high[0]) == (pytest.approx(centre - half), pytest.approx(centre + half))
    assert np.isnan([low[1], high[1]]).all()
    assert high[2] == 1
    assert low[2] == pytest.approx(5 / (5 + z**2))
    assert low[3] == 0
    assert high[3] == pytest.approx(z**2 / (5 + z**2))


@given(st.integers(0, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilson_encloses_its_rate(counts, confidence):
    k, n = counts
    low, high = statistics.wilson(k, n, confidence)
    if n == 0:
        assert np.isnan([low, high]).all()
    else:
        assert 0 <= low <= k / n <= high <= 1
        assert low < high


@st.composite
def small_outcomes(draw):
    answer = st.integers(0, 2)
    row = st.tuples(st.integers(0, 5), answer, answer, answer, answer, answer, st.booleans())
    key = st.sampled_from([("a", "ties", 0.03), ("a", "tsv", np.nan), ("b", "ties", 0.03), ("b", "tsv", 0.01)])
    rows = draw(st.lists(st.tuples(row, key), min_size=1, max_size=40))
    keys = pd.DataFrame([key for _, key in rows], columns=["task", "target", "eps"])
    return table([values for values, _ in rows], **{column: keys[column] for column in keys})


@settings(max_examples=60, deadline=None)
@given(small_outcomes(), st.sampled_from(list(statistics.DENOMINATORS)), st.randoms(use_true_random=False))
def test_properties_of_rates_and_ratios(outcomes, denominator, random):
    by = ["target", "eps"]
    rates = statistics.rates(outcomes, by, denominator)
    ratio = statistics.relative(outcomes, by, denominator, bootstrap=30)
    assert rates["rows"].sum() == len(outcomes)
    assert rates["n"].sum() == statistics.mask(outcomes, denominator).sum() == ratio["n"].sum()
    seen = rates[rates["n"] > 0]
    assert ((seen["low"] >= 0) & (seen["low"] <= seen["transfer_asr"])).all()
    assert ((seen["transfer_asr"] <= seen["high"]) & (seen["high"] <= 1)).all()
    assert (ratio["low"].isna() | (ratio["low"] <= ratio["high"])).all()
    # the ratio of the sums, however the rows are cut
    fooled = statistics.mask(outcomes, denominator)
    t = (fooled & (outcomes["target_adversarial"] != outcomes["label"])).sum()
    s = (fooled & (outcomes["surrogate_adversarial"] != outcomes["label"])).sum()
    whole = statistics.relative(outcomes, ["attack"], denominator, bootstrap=5)["relative"].item()
    assert math.isnan(whole) if s == 0 else whole == pytest.approx(t / s)
    # the order of rows and of categories means nothing
    order = list(range(len(outcomes)))
    random.shuffle(order)
    shuffled = outcomes.iloc[order].astype({"target": pd.CategoricalDtype(["tsv", "ties"])})
    pd.testing.assert_frame_equal(statistics.rates(shuffled, by, denominator), rates)
    pd.testing.assert_frame_equal(statistics.relative(shuffled, by, denominator, bootstrap=30), ratio)


def test_bootstrap_interval_covers_a_known_ratio():
    """Over 60 simulated studies the 90 % interval holds the true ratio about nine times in ten."""
    covered = 0
    for study in range(60):
        rng = np.random.default_rng(study)
        fooled = rng.random(200) < 0.8
        missed = fooled & (rng.random(200) < 0.7)
        rows = [(i, 0, 0, int(s), 0, int(t), True) for i, (s, t) in enumerate(zip(fooled, missed, strict=True))]
        row = statistics.relative(table(rows), ["target"], confidence=0.9, bootstrap=300, seed=study).iloc[0]
        covered += row["low"] <= 0.7 <= row["high"]
    assert 46 <= covered <= 60  # 54 ± 3.5 standard errors, if the interval is right


def test_bootstrap_keeps_the_rows_of_an_image_together():
    """Four identical attacks tell no more than one: the interval must not shrink."""
    rng = np.random.default_rng(0)
    rows = [(i, 0, 0, 1, 0, int(rng.random() < 0.6), True) for i in range(100)]
    one = table(rows)
    four = pd.concat([table(rows, attack=f"pgd{k}") for k in range(4)], ignore_index=True)
    columns = ["relative", "low", "high", "transfer_low", "transfer_high"]
    pd.testing.assert_frame_equal(
        statistics.relative(one, ["target"])[columns], statistics.relative(four, ["target"])[columns]
    )
    assert statistics.relative(four, ["target"])["images"].item() == 100


def test_bootstrap_is_paired_and_stable():
    """Equal outcomes get equal intervals; a further task or target moves nobody's interval."""
    rng = np.random.default_rng(1)
    rows = [(i, 0, 0, int(rng.random() < 0.8), 0, int(rng.random() < 0.5), True) for i in range(80)]
    two = pd.concat([table(rows), table(rows, target="tsv")], ignore_index=True)
    result = statistics.relative(two, ["task", "target"])
    assert result.loc[0, ["low", "high"]].tolist() == result.loc[1, ["low", "high"]].tolist()
    more = pd.concat([two, table(rows[:30], task="b")], ignore_index=True)
    again = statistics.relative(more, ["task", "target"])
    pd.testing.assert_frame_equal(again[again["task"] == "a"], result)
    other = statistics.relative(two, ["task", "target"], seed=1)
    assert other["low"].tolist() != result["low"].tolist()


def test_every_transfer_rate_stands_beside_its_controls(simulated):
    outcomes = simulated[0]
    made = statistics.controls_by_target(outcomes)
    assert len(made) == len(made.drop_duplicates(statistics.TARGET))
    assert set(made["surrogate"]) == {"pretrained", "finetuned"} and "noise" not in set(made["attack"])
    right = outcomes[statistics.both_right(outcomes)].assign(eps=lambda rows: rows["eps"].fillna(-1))
    fooled = right["target_adversarial"] != right["label"]
    rate = fooled.groupby([right[name] for name in statistics.TARGET], observed=True).mean()
    for row in made.assign(eps=made["eps"].fillna(-1)).itertuples():
        assert row.transfer == pytest.approx(rate[row.surrogate, row.attack, row.eps, row.target])
        if row.eps > 0:
            assert row.noise == pytest.approx(rate[row.surrogate, "noise", row.eps, row.target])
        else:
            assert np.isnan(row.noise) and np.isnan(row.white_box)
        if row.attack == "pgd":
            assert row.white_box == pytest.approx(rate[row.target, "pgd", row.eps, row.target])
            assert row.white_box > row.transfer > row.noise
        else:
            assert np.isnan(row.white_box)
        clean = outcomes.query(
            f"target == '{row.target}' and attack == 'pgd' and surrogate == 'pretrained' and eps > 0.02"
        )
        assert row.clean_error == pytest.approx((clean["target_clean"] != clean["label"]).mean())
        assert row.clean_error_n == len(clean)
        for name in ("transfer", "noise", "white_box", "clean_error"):
            low, value, high = (getattr(row, name + end) for end in ("_low", "", "_high"))
            assert np.isnan(value) or low <= value <= high
    pd.testing.assert_frame_equal(
        statistics.controls_by_target(outcomes[outcomes["attack"] != "noise"])[["transfer"]], made[["transfer"]]
    )


def test_a_resample_is_the_outcomes_with_images_repeated(simulated):
    outcomes = simulated[0][simulated[0]["image"] < 25].reset_index(drop=True)
    for denominator in ("both", "fooled"):
        counted = statistics.tally(outcomes, statistics.METHOD, denominator, bootstrap=3, seed=7)
        drawn = {task: statistics._resample_weights(25, 3, 7, task) for task in TASKS[:3]}
        weight = [drawn[task][2, image] for task, image in zip(outcomes["task"], outcomes["image"], strict=True)]
        for k, rows in ((0, outcomes), (3, outcomes.loc[np.repeat(outcomes.index, np.array(weight, dtype=int))])):
            chosen = rows[statistics.mask(rows, denominator)]
            fooled = [chosen[f"{model}_adversarial"] != chosen["label"] for model in ("surrogate", "target")]
            groups = chosen.assign(n=1, s=fooled[0], t=fooled[1]).groupby(
                statistics.METHOD, observed=True, dropna=False
            )
            expected = counted.keys.merge(groups[["n", "s", "t"]].sum().reset_index(), how="left").fillna({"n": 0})
            assert (expected[["n", "s", "t"]].fillna(0) == counted.counts[k].T).all(axis=None)
        chosen = statistics.mask(outcomes, denominator)
        assert ((counted.group >= 0) == chosen).all()
        images = outcomes[chosen].assign(group=counted.group[chosen]).drop_duplicates(["group", "task", "image"])
        assert (images.groupby("group").size().reindex(range(len(counted.images))).fillna(0) == counted.images).all()
        assert len(set(counted.unit)) == len(outcomes[["task", "image"]].drop_duplicates()) == 75


def test_known_effects_are_found(simulated):
    attacks = statistics.without_controls(simulated[0], statistics.CONTROLS)
    ratio = statistics.relative(attacks, ["surrogate", "target"]).set_index(["surrogate", "target"])
    for surrogate in ("pretrained", "finetuned"):
        found = ratio.loc[(surrogate, "weight_averaging")]
        assert found["low"] - 0.01 < 0.8 < found["high"] + 0.01
    assert ratio.loc[("ties", "ties"), "relative"] == 1  # white box: target and surrogate are the same model
    noise = simulated[0][simulated[0]["attack"] == "noise"]
    assert (statistics.rates(noise, ["target"])["transfer_asr"] == 0).all()


def test_the_spread_over_seeds_by_hand():
    rows = [(0, 0, 0, 1, 0, 1, True), (1, 0, 0, 1, 0, 0, True), (2, 0, 0, 0, 0, 0, True), (3, 0, 0, 1, 1, 1, True)]
    outcomes = pd.concat([table(rows, seed=0), table(rows[:2], seed=3), table(rows[:1], seed=7)])
    keys = ["model", "seed", "task", "split", "correct", "n"]
    clean = [
        ("ties", 0, "a", 5),
        ("ties", 0, "b", 7),
        ("ties", 3, "a", 8),
        ("ties", 3, "b", 8),
        ("pretrained", 0, "a", 2),
    ]
    accuracy = pd.DataFrame([(m, s, t, "test", k, 10) for m, s, t, k in clean], columns=keys)
    by_seed = statistics.seeds(outcomes, accuracy)
    found = by_seed[by_seed["denominator"].isin(["both", ""])].set_index(["quantity", "model", "seed"])["value"]
    assert found.to_dict() == pytest.approx(
        {
            ("accuracy", "ties", 0): 0.6,
            ("accuracy", "ties", 3): 0.8,
            ("accuracy", "pretrained", 0): 0.2,
            **{("transfer_asr", "ties", seed): value for seed, value in ((0, 1 / 3), (3, 1 / 2), (7, 1))},
            **{("relative", "ties", seed): value for seed, value in ((0, 1 / 2), (3, 1 / 2), (7, 1))},
        }
    )
    spread = statistics.spread(by_seed, confidence=0.9).set_index(["quantity", "model", "denominator"])
    row = spread.loc[("relative", "ties", "both")]
    assert (row["seeds"], row["mean"], row["least"], row["most"]) == (3, pytest.approx(2 / 3), 0.5, 1)
    assert row["sd"] == pytest.approx(math.sqrt(1 / 12))
    # Student's t with two degrees of freedom: 2.92 at 5 % a side
    assert row["high"] - row["mean"] == pytest.approx(2.919986 * math.sqrt(1 / 12 / 3), rel=1e-5)
    assert row["mean"] - row["low"] == pytest.approx(row["high"] - row["mean"])
    alone = spread.loc[("accuracy", "pretrained", "")]
    assert alone["seeds"] == 1 and alone[["sd", "low", "high"]].isna().all()


def test_seeds_are_pooled_where_accuracies_are():
    rows = [("ties", 0, "a", "test", 5, 10), ("ties", 1, "a", "test", 8, 10), ("finetuned", 0, "a", "test", 9, 10)]
    accuracy = pd.DataFrame(rows, columns=["model", "seed", "task", "split", "correct", "n"])
    pooled = statistics.accuracy_by_task(accuracy).set_index("model").loc["ties"]
    assert (pooled["correct"], pooled["n"], pooled["accuracy"]) == (13, 20, 0.65)
    assert statistics.accuracy_by_model(accuracy).set_index("model").loc["ties", "accuracy"] == pytest.approx(0.65)


def test_accuracy_by_task_and_model():
    accuracy = pd.DataFrame(
        [
            ("finetuned", "a", 9, 10),
            ("finetuned", "b", 20, 20),
            ("ties", "a", 6, 10),
            ("ties", "b", 10, 20),
            ("ties", "c", 0, 5),
        ],
        columns=["model", "task", "correct", "n"],
    ).assign(split="test")
    tasks = statistics.accuracy_by_task(accuracy).set_index(["model", "task"])
    assert tasks.loc[("ties", "a"), "accuracy"] == pytest.approx(0.6)
    assert tasks.loc[("ties", "a"), "normalised"] == pytest.approx(6 / 9)
    assert tasks.loc[("finetuned", "b"), "normalised"] == 1
    assert math.isnan(tasks.loc[("ties", "c"), "normalised"])
    low, high = statistics.wilson([6], [10])
    assert tasks.loc[("ties", "a"), ["low", "high"]].tolist() == pytest.approx([low[0], high[0]])

    models = statistics.accuracy_by_model(accuracy).set_index("model")
    assert models.loc["ties", "tasks"] == 3
    assert models.loc["ties", "accuracy"] == pytest.approx((0.6 + 0.5 + 0) / 3)
    assert models.loc["ties", "normalised"] == pytest.approx((6 / 9 + 0.5) / 2)
    low, high = statistics.wilson([6, 10, 0], [10, 20, 5])
    rate = np.array([0.6, 0.5, 0])
    assert models.loc["ties", "low"] == pytest.approx(rate.mean() - np.sqrt(((rate - low) ** 2).sum()) / 3)
    assert models.loc["ties", "high"] == pytest.approx(rate.mean() + np.sqrt(((high - rate) ** 2).sum()) / 3)


def test_representative_is_the_median_of_the_fooled():
    def rows(image, s_clean, s_adversarial, t_clean, margins):
        one = table([(image, 0, s_clean, s_adversarial, t_clean, 0, True)])
        return pd.concat([one.assign(target=f"t{k}", target_margin=m) for k, m in enumerate(margins)])

    fooled = [rows(i, 0, 1, 0, (m, m + 1)) for i, m in [(7, 3.0), (2, -5.0), (4, 1.0), (9, 2.0)]]
    others = [rows(1, 0, 0, 0, (1.5, 2.5)), rows(3, 0, 1, 1, (1.5, 2.5)), rows(5, 1, 1, 0, (1.5, 2.5))]
    assert statistics.representative(pd.concat(fooled + others)) == 4  # of -5, 1, 2, 3 the lower median
    assert statistics.representative(pd.concat(others)) == 3  # fooled, though no target is right on it
    assert statistics.representative(others[0]) == 1  # nothing fooled: right when clean
    assert statistics.representative(others[2]) == 5  # nothing right either
    with pytest.raises(StudyError, match="no outcomes"):
        statistics.representative(others[0].iloc[:0])


def test_tables_are_those_announced(simulated):
    computed = statistics.tables(*simulated, bootstrap=20)
    assert list(computed) == list(statistics.TABLES)
    for name in list(statistics.TABLES)[:5]:
        assert set(computed[name]["denominator"]) == set(statistics.DENOMINATORS), name
    cells = computed["rates_by_cell.csv"]
    assert cells.groupby("denominator").size().eq(3 * 3 * (2 * 12 + 2)).all()
    assert "noise" in set(computed["relative_by_target.csv"]["attack"])
    # without noise, a pooled row counts the four attacks of the budget: 3 tasks × 120 images × 4
    method = computed["relative_by_method.csv"].set_index(["surrogate", "eps", "target", "denominator"])
    assert method.loc[("pretrained", 8 / 255, "ties", "all"), "n"] == 3 * 120 * 4


def test_script_writes_the_tables(simulated, tmp_path):
    artifacts.save_table(tmp_path / "outcomes.parquet", simulated[0], {})
    artifacts.save_table(tmp_path / "accuracy.parquet", simulated[1], {})
    options = {
        "config": '{"statistics": {"confidence": 0.95, "bootstrap": 20}, "seed": 0, "order": {}}',
        "outcomes": tmp_path / "outcomes.parquet",
        "accuracy": tmp_path / "accuracy.parquet",
        "output-dir": tmp_path / "tables",
    }
    command = [sys.executable, SCRIPTS / "tables.py"]
    for name, value in options.items():
        command += [f"--{name}", value]
    subprocess.run(command, check=True, env=ENVIRONMENT)
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == sorted(statistics.TABLES)
    written = pd.read_csv(tmp_path / "tables" / "rates_by_cell.csv")
    expected = statistics.tables(*simulated, bootstrap=20)["rates_by_cell.csv"]
    pd.testing.assert_frame_equal(written, expected, check_dtype=False, rtol=1e-5)

    (tmp_path / "accuracy.parquet").write_bytes(b"not parquet")
    failed = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")
    assert "Traceback" not in failed.stderr


def test_names_are_read_without_heavy_imports():
    code = (
        "import sys; from advmerge.statistics import TABLES; from advmerge.figures import FIGURES; "
        "print(sorted({'pandas', 'numpy', 'matplotlib', 'seaborn', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert done.stdout.strip() == "[]"

"""Tests between targets: worked by hand, held against statsmodels, and on simulated data with known effects."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wilcoxon
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from advmerge import comparison
from advmerge.comparison import paired, ranked, regression
from advmerge.errors import StudyError
from advmerge.seeding import numpy_generator

EPS = 4 / 255


def block(
    fooled,
    *,
    task="t",
    surrogate="finetuned",
    attack="pgd",
    eps=EPS,
    target="m",
    seed=0,
    right=True,
    source_right=True,
):
    """Outcomes of one cell, an image an entry of ``fooled``; the surrogate is always fooled."""
    fooled = np.asarray(fooled, dtype=bool)
    right, source_right = (np.broadcast_to(value, fooled.shape) for value in (right, source_right))
    return pd.DataFrame(
        {
            "task": task,
            "image": np.arange(len(fooled)),
            "surrogate": surrogate,
            "attack": attack,
            "eps": eps,
            "target": target,
            "seed": seed,
            "label": 1,
            "surrogate_clean": np.where(source_right, 1, 0),
            "surrogate_adversarial": 0,
            "target_clean": np.where(right, 1, 0),
            "target_adversarial": np.where(fooled, 0, 1),
            "changed": True,
        }
    )


def clean(accuracies: dict[tuple[str, str], float], n: int = 1000) -> pd.DataFrame:
    """An accuracy table from (model, task) -> accuracy."""
    rows = [(model, task, "test", round(share * n), n) for (model, task), share in accuracies.items()]
    return pd.DataFrame(rows, columns=["model", "task", "split", "correct", "n"])


def simulated(seed: int = 0, images: int = 60, tasks: int = 4):
    """Outcomes from a logistic model with known effects and an image and a task level: (outcomes, accuracy)."""
    rng = numpy_generator(seed, "simulated comparison")
    targets = {"m0": 0.0, "m1": 0.8, "m2": -0.5}
    attacks = {"fgsm": 0.0, "pgd": 1.0}
    blocks, accuracies = [], {}
    for t in range(tasks):
        task, level = f"t{t}", rng.normal(0, 0.5)
        image = rng.normal(0, 1.0, images)
        for target in targets:
            accuracies[target, task] = 0.7 + 0.05 * rng.integers(0, 6)
        for (target, effect), (attack, strength), surrogate, eps in product(
            targets.items(), attacks.items(), ("finetuned", "pretrained"), (EPS, 2 * EPS)
        ):
            score = -1 + effect + strength - 0.6 * (surrogate == "pretrained") + 0.5 * (eps > EPS)
            score += 0.4 * (10 * accuracies[target, task] - 8) + level + image
            fooled = rng.random(images) < 1 / (1 + np.exp(-score))
            blocks.append(block(fooled, task=task, surrogate=surrogate, attack=attack, eps=eps, target=target))
    return pd.concat(blocks, ignore_index=True), clean(accuracies)


def test_mcnemar_is_that_of_statsmodels() -> None:
    for only_a, only_b in [(0, 0), (3, 0), (5, 5), (2, 9), (40, 17)]:
        expected = statsmodels_mcnemar([[7, only_a], [only_b, 7]], exact=True).pvalue if only_a + only_b else 1
        assert paired.mcnemar(only_a, only_b) == pytest.approx(expected)


@settings(max_examples=20)  # each of theirs collects garbage
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_is_that_of_statsmodels(p) -> None:
    assert paired.holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_by_hand() -> None:
    adjusted = paired.holm([0.01, np.nan, 0.04, 0.03])
    np.testing.assert_allclose(adjusted, [0.03, np.nan, 0.06, 0.06])
    assert np.isnan(paired.holm([np.nan])).all()


def test_difference_by_hand_and_mirrored() -> None:
    low, high = paired.paired_difference(4, 1, 10, 0.95)
    half = 1.959964 * np.sqrt(4.5 + 1.5 - 9 / 12) / 12
    assert (low, high) == pytest.approx((0.25 - half, 0.25 + half), abs=1e-6)
    mirrored = paired.paired_difference(1, 4, 10, 0.95)
    assert (-mirrored[1], -mirrored[0]) == pytest.approx((low, high))
    assert paired.paired_difference(0, 0, 5, 0.95)[1] > 0, "five alike images prove no equality"


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (0, 4), (4, 0), (3, 8)])
def test_odds_are_those_of_the_share_of_discordant_images(only_a: int, only_b: int) -> None:
    low, high = paired.paired_odds(only_a, only_b, 0.9)
    share = proportion_confint(only_a, only_a + only_b, 0.1, "beta") if only_a + only_b else (0, 1)
    assert low == pytest.approx(share[0] / (1 - share[0]))
    assert high == (pytest.approx(share[1] / (1 - share[1])) if share[1] < 1 else np.inf)


def test_pairs_by_hand() -> None:
    outcomes = pd.concat(
        [
            block([1, 1, 1, 0, 1, 0], target="a", right=[1, 1, 1, 1, 1, 0]),
            block([1, 0, 0, 1, 1, 0], target="b", source_right=[1, 1, 1, 1, 0, 1]),
            block([1, 1, 1, 1, 1, 1], target="a", attack="noise"),
            block([0, 0, 0, 0, 0, 0], target="b", attack="noise"),
            block([1, 1, 1, 1, 1, 1], target="a", surrogate="a"),  # white box: no pair
        ]
    )
    # images 4 (surrogate wrong in b's rows) and 5 (a wrong) leave 4: both fooled, only a, only a, only b
    table = comparison.pairs(outcomes, bootstrap=50).set_index("attack")
    assert list(table.index) == ["noise", "pgd", comparison.ALL]
    for attack in ("pgd", comparison.ALL):
        row = table.loc[attack]
        assert (row["surrogate"], row["a"], row["b"], row["n"], row["images"]) == ("finetuned", "a", "b", 4, 4)
        assert (row["only_a"], row["only_b"], row["asr_a"], row["asr_b"]) == (2, 1, 0.75, 0.5)
        assert (row["difference"], row["tasks"], row["tasks_a_higher"], row["p_tasks"]) == (0.25, 1, 1, 1)
        assert row["low"] <= 0.25 <= row["high"]
    assert table.loc["pgd", "odds_ratio"] == 2
    assert table.loc[comparison.ALL, "odds_ratio"] == 2.5 / 1.5
    assert table.loc["pgd", "p"] == 1
    assert bool(table.loc["noise", "control"]) and table.loc["noise", "n"] == 6
    assert table.loc["noise", "p"] == pytest.approx(2 / 2**6)


def test_pairs_find_the_known_differences_and_no_other() -> None:
    rng = numpy_generator(1, "pairs")
    chance = {"high": 0.6, "same1": 0.35, "same2": 0.35}
    blocks = [
        block(rng.random(150) < chance[target], task=task, target=target, attack=attack, eps=eps)
        for task, target, (attack, eps) in product(["t", "u"], chance, [("pgd", EPS), ("cw", np.nan)])
    ]
    table = comparison.pairs(pd.concat(blocks), bootstrap=200)
    assert set(table["attack"]) == {"pgd", "cw", comparison.ALL}
    assert (table.loc[table["attack"] == "pgd", "n"] == 300).all()
    assert (table.loc[table["attack"] == comparison.ALL, "n"] == 600).all()
    different = table["a"] == "high"
    assert (table.loc[different, "p_holm"] < 0.001).all() and (table.loc[~different, "p_holm"] > 0.05).all()
    assert table.loc[different, "low"].between(0.1, 0.25).all()
    assert (table.loc[different, "odds_low"] > 1).all()
    assert (table.loc[~different, "low"] < 0).all() and (table.loc[~different, "high"] > 0).all()
    assert (table["p_holm"] >= table["p"]).all()


def test_the_seeds_of_an_image_are_one_observation() -> None:
    """The same answers in three seeds say no more than one, and are compared within a seed."""
    rng = numpy_generator(2, "pairs")
    fooled = {"a": rng.random(80) < 0.5, "b": rng.random(80) < 0.4}

    def table(seeds, b):
        blocks = [block(fooled["a"], target="a", seed=seed) for seed in seeds]
        blocks += [
            block(np.roll(fooled["b"], shift), target="b", seed=seed) for seed, shift in zip(seeds, b, strict=True)
        ]
        return comparison.pairs(pd.concat(blocks), bootstrap=200).set_index("attack").loc[["pgd", comparison.ALL]]

    one, three = table([0], [0]), table([0, 1, 2], [0, 0, 0])
    assert (three["n"] == 240).all() and (three["images"] == 80).all()
    assert three["difference"].tolist() == pytest.approx(one["difference"].tolist())
    pooled = one.loc[comparison.ALL]
    for attack in three.index:
        row = three.loc[attack]
        assert (row["test"], row["p"]) == (pooled["test"], pytest.approx(pooled["p"]))
        assert (row["low"], row["high"]) == (pytest.approx(pooled["low"]), pytest.approx(pooled["high"]))
    assert one.loc["pgd", "test"] == "McNemar, exact"
    # by hand: an image's excess is the mean of its seeds'
    excess = np.mean([fooled["a"] * 1.0 - np.roll(fooled["b"], shift) for shift in (0, 1)], axis=0)
    assert table([0, 1], [0, 1]).loc["pgd", "p"] == pytest.approx(wilcoxon(excess).pvalue)


def test_rows_in_another_order_give_the_same_tables() -> None:
    outcomes, accuracy = simulated(images=12, tasks=2)
    shuffled = outcomes.sample(frac=1, random_state=3).astype({"target": "category", "task": "category"})
    tables = comparison.tables(outcomes, accuracy, bootstrap=50)
    again = comparison.tables(shuffled, accuracy.iloc[::-1], bootstrap=50)
    assert set(tables) == set(comparison.TABLES)
    for name, table in tables.items():
        assert len(table)
        pd.testing.assert_frame_equal(table, again[name], check_exact=False, rtol=1e-6)


def test_critical_distances_of_the_literature() -> None:
    assert ranked.critical_distance(8, 7) == pytest.approx(3.97, abs=0.005)
    assert ranked.critical_distance(4, 14) == pytest.approx(1.25, abs=0.005)  # Demšar 2006, his example


def test_power_is_small_without_and_one_with_a_large_difference() -> None:
    assert ranked.nemenyi_power(4, 14, 0) < 0.05
    powers = [ranked.nemenyi_power(4, 14, shift) for shift in (0.5, 1, 2, 4)]
    assert powers == sorted(powers) and powers[-1] > 0.95
    assert ranked.nemenyi_power(8, 7, 1) < 0.1, "almost powerless, as it says"
    smallest = ranked.detectable(4, 30)
    assert ranked.nemenyi_power(4, 30, smallest) > 0.75 > ranked.nemenyi_power(4, 30, smallest / 2)
    assert np.isnan(ranked.detectable(8, 2))


def test_ranks_by_hand() -> None:
    shares = {"a": [3, 3], "b": [2, 1], "c": [1, 1]}  # of 4 images, in tasks t and u
    blocks = [
        block(np.arange(4) < count, task=task, target=target)
        for target, counts in shares.items()
        for task, count in zip("tu", counts, strict=True)
    ]
    lonely = block([1, 1, 1, 1], task="v", target="a")  # a task that lacks b and c
    table = comparison.ranks(pd.concat([*blocks, lonely]))
    for unit in ("task", "cell"):
        found = table[table["unit"] == unit].set_index("target")
        assert found["mean_rank"].to_dict() == {"a": 1, "b": 2.25, "c": 2.75}
        assert (found["blocks"] == 2).all()
        assert (found["critical_distance"] > 2).all(), "two blocks tell no three targets apart"


def test_both_models_recover_known_effects() -> None:
    outcomes, accuracy = simulated()
    table = comparison.model(outcomes, accuracy).set_index(["model", "term", "level"])
    known = {
        ("target", "m1"): 0.8,
        ("target", "m2"): -0.5,
        ("surrogate", "pretrained"): -0.6,
        ("attack", "pgd"): 1.0,
        ("doublings", ""): 0.5,
        ("accuracy", ""): 0.4,
    }
    for (term, level), value in known.items():
        mixed, marginal = (table.loc[(name, term, level)] for name in ("mixed", "marginal"))
        assert abs(mixed["estimate"] - value) < 3 * mixed["se"] < 0.5
        assert mixed["low"] < mixed["estimate"] < mixed["high"]
        # averaged over images of standard deviation 1, effects shrink by about 1 / sqrt(1 + 0.35)
        assert abs(marginal["estimate"] - value / np.sqrt(1.346)) < 3 * marginal["se"] < 0.5
    assert table.loc[("mixed", "sd of image", ""), "estimate"] == pytest.approx(1, abs=0.2)
    assert table.loc[("mixed", "target", "m1"), "reference"] == "m0"
    assert (table["rows"] == len(outcomes)).all() and (table["images"] == 240).all()


def test_the_mixed_model_maximises_the_integrated_likelihood() -> None:
    """Against Gauss-Hermite quadrature with 40 nodes an image, maximised by scipy: no Laplace approximation there."""
    from scipy.optimize import minimize

    rows = regression.model_rows(*simulated(images=40))
    ours = regression.mixed_model(rows)
    rows, found, pattern, image = regression.patterns(rows)
    predictors = regression.design(found, [*regression.FACTORS, "task"], regression.COVARIATES)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    hits = np.zeros((2, image.max() + 1, len(found)))
    np.add.at(hits, (rows["fooled"].to_numpy(dtype=int), image, pattern), 1)

    def loss(point: np.ndarray) -> float:
        odds = (predictors.to_numpy() @ point[:-1])[:, None] + np.exp(point[-1]) * nodes
        inside = hits[1] @ -np.logaddexp(0, -odds) + hits[0] @ -np.logaddexp(0, odds)
        most = inside.max(axis=1, keepdims=True)
        return -(np.log(np.exp(inside - most) @ weights) + most[:, 0]).sum()

    best = minimize(loss, np.zeros(predictors.shape[1] + 1), method="BFGS").x
    theirs = dict(zip(predictors.columns, best, strict=False))
    for row in ours.iloc[:-1].itertuples():
        assert row.estimate == pytest.approx(theirs[(row.term, row.level)], abs=0.03)
    assert ours["estimate"].iloc[-1] == pytest.approx(np.exp(best[-1]), abs=0.05)


def test_the_marginal_model_is_that_of_generalised_estimating_equations() -> None:
    import statsmodels.api as sm

    rows = regression.model_rows(*simulated(images=20))
    fixed = regression.design(rows, (*regression.FACTORS, "task"), regression.COVARIATES)
    images = rows.groupby(["task", "image"]).ngroup().to_numpy()
    gee = sm.GEE(rows["fooled"].to_numpy(), fixed.to_numpy(), groups=images, family=sm.families.Binomial()).fit()
    ours = regression.marginal_model(rows).set_index(["term", "level"])
    theirs = pd.DataFrame({"estimate": gee.params, "se": gee.bse}, index=fixed.columns).loc[ours.index]
    assert ours["estimate"].to_numpy() == pytest.approx(theirs["estimate"].to_numpy(), abs=1e-6)
    assert ours["se"].to_numpy() == pytest.approx(theirs["se"].to_numpy(), rel=1e-4)


def test_images_that_are_all_alike_have_no_spread() -> None:
    rng = numpy_generator(0, "alike")
    blocks = [
        block(rng.random(80) < 0.4, task=task, target=target, attack=attack)
        for task, target, attack in product("tuv", ["m0", "m1", "m2"], ["fgsm", "pgd", "mifgsm"])
    ]
    accuracy = clean(dict.fromkeys(product(["m0", "m1", "m2"], "tuv"), 0.8))
    table = regression.mixed_model(regression.model_rows(pd.concat(blocks), accuracy)).set_index("term")
    assert table.loc["sd of image", "estimate"] < 0.25
    assert table.loc["constant", "estimate"] == pytest.approx(np.log(0.4 / 0.6), abs=0.3)


def test_the_same_answers_again_are_no_evidence() -> None:
    """Three copies of an attack triple the rows of every image; its errors must not shrink as if they were images."""
    outcomes, accuracy = simulated(images=30)
    once = outcomes[outcomes["attack"] == "pgd"]
    thrice = pd.concat([once, once.assign(attack="pgd2"), once.assign(attack="pgd3")])
    for fit in (regression.mixed_model, regression.marginal_model):
        one, three = (
            fit(regression.model_rows(table, accuracy)).set_index(["term", "level"])["se"] for table in (once, thrice)
        )
        assert (three / one)["target"].min() > 0.85  # 1 / √3 is 0.58


def test_no_effect_is_found_where_there_is_none() -> None:
    rng = numpy_generator(0, "null")
    blocks = [
        block(rng.random(100) < 0.4, task=task, target=target, attack=attack)
        for task, target, attack in product("tuv", ["m0", "m1"], ["fgsm", "pgd"])
    ]
    names = product(["m0", "m1"], "tuv")
    accuracy = clean(dict(zip(names, [0.7, 0.8, 0.9, 0.9, 0.7, 0.8], strict=True)))
    table = comparison.model(pd.concat(blocks), accuracy)
    tested = table[table["term"].isin(["target", "attack", "accuracy"])]
    assert len(tested) == 6 and (tested["p"] > 0.01).all()


def test_columns_that_say_nothing_new_are_left_out() -> None:
    outcomes = pd.concat([block([1, 0, 1], target=target) for target in ("a", "b")])
    rows = regression.model_rows(outcomes, clean({("a", "t"): 0.5, ("b", "t"): 0.9}))
    columns = regression.design(rows, regression.FACTORS, regression.COVARIATES).columns
    assert list(columns) == [("constant", ""), ("target", "b")]  # the accuracy is the target's, ε and attack are one


def test_levels_that_never_or_always_fool_do_no_harm() -> None:
    outcomes, accuracy = simulated(images=30)
    never, always = (
        outcomes[outcomes["attack"] == "pgd"].assign(attack=name, target_adversarial=answer)
        for name, answer in (("a_never", 1), ("z_always", 0))
    )
    table = comparison.model(pd.concat([outcomes, never, always]), accuracy).set_index(["model", "term", "level"])
    for name, fit in (("mixed", regression.mixed_model), ("marginal", regression.marginal_model)):
        found = table.loc[name]
        expected = fit(regression.model_rows(outcomes, accuracy)).set_index(["term", "level"])
        assert list(found.index) == list(expected.index)
        assert found.loc[("attack", "pgd"), "reference"] == "fgsm"
        assert found.loc[("attack", "pgd"), "estimate"] == pytest.approx(expected.loc[("attack", "pgd"), "estimate"])
        assert (found["rows"] == len(outcomes)).all()
    assert comparison.model(pd.concat([never, always]), accuracy).empty


def test_studies_without_anything_to_compare() -> None:
    alone = block([0, 0], target="a")
    accuracy = clean({("a", "t"): 0.5})
    tables = comparison.tables(alone, accuracy, bootstrap=10)
    assert {name: len(table) for name, table in tables.items()} == dict.fromkeys(comparison.TABLES, 0)
    assert all(len(table.columns) > 8 for table in tables.values())
    with pytest.raises(StudyError, match="the accuracy table lacks 'a' on the test split of 'u'"):
        comparison.model(block([0, 1], target="a", task="u"), accuracy)

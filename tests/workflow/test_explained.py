"""Where explanations meet what was measured otherwise, they say the same."""

from __future__ import annotations

import pandas as pd
import pytest
from project import Tree

from advmerge.artifacts import load_table
from advmerge.study import Study, load

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def study(base: Tree) -> Study:
    return load(base.path / "params.yaml")


def right(base: Tree, study: Study, model: str) -> dict[str, int]:
    """Task → how many of the images explained a model has right, by its own clean answers."""
    table = load_table(base.path / study.results / f"clean/{model}.parquet")
    table = table[(table["split"] == "attack") & (table["image"] < study.explanations.images)]
    return (table["prediction"] == table["label"]).groupby(table["task"].astype(str)).sum().to_dict()


def fooled(base: Tree, study: Study, target: str) -> dict[tuple[str, str], tuple[int, int]]:
    """(task, surrogate) → images that both have right and, of these, those that fool the target, by the outcomes."""
    rows = load_table(base.path / study.results / f"outcomes/{target}/{study.explanations.attack}.parquet")
    rows = rows[(rows["image"] < study.explanations.images) & rows["surrogate"].isin(study.surrogates)]
    both = (rows["surrogate_clean"] == rows["label"]) & (rows["target_clean"] == rows["label"])
    wrong = both & (rows["target_adversarial"] != rows["label"])
    keys = [rows["task"].astype(str), rows["surrogate"].astype(str)]
    return {key: (int(both[part].sum()), int(wrong[part].sum())) for key, part in rows.groupby(keys).groups.items()}


def explained(base: Tree, study: Study, name: str, **at: float) -> pd.DataFrame:
    table = load_table(base.path / study.results / f"explanations/{name}.parquet")
    for column, value in at.items():
        table = table[table[column] == value]
    return table


def counts(rows: pd.DataFrame) -> dict[tuple[str, str], tuple[int, int]]:
    return {(row.task, row.surrogate): (row.n, row.fooled) for row in rows.itertuples()}


def corrects(rows: pd.DataFrame) -> dict[str, int]:
    return rows.drop_duplicates("task").set_index("task")["correct"].to_dict()


def test_paths_planes_and_doses_end_at_the_models_own_answers(base: Tree, study: Study) -> None:
    ends = {
        "pretrained": explained(base, study, "path", scale=0),
        "finetuned": explained(base, study, "plane", toward_expert=1, toward_merged=0),
        "weight_averaging": explained(base, study, "path", scale=1),  # the mean of task vectors
        "task_arithmetic": explained(base, study, "plane", toward_expert=0, toward_merged=1),
    }
    for model, rows in ends.items():
        assert corrects(rows) == right(base, study, model), model
        if model in study.targets:
            assert counts(rows) == fooled(base, study, model), model
    cut = "dose/task_arithmetic_surgery"
    for dose, model in ((0, "task_arithmetic"), (1, "task_arithmetic_surgery")):
        assert corrects(explained(base, study, cut, dose=dose)) == right(base, study, model)
        assert counts(explained(base, study, cut, dose=dose)) == fooled(base, study, model)
    assert counts(explained(base, study, cut, dose=0)) != counts(explained(base, study, cut, dose=1))


def test_a_target_lets_go_of_its_answer_where_the_outcomes_say(base: Tree, study: Study) -> None:
    """Whatever fools a target at the example changed its answer on the way: its boundary ratio is at most 1."""
    for target in study.targets:
        pairs = explained(base, study, f"pairs/{target}", measure="boundary_ratio")
        ratio = pairs.set_index(["task", "surrogate", "image"])["value"]
        rows = load_table(base.path / study.results / f"outcomes/{target}/{study.explanations.attack}.parquet")
        rows = rows[(rows["image"] < study.explanations.images) & rows["surrogate"].isin(study.surrogates)]
        both = (rows["surrogate_clean"] == rows["label"]) & (rows["target_clean"] == rows["label"]) & rows["changed"]
        rows = rows[both].set_index(["task", "surrogate", "image"])
        assert set(rows.index) == set(ratio.index)
        wrong = rows.index[rows["target_adversarial"] != rows["label"]]
        assert len(wrong) > 10
        assert (ratio[wrong] <= 1).all()


def test_a_target_answers_its_own_examples_as_the_surrogate_that_it_was(base: Tree, study: Study) -> None:
    rows = load_table(base.path / study.results / "outcomes.parquet")
    own = rows[rows["surrogate"].astype(str) == rows["target"].astype(str)]
    assert set(own["target"]) == set(study.targets)
    for side in ("adversarial", "clean"):
        assert (own[f"surrogate_{side}"] == own[f"target_{side}"]).all(), side
    assert (own["surrogate_margin"] == own["target_margin"]).all()

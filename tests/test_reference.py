"""A study's accuracy against published figures, on made-up tables."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from advmerge.artifacts import save_table
from advmerge.cli import main
from advmerge.reference import compare, read_reference
from advmerge.study import load

ROOT = Path(__file__).parents[1]


def accuracy(shares: dict[tuple[str, str], float]) -> pd.DataFrame:
    rows = [
        {"model": model, "task": task, "split": split, "accuracy": share if split == "test" else 0.0}
        for (model, task), share in shares.items()
        for split in ("test", "attack")
    ]
    return pd.DataFrame(rows)


def test_means_are_over_the_tasks_that_both_have() -> None:
    ours = accuracy({("ties", "a"): 0.5, ("ties", "b"): 0.75, ("ties", "new"): 0.0, ("average", "a"): 0.2})
    published = pd.DataFrame(
        {"model": ["ties"] * 3 + ["other"], "task": ["a", "b", "sun397", "a"], "accuracy": [0.5, 0.5, 0.9, 0.1]}
    )
    (row,) = compare(ours, published, 0.125).to_dict("records")
    assert row == {"model": "ties", "tasks": 2, "accuracy": 0.625, "published": 0.5, "difference": 0.125, "near": True}
    assert not compare(ours, published, 0.124)["near"].any()


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """A folder in which the paper's study has run, every model two points above what was published."""
    reference = read_reference(ROOT / "studies/paper.reference.csv")
    table = accuracy({(r.model, r.task): r.accuracy + 0.02 for r in reference.itertuples()})
    monkeypatch.chdir(tmp_path)
    save_table(tmp_path / "results/paper/accuracy.parquet", table, {})
    return table


def test_a_study_near_its_reference_passes(finished: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    study = str(ROOT / "studies/paper.yaml")
    assert main(["check-reference", study]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    # 65.87 is the mean of the published 63.4, 71.4, 71.7, 64.2, 52.8, 87.5 and 50.1.
    assert "weight_averaging                 7    67.9       65.9        +2.0" in lines
    assert main(["check-reference", study, "--tolerance", "0.01"]) == 1
    assert capsys.readouterr().out.count("more than 1 points off") == 11


def test_one_model_that_is_off_fails(finished: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    finished.loc[finished["model"] == "ties", "accuracy"] -= 0.1
    save_table("results/paper/accuracy.parquet", finished, {})
    assert main(["check-reference", str(ROOT / "studies/paper.yaml")]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "points off" in line]
    assert line.startswith("ties ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "none.csv: no such file; a reference is a CSV of model, task, accuracy"),
        ("model,accuracy\nties,0.5\n", "lacks the column task"),
        ("model,task,accuracy\nties,mnist,50\n", "line 2: accuracy is 50, a share of 0 to 1 is expected"),
        ("model,task,accuracy\nties,mnist,0.5\nties,svhn,high\n", "line 3: accuracy is high"),
        ("model,task,accuracy\nties,mnist,0.5\nties,mnist,0.6\n", "line 3: the model and task are there already"),
        ("model,task,accuracy\nother,mnist,0.5\n", "none of its models and tasks is in results/paper/accuracy.parquet"),
    ],
)
def test_references_that_are_none(
    finished: pd.DataFrame, capsys: pytest.CaptureFixture[str], content: str | None, words: str
) -> None:
    if content is not None:
        Path("none.csv").write_text(content)
    assert main(["check-reference", str(ROOT / "studies/paper.yaml"), "--reference", "none.csv"]) == 1
    assert words in capsys.readouterr().err


def test_a_study_that_has_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check-reference", str(ROOT / "studies/paper.yaml")]) == 1
    assert "results/paper/accuracy.parquet: no such file; run: snakemake --configfile" in capsys.readouterr().err


def test_the_reference_is_of_the_studys_models_and_tasks() -> None:
    study = load(ROOT / "studies/paper.yaml")
    reference = read_reference(ROOT / "studies/paper.reference.csv")
    assert set(reference["task"]) == set(study.tasks)
    assert list(dict.fromkeys(reference["model"])) == ["pretrained", "finetuned", "multitask", *study.merging]
    assert len(reference) == len(study.tasks) * (3 + len(study.merging))

"""An edit reruns what depends on it and nothing else, wherever the files came from and whichever command runs."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from project import REPORT, STEPS, TARGETS, TASKS, Tree

pytestmark = pytest.mark.workflow

PGD_SETS = {f"adversarial/{t}/{s}/pgd_eps8" for t in TASKS for s in ("pretrained", "finetuned", *TARGETS)}
PGD_OUTCOMES = {f"outcomes/{target}/pgd_eps8" for target in TARGETS}
PGD_EXPLAINED = {
    *(f"explanations/pairs/{target}" for target in TARGETS),
    *(f"explanations/{name}" for name in ("dose/task_arithmetic_surgery", "path", "plane")),
}
PGD_JOBS = PGD_SETS | PGD_OUTCOMES | PGD_EXPLAINED | {"outcomes"} | REPORT


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """The artifacts that are new, gone or of other content, named as jobs are; tables and figures left out."""
    paths = {path for path in before | after if before.get(path) != after.get(path)}
    return {path.split("/", 2)[2].rsplit(".", 1)[0] for path in paths if path.startswith("results/")}


@pytest.fixture(scope="session")
def edited(clone_of: Callable[[], Tree]) -> Tree:
    """A clone in which PGD's step count was changed, then `dvc repro`, then committed. Not to be changed."""
    tree = clone_of()
    tree.edit(*STEPS)
    tree.run("dvc", "repro")
    tree.commit("more steps")
    return tree


def test_pgds_steps_rerun_pgds_cells_through_either_command(base: Tree, clone: Tree, edited: Tree) -> None:
    clone.edit(*STEPS)
    clone.snakemake()
    for tree in (clone, edited):
        assert tree.ran() == PGD_JOBS
        assert changed(base.contents(), tree.contents()) == PGD_JOBS - REPORT
    assert clone.contents() == edited.contents()


def test_an_experiment_reruns_its_attacks_cells(clone: Tree, edited: Tree) -> None:
    clone.run("dvc", "exp", "run", "-S", "attacks.pgd.max_iter=6")
    assert clone.ran() == PGD_JOBS
    assert clone.contents() == edited.contents()


def test_a_merging_method_leaves_the_rest_alone(base: Tree, clone: Tree) -> None:
    clone.edit("merging:\n", "merging:\n  sum_of_all: {method: task_arithmetic, scale: [0.9]}\n")
    clone.run("dvc", "repro")
    added = {
        "merged/sum_of_all",
        "clean/sum_of_all",
        "outcomes/sum_of_all/pgd_eps8",
        "outcomes/sum_of_all/deepfool",
        "explanations/pairs/sum_of_all",
        *(f"adversarial/{task}/sum_of_all/pgd_eps8" for task in TASKS),
    }
    assert clone.ran() == added | {"outcomes", "accuracy"} | REPORT
    assert changed(base.contents(), clone.contents()) == added | {"outcomes", "accuracy"}


def test_older_commits_with_and_without_checkout(base: Tree, edited: Tree, tmp_path_factory) -> None:
    old, new = base.run("git", "rev-parse", "HEAD").strip(), edited.run("git", "rev-parse", "HEAD").strip()
    tree = Tree(tmp_path_factory.mktemp("history") / "tree", base.home)
    base.run("cp", "-a", "--reflink=auto", str(edited.path), str(tree.path))

    tree.forget_logs()
    tree.run("git", "checkout", "-q", old)
    tree.run("dvc", "checkout", "-q")
    assert tree.contents() == base.contents()
    assert "Nothing to be done" in tree.snakemake("-n")
    assert "up to date" in tree.run("dvc", "status")

    tree.run("git", "checkout", "-q", new)  # and the checkout of the artifacts forgotten
    tree.snakemake()
    assert tree.ran() == PGD_JOBS
    assert tree.contents() == edited.contents()

    tree.run("git", "checkout", "-q", old)  # and forgotten again
    tree.run("dvc", "repro", "--no-run-cache")
    assert tree.contents() == base.contents()


def test_two_commits_are_compared_by_what_they_found(base: Tree, edited: Tree, tmp_path: Path) -> None:
    def numbers(tree: Tree) -> dict[str, float]:
        """Metrics as DVC names them."""
        metrics = json.loads((tree.path / "reports/smoke/metrics.json").read_text())
        return dict(leaves(metrics, ()))

    def leaves(part: dict, path: tuple[str, ...]) -> Iterator[tuple[str, float]]:
        for key, value in part.items():
            yield from leaves(value, (*path, key)) if isinstance(value, dict) else [(".".join((*path, key)), value)]

    then, now = numbers(base), numbers(edited)
    rows = edited.run("dvc", "metrics", "diff", "HEAD~1", "--precision", "9", "--md").splitlines()[2:]
    said = {
        name: [before, after]
        for _, name, before, after, _ in (map(str.strip, row.split("|")[1:-1]) for row in rows if row)
    }
    changes = {name: [then[name], now[name]] for name in then if then[name] != now[name]}
    assert {name: [float(value) for value in values] for name, values in said.items()} == {
        name: pytest.approx(values) for name, values in changes.items()
    }
    kinds = {name.split(".")[0] for name in changes}
    assert "relative_transfer" in kinds and "accuracy" not in kinds  # another attack, the same models

    edited.run("dvc", "plots", "diff", "HEAD~1", "-o", str(tmp_path))
    drawn = re.findall(r"var spec = (\{.*?\});", (tmp_path / "index.html").read_text(), re.DOTALL)
    transfer, accuracy = (json.loads(spec)["data"]["values"] for spec in drawn)
    for tree, revision in ((base, "HEAD~1"), (edited, "workspace")):
        here = [row for row in transfer if row["rev"] == revision]
        written = list(csv.DictReader((tree.path / "reports/smoke/tables/headline_transfer.csv").open()))
        assert [{key: row[key] for key in written[0]} for row in here] == written
        assert all(float(row["low"]) <= float(row["relative"]) <= float(row["high"]) for row in here)
    assert {row["rev"] for row in accuracy} == {"HEAD~1", "workspace"}
    assert {path.name.split("_")[-1] for path in (tmp_path / "static").iterdir()} == {"transfer.png"}

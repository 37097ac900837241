"""An edit reruns what depends on it and nothing else, wherever the files came from and whichever command runs."""

from __future__ import annotations

import csv
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from project import Tree

from advmerge import plan
from advmerge.artifacts import metadata
from advmerge.jobs.gpu import visible
from advmerge.study import load

pytestmark = pytest.mark.workflow

STEPS = ("max_iter: 5, num_random_init: 1}", "max_iter: 6, num_random_init: 1}")
TASKS = ("uci_digits", "latin", "texture")
TARGETS = ("weight_averaging", "task_arithmetic", "task_arithmetic_surgery", "multitask")
FIGURES = (
    *("heatmap_pretrained", "heatmap_finetuned", "relative_transfer", "relative_transfer_column"),
    *("accuracy_transfer", "accuracy_transfer_column", "critical_distance"),
)
REPORT = {
    "tables",
    "comparison",
    "claims",
    "gallery",
    "explanations",
    "page",
    "summary",
    *(f"figures/{name}" for name in FIGURES),
}
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


def test_the_grid_here_is_the_studys(base: Tree) -> None:
    study = load(base.path / "params.yaml")
    assert (tuple(study.tasks), tuple(study.targets), tuple(study.drawn)) == (TASKS, TARGETS, FIGURES)
    assert set(study.artifacts()) | set(study.report_files()) == set(base.contents())


def test_artifacts_say_what_they_were_made_on(base: Tree) -> None:
    """But those that any machine makes the same: images, unpacked weights, joined tables."""
    said: dict[str, list[dict]] = {}
    for path, (rule, _) in load(base.path / "params.yaml").artifacts().items():
        said.setdefault(rule, []).append(metadata(base.path / path).get("made_on"))
    anywhere = {"data", "corpus", "outcomes", "accuracy"}
    assert {rule for rule, records in said.items() if records == [None] * len(records)} == anywhere
    first, *others = [made for rule, records in said.items() if rule not in anywhere for made in records]
    assert all(made == first for made in others)
    assert first["precision"] == "float32" and first["deterministic"] and first["threads"] == 1


def test_a_device_that_is_not_there_is_refused_before_any_job_that_needs_it(copy: Tree) -> None:
    if visible():
        pytest.skip("there is a GPU here")
    copy.forget_logs()
    copy.edit("device: auto", "device: cuda")
    copy.spare_the_check()
    assert "Nothing to be done" not in copy.snakemake("-n")  # the page shows the study
    copy.snakemake()
    assert copy.ran() == {"page"}
    copy.forget_logs()
    copy.edit(*STEPS)
    copy.spare_the_check()
    said = copy.snakemake(fails=True)
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: hardware.device: cuda, but this machine has no such device")
    assert not copy.ran()


def test_the_disk_is_as_planned(base: Tree) -> None:
    """Every file of the results, and the results and the report together, within a twentieth."""
    study = load(base.path / "params.yaml")
    planned = plan.jobs(study, plan.networks(study))
    assert {job.made for job in planned} >= set(study.artifacts())
    for kind in ("adversarial", "data", "models", "merged"):
        jobs = [job for job in planned if job.made.startswith(f"results/smoke/{kind}/")]
        taken = sum((base.path / job.made).stat().st_size for job in jobs)
        assert sum(job.written for job in jobs) == pytest.approx(taken, rel=0.05), kind
    assert sum(job.written for job in planned) == pytest.approx(sum(f.stat().st_size for f in base.files()), rel=0.05)


def test_a_clone_with_pulled_artifacts_has_nothing_to_do(base: Tree, clone: Tree) -> None:
    assert clone.contents() == base.contents()
    assert "Nothing to be done" in clone.snakemake("-n")
    assert "up to date" in clone.run("dvc", "status")
    before = clone.identities()
    clone.snakemake()
    clone.run("dvc", "repro")
    assert clone.identities() == before
    assert not clone.ran()
    assert not clone.run("git", "status", "--short")


def test_a_second_run_does_nothing_in_seconds(copy: Tree) -> None:
    before = copy.identities()
    copy.forget_logs()
    start = time.monotonic()
    copy.snakemake()
    assert time.monotonic() - start < 20
    assert copy.identities() == before
    assert not copy.ran()


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


def test_code_edited_before_a_pull_counts(base: Tree, clone_of: Callable[[], Tree]) -> None:
    """Outputs that are newer than an edit of the code that made them are stale all the same."""
    tree = clone_of()
    past = time.time() - 86400
    figures = tree.path / "src/advmerge/figures.py"
    figures.write_text(figures.read_text() + "\n# edited\n")
    os.utime(figures, (past, past))
    tree.snakemake()
    assert tree.ran() == REPORT - {"tables", "comparison", "claims"}
    assert tree.contents() == base.contents()
    before = tree.identities()
    tree.snakemake()
    assert tree.identities() == before

"""What a whole run leaves, and that nothing runs again without a cause."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest
from project import FIGURES, REPORT, STEPS, TARGETS, TASKS, Tree

from advmerge import plan
from advmerge.artifacts import metadata
from advmerge.jobs.gpu import visible
from advmerge.study import load

pytestmark = pytest.mark.workflow


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

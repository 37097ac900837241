"""dvc.yaml says of each phase what Snakemake says of its jobs: outputs, inputs, code and settings; no more, no less.

Snakemake is asked by dry runs of the smoke study with every kind of surrogate, and of studies that differ from it in
one place. That the
comparison notices each line that is missing or too many is itself tested, line by line.
"""

from __future__ import annotations

import copy
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from project import EVERY_KIND, PLAIN, ROOT, STUDY, Tree

from advmerge import plan
from advmerge.study import Study

pytestmark = pytest.mark.workflow

RULES = {
    rule: f"workflow/rules/{file.name}"
    for file in (ROOT / "workflow/rules").glob("*.smk")
    for rule in re.findall(r"^rule (\w+):", file.read_text(), re.MULTILINE)
}
DEFINES_JOBS = {"workflow/rules/common.smk", "src/advmerge/study", "src/advmerge/sources.py"}
METADATA = ".snakemake/metadata"

# One or more changes under each key that a stage may list: the key, and what it becomes (None: it is left out).
CHANGES: list[tuple[str, Any]] = [
    ("seed", 1),
    ("seeds", [0, 1]),
    ("hardware.device", "cpu"),
    ("hardware.precision.train", "bfloat16"),
    ("hardware.precision.evaluate", "bfloat16"),
    ("hardware.precision.craft", "bfloat16"),
    ("hardware.deterministic", False),
    ("data.splits.train", 200),
    ("tasks.texture", None),
    ("tasks.latin", {"splits": {"train": 200}}),
    ("backbone.options.depth", 3),
    ("backbone.options.img_size", 35),
    ("pretrain.corpus.per_character", 11),
    ("pretrain.steps", 201),
    ("head.shots", 5),
    ("finetune.steps", 61),
    ("multitask.steps", 61),
    ("merging.task_arithmetic.scale", [0.3]),
    ("merging.weight_averaging", None),
    ("surrogates", ["finetuned"]),
    ("attacks.pgd.max_iter", 6),
    ("attacks.deepfool", None),
    ("controls.white_box", []),
    ("evaluation.images", 31),
    ("evaluation.batch_size", 31),
    ("explanations.images", 15),
    ("explanations.dose", [0, 1]),
    ("explanations.path.vector", "sum"),
    ("explanations.plane.merged", "weight_averaging"),
    ("statistics.confidence", 0.9),
    ("gallery.surrogate", "pretrained"),
    ("labels", {"pgd": "PGD"}),
]


class Job(NamedTuple):
    """What a dry run says of a job."""

    rule: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    command: str


class Stage(NamedTuple):
    """A stage of dvc.yaml, its paths those of this study."""

    command: str
    params: list[str]
    deps: list[str]
    outs: list[str]


def dry_run(tree: Tree, study: Path | str = "params.yaml", target: str = "report") -> list[Job]:
    """Every job of a study, as a dry run of all of them prints it; rules without a command are not jobs."""
    tree.spare_the_check(study)
    options = ["--configfile", str(study), "--nolock", "-n", "--forceall", "--printshellcmds", "--quiet", "host"]
    found = []
    for block in tree.snakemake(target, *options).split("\n\n"):
        if heading := re.search(r"^rule (\w+):$", block, re.MULTILINE):
            entries = dict(re.findall(r"^    (input|output): (.*)$", block, re.MULTILINE))
            if command := re.search(r"^Shell command: (?!None)(.*)", block, re.MULTILINE | re.DOTALL):
                inputs, outputs = (tuple(entries.get(key, "").split(", ")) for key in ("input", "output"))
                found.append(Job(heading[1], inputs, outputs, command[1]))
    return found


def dvc_stages() -> dict[str, Stage]:
    """dvc.yaml for the smoke study."""
    text = (ROOT / "dvc.yaml").read_text().replace("${study}", STUDY)
    return {
        name: Stage(
            stage["cmd"],
            stage.get("params", []),
            stage["deps"],
            [path for out in stage["outs"] for path, options in out.items() if options == {"persist": True}],
        )
        for name, stage in yaml.safe_load(text)["stages"].items()
    }


def within(path: str, listed: str) -> bool:
    """Whether a listed file or folder covers a path."""
    return path == listed or path.startswith(f"{listed}/")


def stage_of(job: Job, stages: dict[str, Stage]) -> str | None:
    """The one stage whose outs hold a job's outputs."""
    holders = [
        {name for name, stage in stages.items() for out in stage.outs if within(output, out)} for output in job.outputs
    ]
    (first, *others) = holders
    return next(iter(first)) if len(first) == 1 and all(other == first for other in others) else None


def drift(stages: dict[str, Stage], jobs: list[Job], reads: dict[str, set[str]]) -> Iterator[str]:
    """Everything in which dvc.yaml and Snakemake differ.

    Args:
        stages: of dvc.yaml.
        jobs: of the whole study.
        reads: rule → the settings whose change changes the rule's jobs.
    """
    phases = {name: stage for name, stage in stages.items() if name != "record"}
    homes = {job: stage_of(job, phases) for job in jobs}
    yield from (f"{job.outputs} are not in the outs of exactly one stage" for job, home in homes.items() if not home)
    for name, stage in phases.items():
        ours = [job for job, home in homes.items() if home == name]
        for out in stage.outs:
            if not any(within(output, out) for job in ours for output in job.outputs):
                yield f"{name}: no job writes {out}"

        made_here = {output for job in ours for output in job.outputs}
        needed = {path for job in ours for path in job.inputs} - made_here
        needed |= DEFINES_JOBS | {RULES[job.rule] for job in ours}
        for path in needed:
            if not any(within(path, dep) for dep in stage.deps):
                yield f"{name}: needs {path}"
        for dep in stage.deps:
            if not any(within(path, dep) for path in needed):
                yield f"{name}: does not need {dep}"

        keys = set().union(*(reads[job.rule] for job in ours))
        for key in keys:
            if not any(within(key.replace(".", "/"), listed.replace(".", "/")) for listed in stage.params):
                yield f"{name}: reads {key}"
        for listed in stage.params:
            if not any(within(key.replace(".", "/"), listed.replace(".", "/")) for key in keys):
                yield f"{name}: does not read {listed}"

    record = stages["record"]
    artifacts = {out for stage in phases.values() for out in stage.outs}
    code = {"workflow/scripts/audit.py", "src/advmerge/artifacts.py", "src/advmerge/study"}
    yield from (
        f"record: deps and what it audits differ by {path}"
        for path in ({*code, "params.yaml"} | artifacts) ^ {*record.deps}
    )
    if record.outs != [METADATA]:
        yield f"record: outs are not {METADATA}"


@pytest.fixture(scope="session")
def tree(bare: Tree, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A tree for dry runs, in which studies can be put."""
    path = tmp_path_factory.mktemp("drift") / "tree"
    shutil.copytree(bare.path, path)
    tree = Tree(path, bare.home)
    tree.edit(PLAIN, EVERY_KIND)
    return tree


@pytest.fixture(scope="session")
def jobs(tree: Tree) -> list[Job]:
    """The jobs of the smoke study."""
    return dry_run(tree)


def test_the_plan_has_the_jobs_that_run(tree: Tree, jobs: list[Job]) -> None:
    study = Study.model_validate(yaml.safe_load((tree.path / "params.yaml").read_text()))
    planned = plan.jobs(study, plan.networks(study))
    assert Counter(job.rule for job in planned) == Counter(job.rule for job in jobs)
    outputs = {output for job in jobs for output in job.outputs}
    assert {job.made for job in planned if job.made.startswith("results/")} <= outputs


def test_an_encoders_features_are_measured_once_for_all_its_heads(jobs: list[Job]) -> None:
    made = {output for job in jobs if job.rule == "features" for output in job.outputs}
    assert len(made) == 3  # P, EfficientNet, the small transformer
    read = [path for job in jobs if job.rule == "head" for path in job.inputs if path.endswith(".features.safetensors")]
    assert {path: read.count(path) for path in made} == {path: 5 if "pretrained" in path else 3 for path in made}


@pytest.fixture(scope="session")
def reads(tree: Tree, jobs: list[Job]) -> dict[str, set[str]]:
    """rule → the settings whose change changes its jobs, found by changing them."""
    study = yaml.safe_load((tree.path / "params.yaml").read_text())

    def changed_rules(number: int) -> tuple[str, set[str]]:
        key, value = CHANGES[number]
        *path, last = key.split(".")
        variant = copy.deepcopy(study)
        section = variant
        for part in path:
            section = section[part]
        if value is None:
            del section[last]
        else:
            section[last] = value
        (tree.path / f"variant{number}.yaml").write_text(yaml.safe_dump(variant, sort_keys=False))
        differing = set(dry_run(tree, f"variant{number}.yaml")) ^ set(jobs)
        return key, {job.rule for job in differing}

    found: dict[str, set[str]] = {job.rule: set() for job in jobs}
    with ThreadPoolExecutor(2) as pool:
        for key, rules in pool.map(changed_rules, range(len(CHANGES))):
            assert rules, f"no job depends on {key}"
            for rule in rules:
                found[rule].add(key)
    return found


def test_dvc_yaml_says_what_snakemake_says(jobs: list[Job], reads: dict[str, set[str]]) -> None:
    assert {job.rule for job in jobs} == {rule for rule in RULES if not rule.startswith("all_")} - {"figures", "report"}
    assert list(drift(dvc_stages(), jobs, reads)) == []


def test_every_setting_is_tried(reads: dict[str, set[str]]) -> None:
    assert {key.split(".")[0] for key, _ in CHANGES} == set(Study.model_fields) - {"study"}
    listed = {key for stage in dvc_stages().values() for key in stage.params}
    assert {key.split(".")[0] for key in listed} == set(Study.model_fields) - {"study"}


def test_every_line_of_dvc_yaml_counts(jobs: list[Job], reads: dict[str, set[str]]) -> None:
    """Without any one of its lines, or with one more, dvc.yaml differs from Snakemake."""
    stages = dvc_stages()
    for name, stage in stages.items():
        for field in ("params", "deps", "outs"):
            lines = getattr(stage, field)
            for line in lines:
                fewer = stage._replace(**{field: [other for other in lines if other != line]})
                assert list(drift({**stages, name: fewer}, jobs, reads)), f"{name} without {line}"
            if field != "params" or name != "record":
                more = stage._replace(**{field: [*lines, "README"]})
                assert list(drift({**stages, name: more}, jobs, reads)), f"{name} with one more of {field}"


def test_each_stage_runs_its_own_phase(tree: Tree, jobs: list[Job]) -> None:
    stages = {name: stage for name, stage in dvc_stages().items() if name != "record"}
    order = list(stages)
    for position, (name, stage) in enumerate(stages.items()):
        program, target, *options = stage.command.split()
        assert (program, options) == ("snakemake", ["--cores", "all"])
        planned = set(dry_run(tree, target=target))
        assert {job for job in jobs if stage_of(job, stages) == name} <= planned
        assert {stage_of(job, stages) for job in planned} <= set(order[: position + 1])


@pytest.mark.parametrize(
    "file", ["params.yaml", *(f"studies/{path.name}" for path in (ROOT / "studies").glob("*.yaml"))]
)
def test_shipped_studies_have_every_key_that_dvc_asks_for(file: str) -> None:
    study = yaml.safe_load((ROOT / file).read_text())
    for key in {key for stage in dvc_stages().values() for key in stage.params}:
        section = study
        for part in key.split("."):
            assert part in section, f"{file} lacks {key}"
            section = section[part]


def test_git_ignores_what_dvc_caches() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    for stage in dvc_stages().values():
        for out in stage.outs:
            assert f"/{out.split('/')[0]}" in ignored  # a link to a folder too


def test_the_slurm_profile_puts_every_rule_into_a_group() -> None:
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    groups = dict(entry.split("=") for entry in profile["groups"])
    text = "".join(file.read_text() for file in ROOT.glob("workflow/rules/*.smk"))
    rules = re.split(r"^ *rule (?=\w+:)", text, flags=re.MULTILINE)[1:]
    assert set(groups) == {rule.split(":")[0] for rule in rules if "shell:" in rule}
    assert {entry.split("=")[0] for entry in profile["group-components"]} <= set(groups.values())

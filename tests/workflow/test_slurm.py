"""A study on a real SLURM gives the bytes of a local run, asks for what was planned, and a killed job is submitted again.

One task, one merge, one attack: data in one allocation, then P, its head, its answers and examples, an expert and a merge.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest
import yaml
from cluster import cluster, install
from project import ROOT, Tree
from test_faults import wait_until

pytestmark = pytest.mark.workflow

WANTED = (
    "results/smoke/adversarial/uci_digits/pretrained/pgd_eps8.safetensors",
    "results/smoke/clean/pretrained.parquet",
    "results/smoke/merged/weight_averaging.safetensors",
)
ATTACK = "logs/smoke/adversarial/uci_digits/pretrained/pgd_eps8.log"
# The plugin looks at its jobs after so many seconds, then 10 s later than the last time as long as none has ended.
PATIENCE = ("--slurm-init-seconds-before-status-checks", "15", "--seconds-between-status-checks", "15")


def unavailable(reason: str) -> NoReturn:
    """Skip, or fail where nothing may be skipped."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a cluster on this machine and of Snakemake with the plugin."""
    if not sys.platform.startswith("linux"):
        unavailable("SLURM runs on Linux")
    if reason := install():
        unavailable(reason)
    plugins = tmp_path_factory.mktemp("plugins")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(plugins)]
    done = subprocess.run(
        [*pip, "-r", str(ROOT / "envs/requirements-slurm.txt")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        unavailable(f"the plugin could not be installed: {done.stdout.strip()[-300:]}")
    with cluster() as environment:
        yield {**environment, "PYTHONPATH": str(plugins)}


@pytest.fixture(scope="module")
def trees(new_tree: Callable[[], Tree]) -> tuple[Tree, Tree]:
    """Two trees of the smoke study cut down to one task, one merge and one attack; nothing ran in them."""
    found = new_tree(), new_tree()
    for tree in found:
        study = yaml.safe_load((tree.path / "params.yaml").read_text())
        study["tasks"] = {"uci_digits": {}}
        study["merging"] = {"weight_averaging": study["merging"]["weight_averaging"]}
        study["surrogates"] = ["pretrained"]
        study["pretrain"]["steps"] = 100
        study["explanations"]["plane"]["merged"] = "weight_averaging"
        study["gallery"]["surrogate"] = "pretrained"
        study["attacks"] = {"pgd": study["attacks"]["pgd"]}
        study["controls"]["white_box"] = []
        (tree.path / "params.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return found


def test_a_study_on_slurm_is_the_local_study(slurm: dict[str, str], trees: tuple[Tree, Tree]) -> None:
    local, remote = trees
    path = f"{slurm['PATH'].split(':')[0]}:{remote.environment['PATH']}"
    scratch = remote.path.parent / "scratch"
    scratch.mkdir()
    environment = {**remote.environment, **slurm, "PATH": path, "TMPDIR": str(scratch)}

    def asked(*command: str) -> str:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    log = remote.path.parent / "slurm.log"
    command = ["snakemake", *WANTED, "--profile", "profiles/slurm", "--slurm-no-account", *PATIENCE]
    with log.open("wb") as out:
        run = subprocess.Popen(command, cwd=remote.path, env=environment, stdout=out, stderr=out)
        try:
            local.snakemake(*WANTED, "--cores", "all", "--resources", "gpu=2")  # meanwhile

            # Kill the attack, with everything in its allocation, when it has begun.
            wait_until(lambda: (remote.path / ATTACK).exists() or run.poll() is not None, 150)
            listed = asked("squeue", "-h", "-t", "RUNNING", "-o", "%i %k").splitlines()
            (attack,) = [line.split()[0] for line in listed if "rule_attack" in line]
            request = asked("scontrol", "show", "job", attack)
            assert "TresPerJob=gres:gpu:1" in request
            (planned,) = (remote.path / ".snakemake/advmerge").glob("asked-*")
            wanted = json.loads(planned.read_text())["attack"]
            assert f"TimeLimit=00:{wanted['runtime']}:00" in request
            assert f"MinMemoryNode={wanted['mem_mb']}M" in request, request
            asked("scancel", "--signal=KILL", "--full", attack)
            assert run.wait(200) == 0, log.read_text()[-3000:]
        finally:
            run.terminate()
            run.wait(60)

    said = log.read_text()
    submitted = re.findall(r"SLURM jobid (\d+) \(log: .*/rule_attack/", said)
    assert submitted[0] == attack
    assert len(submitted) == 2, said[-3000:]
    assert said.count("Trying to restart job") == 1
    assert not asked("squeue", "-h")

    assert remote.contents() == local.contents()
    assert set(WANTED) <= set(remote.contents())
    # What was run there counts as run here, and the other way round.
    assert "Nothing to be done" in remote.snakemake(*WANTED, "-n")
    remote.edit("max_iter: 5", "max_iter: 6")
    planned = remote.snakemake(*WANTED, "-n", "--quiet", "host")
    assert set(re.findall(r"^rule (\w+):", planned, re.MULTILINE)) == {"attack"}

    # Each job had the device that SLURM gave it, and leased none.
    cost = json.loads((remote.path / ATTACK).read_text().splitlines()[-1].removeprefix("cost "))
    assert cost["gpu"] in {"0", "1", "2", "3"}
    assert not list(scratch.glob("advmerge-gpu-*"))

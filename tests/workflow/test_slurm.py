"""The smoke study on a real SLURM gives the bytes of a local run, asks for what was planned, and a killed job is submitted again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest
from cluster import cluster, install
from project import ROOT, STEPS, Tree
from test_faults import wait_until

pytestmark = pytest.mark.workflow

ATTACKS = "logs/smoke/adversarial/*/*/*.log"
# The plugin looks at its jobs after so many seconds, then 10 s later than the last time as long as none has ended.
PATIENCE = ("--slurm-init-seconds-before-status-checks", "5", "--seconds-between-status-checks", "5")
# As docs/cluster.md tells who has a small study: half of the 24 sets of examples in each of two allocations.
TOGETHER = 12
COMPONENTS = ("data=8", "train=8", "merged=8", f"attack={TOGETHER}", "predict=8", "evaluate=8", "explain=8")


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


def test_the_study_on_slurm_is_the_local_study(
    slurm: dict[str, str], new_tree: Callable[[], Tree], request: pytest.FixtureRequest
) -> None:
    """All of it, though an allocation of attacks was killed."""
    remote = new_tree()
    path = f"{slurm['PATH'].split(':')[0]}:{remote.environment['PATH']}"
    scratch = remote.path.parent / "scratch"
    scratch.mkdir()
    environment = {**remote.environment, **slurm, "PATH": path, "TMPDIR": str(scratch)}

    def asked(*command: str) -> str:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    log = remote.path.parent / "slurm.log"
    command = ["snakemake", "--profile", "profiles/slurm", "--slurm-no-account", *PATIENCE]
    command += ["--group-components", *COMPONENTS]
    with log.open("wb") as out:
        run = subprocess.Popen(command, cwd=remote.path, env=environment, stdout=out, stderr=out)
        try:
            wait_until(lambda: list(remote.path.glob(ATTACKS)) or run.poll() is not None, 600)
            listed = asked("squeue", "-h", "-t", "RUNNING", "-o", "%i %k").splitlines()
            attack = next((line.split()[0] for line in listed if "attack" in line), "")
            assert attack, (listed, log.read_text()[-3000:])
            wanted = asked("scontrol", "show", "job", attack)
            asked("scancel", "--signal=KILL", "--full", attack)
            assert run.wait(900) == 0, log.read_text()[-3000:]
        finally:
            run.terminate()
            run.wait(60)

    (planned,) = (remote.path / ".snakemake/advmerge").glob("asked-*")
    one = json.loads(planned.read_text())["attack"]
    hours, minutes = divmod(one["runtime"] * TOGETHER, 60)
    assert "TresPerJob=gres:gpu:1" in wanted
    assert f"TimeLimit={hours:02}:{minutes:02}:00" in wanted, wanted
    assert f"MinMemoryNode={one['mem_mb']}M" in wanted, wanted

    said = log.read_text()
    submitted = re.findall(r"SLURM jobid (\d+) \(log: .*/group_attack_attack/", said)
    assert attack in submitted
    assert len(submitted) == 3, said[-3000:]
    assert not asked("squeue", "-h")

    base: Tree = request.getfixturevalue("base")
    assert remote.contents() == base.contents()
    # What was run there counts as run here, and the other way round.
    assert "Nothing to be done" in remote.snakemake("-n")
    remote.edit(*STEPS)
    again = remote.snakemake("all_adversarial", "-n", "--quiet", "host")
    assert set(re.findall(r"^rule (\w+):", again, re.MULTILINE)) == {"attack", "all_adversarial"}

    # Each job had the device that SLURM gave it, and leased none; nothing was left behind.
    costs = [file.read_text().splitlines()[-1].removeprefix("cost ") for file in remote.path.glob(ATTACKS)]
    assert len(costs) == 2 * TOGETHER
    assert {json.loads(cost)["gpu"] for cost in costs} <= {"0", "1", "2", "3"}
    assert not list(scratch.glob("advmerge-*"))

"""Two GPU jobs never share a device, none is idle while a job waits, and a job that dies gives its device back."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from project import ROOT

from advmerge.errors import StudyError
from advmerge.jobs.gpu import shared

JOB = """
import sys, time
from advmerge.jobs.gpu import lease
device = lease(sys.argv[1] or None)
print(device, time.monotonic(), flush=True)
time.sleep(float(sys.argv[2]))
print(time.monotonic(), flush=True)
"""


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine whose nvidia-smi lists two devices."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    tool.chmod(0o755)
    hidden = ("ADVMERGE_DEVICE", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID")
    return {
        **{key: value for key, value in os.environ.items() if key not in hidden},
        "PATH": f"{tool.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
    }


def start(machine: dict[str, str], locks: Path | str, seconds: float, **where: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", JOB, str(locks), str(seconds)]
    return subprocess.Popen(command, env=machine, stdout=subprocess.PIPE, text=True, **where)


def test_no_device_is_held_twice_at_once(machine: dict[str, str], tmp_path: Path) -> None:
    jobs = [start(machine, tmp_path / "locks", 0.4) for _ in range(8)]
    held: dict[str, list[tuple[float, float]]] = {}
    for job in jobs:
        said, _ = job.communicate(timeout=60)
        device, begin, end = said.split()
        held.setdefault(device, []).append((float(begin), float(end)))
    assert set(held) == {"0", "1"}
    for spans in held.values():
        for (_, end), (begin, _) in itertools.pairwise(sorted(spans)):
            assert end <= begin


def test_clones_share_the_one_gpu_of_a_machine(machine: dict[str, str], tmp_path: Path) -> None:
    """And `--resources gpu=2` on it neither runs two jobs at once nor fails: the second waits."""
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\necho 0\n")
    clones = [tmp_path / "one", tmp_path / "other"]
    for clone in clones:
        clone.mkdir()
    jobs = [start({**machine, "TMPDIR": str(tmp_path)}, "", 0.3, cwd=clone) for clone in [*clones, *clones]]
    spans = []
    for job in jobs:
        said, _ = job.communicate(timeout=60)
        device, begin, end = said.split()
        assert (job.returncode, device) == (0, "0")
        spans.append((float(begin), float(end)))
    for (_, end), (begin, _) in itertools.pairwise(sorted(spans)):
        assert end <= begin
    (folder,) = tmp_path.glob("advmerge-gpu-*")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_leases_that_is_no_folder_of_this_user_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"advmerge-gpu-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StudyError, match=r"advmerge-gpu-\d+: is another user's; remove it, or set TMPDIR"):
        shared()


def test_an_allocation_of_several_gpus_shares_out_its_own(machine: dict[str, str], tmp_path: Path) -> None:
    """Device 0 of one allocation may be another one than device 0 of the next."""
    allocations = [{**machine, "SLURM_JOB_ID": number, "TMPDIR": str(tmp_path)} for number in ("7", "7", "8", "8")]
    jobs = [start(environment, "", 60) for environment in allocations]
    try:
        devices = [job.stdout.readline().split()[0] for job in jobs if job.stdout]
    finally:
        for job in jobs:
            job.kill()
            job.wait()
    assert [sorted(devices[:2]), sorted(devices[2:])] == [["0", "1"], ["0", "1"]]


@pytest.mark.parametrize("ending", ["killed", "done"])
def test_a_job_that_ends_frees_its_device(machine: dict[str, str], tmp_path: Path, ending: str) -> None:
    holders = [start(machine, tmp_path / "locks", 60) for _ in range(2)]
    try:
        devices = [job.stdout.readline().split()[0] for job in holders if job.stdout]
        assert sorted(devices) == ["0", "1"]
        third = start(machine, tmp_path / "locks", 0)
        with pytest.raises(subprocess.TimeoutExpired):
            third.wait(timeout=1)
        holders[0].send_signal(signal.SIGKILL if ending == "killed" else signal.SIGINT)
        said, _ = third.communicate(timeout=30)
        assert said.split()[0] == devices[0]
        assert holders[1].poll() is None
    finally:
        for job in holders:
            job.kill()
            job.wait()


@pytest.mark.parametrize(
    "chosen",
    [{"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "1"}, {"CUDA_VISIBLE_DEVICES": ""}, {"ADVMERGE_DEVICE": "cpu"}],
)
def test_nothing_is_leased_where_another_has_chosen(
    machine: dict[str, str], tmp_path: Path, chosen: dict[str, str]
) -> None:
    said, _ = start({**machine, **chosen}, tmp_path / "locks", 0).communicate(timeout=30)
    assert said.split()[0] == "None"
    assert not (tmp_path / "locks").exists()

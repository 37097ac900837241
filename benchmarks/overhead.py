"""What the workflow adds to the work it does: CPU time of a whole cold study over that of its training, crafting
and inference, and where the time goes.

    python benchmarks/overhead.py [studies/smoke.yaml]

The study (params.yaml unless named) is run in a copy of this checkout, from nothing. Work is what the jobs count as
training, crafting or inference (``advmerge.script.work``); the rest is Snakemake, start-up, reading, writing, hashing,
tables and figures.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("src", "workflow", "profiles", "studies", "envs", "Snakefile", "params.yaml", "claims.yaml")


def copy_checkout(folder: Path) -> None:
    """Copy what a study needs to run."""
    for part in PARTS:
        source = ROOT / part
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / part)


def run(folder: Path, study: str) -> tuple[float, float]:
    """Run a study in a folder: (CPU seconds of the whole tree of processes, wall seconds)."""
    command = [str(Path(sys.executable).with_name("snakemake")), "--configfile", study, "--cores", "all"]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([*command, "--resources", "gpu=2"], cwd=folder, capture_output=True, text=True)
    after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, end - start


def costs(folder: Path) -> dict[str, dict[str, float]]:
    """Phase → number of jobs, CPU and work seconds, highest peak in MB, from the last lines of the logs."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: {"jobs": 0, "cpu_s": 0.0, "work_s": 0.0, "peak_mb": 0})
    (logs,) = (folder / "logs").iterdir()
    for log in logs.rglob("*.log"):
        line = log.read_text(encoding="utf-8").splitlines()[-1]
        cost = json.loads(line.removeprefix("cost "))
        phase = found[log.relative_to(logs).parts[0].removesuffix(".log")]
        phase["jobs"] += 1
        phase["cpu_s"] += cost["cpu_s"]
        phase["work_s"] += cost["work_s"]
        phase["peak_mb"] = max(phase["peak_mb"], cost["peak_mb"])
    return dict(found)


def main() -> None:
    study = sys.argv[1] if len(sys.argv) > 1 else "params.yaml"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_checkout(folder)
        cold, wall = run(folder, study)
        phases = costs(folder)
        warm, warm_wall = run(folder, study)
    print(f"{study}, {os.cpu_count()} cores, load before {os.getloadavg()[2]:.1f} (15 min)\n")
    print(f"{'phase':<18}{'jobs':>6}{'CPU s':>9}{'work s':>9}{'peak MB':>9}")
    for phase, cost in sorted(phases.items(), key=lambda item: -item[1]["cpu_s"]):
        print(f"{phase:<18}{cost['jobs']:>6.0f}{cost['cpu_s']:>9.1f}{cost['work_s']:>9.1f}{cost['peak_mb']:>9.0f}")
    work = sum(cost["work_s"] for cost in phases.values())
    inside = sum(cost["cpu_s"] for cost in phases.values())
    print(f"\ncold: {wall:.0f} s wall, {cold:.0f} s CPU: {work:.0f} s work, {inside - work:.0f} s more inside jobs,")
    print(f"      {cold - inside:.0f} s Snakemake, imports and process starts; whole / work = {cold / work:.2f}")
    print(f"again, with nothing to do: {warm_wall:.1f} s wall, {warm:.1f} s CPU")


if __name__ == "__main__":
    main()

"""What Snakemake's main process does before and around a run: check the study, guard the outputs, keep warm processes."""

from __future__ import annotations

import base64
import fcntl
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

from advmerge.artifacts import sha256
from advmerge.errors import StudyError, absent
from advmerge.jobs.gpu import devices
from advmerge.jobs.warm import LIBRARIES
from advmerge.study import Study, fingerprint

STATE = Path(".snakemake")
LIBRARY = Path(__file__).parents[1]

_lock: int | None = None
_warm: tuple[list[subprocess.Popen[bytes]], str] | None = None


def prepare(study: Study, path: str, *, touch: bool) -> None:
    """Before the first job of a run, in Snakemake's main process.

    Raises:
        StudyError: a name or an option of the study that no registry knows, or outputs that cannot be trusted.
    """
    outputs = [*study.artifacts(), *study.report_files()]
    try:
        _check_once(study, path)
        if _clear_stale_locks():
            _sweep(outputs)
    except OSError as error:
        raise StudyError(f"{error.filename or STATE}: the run's own notes cannot be kept: {error.strerror}") from error
    if not touch:
        guard(outputs)
        wake(outputs)


def _note(kind: str, study: Study) -> Path:
    """The file that holds what was found out about this study by this library."""
    library = {str(file.relative_to(LIBRARY)): sha256(file) for file in sorted(LIBRARY.rglob("*.py"))}
    return STATE / "advmerge" / f"{kind}-{fingerprint(study, library)[:16]}"


def _ask(module: str, *arguments: str) -> None:
    """Run a module of the library in a process of its own: this one would grow by torch, and be slower to start jobs."""
    environment = dict(os.environ, PYTHONPATH=str(LIBRARY.parent))
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise StudyError(done.stderr.strip().removeprefix("error: "))


def _check_once(study: Study, path: str) -> None:
    """Ask the registries, timm and ART whether they know every name; once for each study and library."""
    mark = _note("checked", study)
    if mark.exists():
        return
    _ask("advmerge.study", path)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def requests(study: Study, path: str, *, main: bool) -> dict[str, dict[str, int]]:
    """What jobs ask a cluster for, rule → resource → amount: see :mod:`advmerge.plan.requests`.

    The main process plans, seconds once for each study and library; those inside allocations read what it found.

    Raises:
        StudyError: ``ADVMERGE_GPU_TFLOPS``, the peak of a GPU there, is no number above 0, or the study cannot be planned.
    """
    peak = os.environ.get("ADVMERGE_GPU_TFLOPS", "10")
    try:
        known = 0 < float(peak) < math.inf
    except ValueError:
        known = False
    if not known:
        raise StudyError(f"ADVMERGE_GPU_TFLOPS: '{peak}' is not a number above 0")
    note = _note(f"asked-{float(peak):g}", study)
    if main and not note.exists():
        _ask("advmerge.plan", path, peak, str(note))
    return json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}


def _clear_stale_locks() -> bool:
    """Remove the locks of a run that was killed; whether no other run is alive here.

    Snakemake's lock files outlive a kill -9. A lock of ours does not: the kernel holds it for the main process.
    Whoever gets it knows that lock files that are there are stale.
    """
    global _lock
    STATE.mkdir(exist_ok=True)
    file = os.open(STATE / "advmerge.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)  # another run is alive: Snakemake's own locks decide
        return False
    _lock = file
    for lock in STATE.glob("locks/*.lock"):
        lock.unlink(missing_ok=True)
    return True


def _sweep(outputs: list[str]) -> None:
    """Remove what killed jobs left half-written beside the outputs: see :func:`advmerge.artifacts.replacing`."""
    for folder in {Path(path).parent for path in outputs}:
        for file in folder.glob(".*.tmp"):
            file.unlink(missing_ok=True)


def _records(folder: Path) -> dict[str, Path]:
    """Output → Snakemake's record of it; their names are the outputs' paths in base64, long ones split by '@'."""
    found = {}
    for file in folder.rglob("*"):
        if file.is_file():
            text = "".join(part.removeprefix("@") for part in file.relative_to(folder).parts)
            try:
                found[base64.urlsafe_b64decode(text).decode()] = file
            except ValueError:
                continue
    return found


def _content(record: Path) -> dict[str, Any] | None:
    """What a record says; None of one that is damaged, which Snakemake would delete."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def guard(outputs: list[str]) -> None:
    """Refuse outputs that would make Snakemake's decisions wrong.

    An output without a record counts as up to date whatever it was made from; a hard link to DVC's cache is
    refreshed with it, and a change to it changes the cache.

    Raises:
        StudyError: naming the first such file and what to run, or what is in the way of a folder or file.
    """
    for folder in {Path(path).parts[0] for path in outputs}:
        if Path(folder).exists() and not Path(folder).is_dir():
            raise StudyError(f"{folder}: is no folder; move it away, outputs belong there")
    present = [path for path in outputs if os.path.lexists(path)]
    for path in present:
        if Path(path).is_dir():
            raise StudyError(f"{path}: is a folder; move it away, a file belongs there")
        if Path(path).is_symlink() or os.lstat(path).st_nlink > 1:
            raise StudyError(
                f"{path}: is a link into a cache, and runs would go stale unnoticed; "
                "run: dvc config cache.type reflink,copy && dvc checkout --relink"
            )
    recorded = {path for path, record in _records(STATE / "metadata").items() if _content(record)}
    known = recorded | _records(STATE / "incomplete").keys()
    lost = [path for path in present if path not in known]
    if lost:
        raise StudyError(
            f"{lost[0]}: there is no record of what it was made from (.snakemake/metadata), nor of {len(lost) - 1} "
            "other outputs; run: dvc checkout record (or dvc pull record), or delete these files to make them again"
        )


def wake(outputs: list[str]) -> None:
    """Touch every source file that differs from the one which an output was made with.

    Snakemake compares the contents of an input only if it is newer than the output. After an edit, a pull or a
    checkout of outputs makes them the newer ones, and the edit would go unseen. Files of times to come are given the
    present first: Snakemake refuses what a job makes of them. After a clock has jumped back, a killed run may also have
    left artifacts that look older than those made from their predecessors, so artifacts are then compared too.
    """
    digest = cache(sha256)
    woken = set()
    records = _records(STATE / "metadata")
    inputs = {
        output: (_content(records[output]) or {}).get("input_checksums") or {}
        for output in records.keys() & set(outputs)
    }
    known = {path for output, checksums in inputs.items() for path in (output, *checksums)}
    ours = {path for path in known if not Path(path).is_absolute() and Path(path).is_file()}
    now = time.time()
    ahead = {path for path in ours if Path(path).stat().st_mtime > now}
    for path in ahead:
        os.utime(path, (now - 1, now - 1))  # earlier than what is touched below
    for checksums in inputs.values():
        for path, recorded in checksums.items():
            asked = path in ours and (path not in records or ahead)
            if asked and path not in woken and f"sha256:{digest(path)}" != recorded:
                os.utime(path)
                woken.add(path)


def spare_the_scheduler(scheduler: Any) -> None:
    """Lift Snakemake's limit on job submissions (100 a second), which a run on one machine does not need.

    Under it, every look at the ready jobs orders another look a second later, for ever: after 450 jobs there are
    hundreds a second, and they cost more than all the jobs' starts together (Snakemake 9.27, job_scheduler.schedule).
    There is no option that switches the limit off.
    """
    scheduler.job_rate_limiter = None


def require_device(asked: str) -> None:
    """Refuse a study that asks for a GPU where there is none, before any job is started.

    Raises:
        StudyError: naming the key.
    """
    if asked in ("cuda", "mps") and not devices(asked):
        raise absent(asked)


def set_up_jobs(device: str = "auto") -> None:
    """The environment that jobs inherit.

    The device is the study's, and travels here rather than in their settings, since an artifact does not depend on it.
    One thread a job: two processes of one thread each beat one process of two by far. ``python`` is the one that
    runs Snakemake, whether or not its environment is activated.
    """
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    os.environ["ADVMERGE_DEVICE"] = device
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # what Apple's GPUs cannot do is done on the CPU
    os.environ["TIMM_FUSED_ATTN"] = "0"  # a quarter faster in input gradients on the CPU
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def start_warm_processes() -> None:
    """Start the processes that import libraries once and fork the jobs: see ``warm.py``."""
    global _warm
    if not hasattr(os, "pidfd_open") or os.environ.get("ADVMERGE_WARM") == "off":
        return
    long = len(os.fsencode(tempfile.gettempdir())) > 80  # a socket's path may have 107 bytes
    folder = tempfile.mkdtemp(prefix="advmerge-", dir="/tmp" if long else None)  # only this user may enter it
    script = str(Path(__file__).with_name("warm.py"))
    processes = []
    for kind in LIBRARIES:
        command = [sys.executable, script, str(Path(folder, kind)), str(os.getpid()), kind]
        processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))
    for kind, process in zip(LIBRARIES, processes, strict=True):
        while not Path(folder, kind).exists() and process.poll() is None:
            time.sleep(0.005)
    os.environ["ADVMERGE_WARM"] = folder
    _warm = processes, folder


def stop_warm_processes() -> None:
    """End the warm processes, if they were started."""
    global _warm
    if _warm is not None:
        processes, folder = _warm
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.pop("ADVMERGE_WARM", None)
        _warm = None

"""One GPU a job: a lease that the kernel takes back when the job ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from advmerge.errors import StudyError

_held: list[int] = []  # file descriptors whose locks this process holds

APPLE = "mps"  # the one GPU of a Mac


def visible() -> list[str]:
    """The CUDA devices this job may choose from, as CUDA_VISIBLE_DEVICES names them; none on a machine without.

    Asks ``nvidia-smi``, not torch: a CUDA library that has been asked once no longer listens to the variable.
    """
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name.strip() for name in allowed.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=60
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return listed.stdout.split() if listed.returncode == 0 else []


def devices(asked: str = "auto") -> list[str]:
    """The GPUs that a job may take when the study asks for this device; none where it computes on the CPU."""
    if asked in ("auto", "cuda") and (found := visible()):
        return found
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    return [APPLE] if apple and asked in ("auto", "mps") else []


def shared() -> Path:
    """The folder of this user's leases on this machine: clones share its GPUs, so they share it.

    Raises:
        StudyError: somebody else has made it.
    """
    folder = Path(tempfile.gettempdir(), f"advmerge-gpu-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise StudyError(f"{folder}: is another user's; remove it, or set TMPDIR to a folder of your own")
    return folder


def lease(folder: Path | str | None = None) -> str | None:
    """Take a GPU for this process's lifetime and point CUDA_VISIBLE_DEVICES at it; wait for one as long as it takes.

    One lock file a device, held by ``flock``; it is inherited by programs this process executes. Whoever holds one is
    alive, so waiting has an end. In an allocation of SLURM's with one GPU there is nothing to choose; one with several
    has leases of its own, since two allocations may call different devices by one number. For a study on the CPU
    (ADVMERGE_DEVICE) or on a machine without GPUs there is nothing to lease.

    Args:
        folder: where the lock files live; :func:`shared` if not given.

    Returns:
        The device's name, or None where no lease was needed.
    """
    found = devices(os.environ.get("ADVMERGE_DEVICE", "auto"))
    allocation = os.environ.get("SLURM_JOB_ID")
    if not found or (allocation and len(found) == 1):
        return None
    folder = Path(folder) if folder else shared()
    if allocation:
        folder = folder / f"slurm-{allocation}"
    folder.mkdir(parents=True, exist_ok=True)
    told = time.monotonic() + 10
    while True:
        for device in found:
            file = os.open(folder / f"{device}.lock", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                continue
            os.set_inheritable(file, True)
            _held.append(file)
            if device != APPLE:
                os.environ["CUDA_VISIBLE_DEVICES"] = device
            return device
        if time.monotonic() > told:
            print(f"waiting: other jobs hold the GPUs {', '.join(found)}", file=sys.stderr)
            told = float("inf")
        time.sleep(0.2)

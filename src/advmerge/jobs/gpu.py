"""One GPU a job: a lease that the kernel takes back when the job ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from pathlib import Path

from advmerge.errors import StudyError

_held: list[int] = []  # file descriptors whose locks this process holds


def visible() -> list[str]:
    """The GPUs this job may choose from, as CUDA_VISIBLE_DEVICES names them; none on a machine without.

    Asks ``nvidia-smi``, not torch: a CUDA library that has been asked once no longer listens to the variable.
    """
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name for name in allowed.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=60
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return listed.stdout.split() if listed.returncode == 0 else []


def lease(folder: Path | str = ".snakemake/gpu", patience: float = 3600.0) -> str | None:
    """Take a GPU for this process's lifetime and point CUDA_VISIBLE_DEVICES at it.

    One lock file a device, held by ``flock``; it is inherited by programs this process executes. Under SLURM the
    scheduler has chosen, and on a machine without GPUs there is nothing to lease.

    Args:
        folder: where the lock files live; all jobs of a machine that share GPUs share it.
        patience: seconds to wait for a free device.

    Returns:
        The device's name, or None where no lease was needed.

    Raises:
        StudyError: no device became free.
    """
    devices = visible()
    if not devices or "SLURM_JOB_ID" in os.environ:
        return None
    Path(folder).mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    while True:
        for device in devices:
            file = os.open(Path(folder, f"{device}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                continue
            os.set_inheritable(file, True)
            _held.append(file)
            os.environ["CUDA_VISIBLE_DEVICES"] = device
            return device
        if time.monotonic() > deadline:
            raise StudyError(f"no GPU of {', '.join(devices)} became free within {patience:.0f} s")
        time.sleep(0.2)

"""What a job computes on: its device, the precision of its passes, determinism, and the record of all three.

The study asks (``hardware`` in params.yaml); what was used is recorded in each artifact that was computed on a device.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from advmerge.errors import absent
from advmerge.passes import least


class Hardware(NamedTuple):
    """What this job computes on.

    Attributes:
        device: cuda, mps or cpu; of several CUDA devices the one that the job leased.
        dtype: of the multiplications inside encoders: float32, or bfloat16 by autocast.
        deterministic: whether equal inputs give equal bytes, at the price of speed.
    """

    device: torch.device
    dtype: torch.dtype
    deterministic: bool

    def record(self) -> dict[str, Any]:
        """What an artifact says of its making: ``made_on``.

        Nothing in it differs between two runs on one machine, unless memory ran short in one of them:
        ``images_a_pass`` is then the fewest images that went through a model at once.
        """
        cuda = self.device.type == "cuda"
        made_on = {
            "device": self.device.type,
            "name": torch.cuda.get_device_name(self.device) if cuda else processor(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda if cuda else None,
            "cudnn": torch.backends.cudnn.version() if cuda else None,
            "precision": str(self.dtype).removeprefix("torch."),
            "deterministic": self.deterministic,
            "threads": torch.get_num_threads(),
            "images_a_pass": least(),
        }
        return {"made_on": {key: value for key, value in made_on.items() if value is not None}}


def processor() -> str:
    """The CPU's name, and the instructions that torch uses on it: other ones round otherwise."""
    said = Path("/proc/cpuinfo")
    lines = said.read_text(encoding="utf-8").splitlines() if said.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [platform.machine()])[0]}, {torch.backends.cpu.get_cpu_capability()}"


def choose(asked: str = "auto") -> torch.device:
    """A device: CUDA if there is one, else Apple's, else the CPU; or the one that is asked for.

    Raises:
        StudyError: it is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kind = next(kind for kind, found in there.items() if found) if asked == "auto" else asked
    if not there[kind]:
        raise absent(asked)
    return torch.device(kind)


def precision(asked: str, device: torch.device) -> torch.dtype:
    """The type that ``float32``, ``bfloat16`` or ``auto`` stands for: bfloat16 where CUDA multiplies it in hardware."""
    if asked == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        asked = "bfloat16" if fast else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[asked]


def set_up(wanted: Mapping[str, Any]) -> Hardware:
    """Choose the device and set torch's switches, before the first computation.

    Args:
        wanted: ``deterministic``, and the ``precision`` of this job if it has a choice (``Study.hardware_slice``). The
            device is no part of what an artifact depends on, and comes in the environment: ADVMERGE_DEVICE.

    Raises:
        StudyError: the device that the study asks for is not there.
    """
    device = choose(os.environ.get("ADVMERGE_DEVICE", "auto"))
    deterministic = wanted["deterministic"]
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts, which it has not
    # As use_deterministic_algorithms, which would spend a second on importing the compiler.
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    # Nothing here reads what it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32: TF32 has the 10 bits of float16
    return Hardware(device, precision(wanted.get("precision", "float32"), device), deterministic)
